"""One thread for each worker: the tests run in parallel, and small operations only wait for each other's threads."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, and by the commands that tests start


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """No word about a wait, which on a busy machine may come in any command."""
    monkeypatch.setattr("outgrow.show.waiting.PATIENCE", 3_600.0)
