"""What is given on a command line that several commands read: data, device, sizes."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from outgrow import data
from outgrow.errors import InputError
from outgrow.values import count

if TYPE_CHECKING:
    from outgrow.cli import Grow


def dataset_of(options: "Grow") -> data.Dataset:
    """Return the data that the command line names."""
    return data.load(
        options.data,
        data_dir=str(options.data_dir) if options.data_dir else None,
        target=options.target,
        task=options.task,
        seed=options.seed,
        augment=options.augment,
    )


def device_of(name: str) -> str:
    """Return where to compute; of several processes on a machine, each has a GPU of its own.

    Args:
        name: A device as torch calls it, or auto.

    Returns:
        The device.

    Raises:
        InputError: torch can't compute there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(0, dtype=torch.float64, device=name)  # the factors are float64, which not every device has
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(
            f"--device {name}: torch can't compute there in float64, as checks do; use cpu, cuda or auto"
        ) from error
    return name


def sizes_of(words: Sequence[str]) -> tuple[int, ...]:
    """Read the sizes that a command line asks for.

    Args:
        words: Numbers, apart by commas where a word holds several.

    Returns:
        The sizes [parameters].

    Examples:
        >>> sizes_of(["10k,30k", "1.5M"])
        (10000, 30000, 1500000)
    """
    return tuple(count(word, "--sizes") for words_ in words for word in words_.split(",") if word)
