"""One thread for each worker: the tests run in parallel, and small operations only wait for each other's threads."""

import os
import random
from collections.abc import Callable

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, and by the commands that tests start

import torch


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws without a seed of its own does not depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """No word about a wait, which on a busy machine may come in any command."""
    monkeypatch.setattr("outgrow.show.waiting.PATIENCE", 3_600.0)


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys) -> Callable[[str], str]:
    """Run code as a script of its own in an empty folder, and return what it prints.

    It runs in this process, since a fresh interpreter imports torch and its friends for seconds.
    """

    def run(code: str) -> str:
        monkeypatch.chdir(tmp_path)
        exec(compile(code, "shown", "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    return run
