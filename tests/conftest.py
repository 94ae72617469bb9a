"""One thread for each worker: the tests run in parallel, and small operations only wait for each other's threads."""

import os
import random

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
