"""A digest of a data set, by which a run that goes on knows that it is the same."""

import hashlib

import torch

from outgrow.data.dataset import Dataset


def digest(dataset: Dataset) -> str:
    """Return SHA-256 of every example and label, in their order and by part.

    Args:
        dataset: The data set.

    Returns:
        64 hexadecimal digits.
    """
    found = hashlib.sha256()
    for split in (dataset.train, dataset.validation, dataset.test):
        for tensor in () if split is None else (split.x, split.y):
            found.update(f"{tensor.dtype} {list(tensor.shape)} ".encode())
            found.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
