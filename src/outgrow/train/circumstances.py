"""Under which circumstances a run goes on: its data and its machine, as the journal tells them."""

import platform
from typing import Any

import torch

from outgrow import __version__
from outgrow.data import Dataset
from outgrow.train.evaluate import METRICS
from outgrow.train.ranks import Ranks


def of_data(data: Dataset) -> dict[str, Any]:
    """Return what data a run learns, and how they are divided."""
    return {
        "data": data.name,
        "task": data.task,
        "metric": METRICS[data.task],
        "train_examples": len(data.train),
        "validation_examples": len(data.validation),
        "test_examples": len(data.test) if data.test is not None else 0,
        **({"left_out": left_out} if (left_out := data.description.get("dropped")) else {}),
    }


def of_machine(device: str) -> dict[str, Any]:
    """Return all that may change the last bits of a result: where and by what it is computed, by how many of them.

    Args:
        device: Where the network is trained.

    Returns:
        JSON values.
    """
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "processes": Ranks().count,
        "versions": {"outgrow": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
