"""Inputs on which a network and a file are compared."""

import torch
from torch import Tensor

from outgrow.models.seed_network import units_of
from outgrow.stored import Stored
from outgrow.train.family import Family

ROWS = (7, 1, 2)
"""How many rows the batches have: one row alone is where exported graphs are wrong most easily."""


def batches_of(family: Family) -> list[Tensor]:
    """Draw random inputs like those of a run.

    Args:
        family: The family of the run.

    Returns:
        Batches of `ROWS` rows: images of 0..1, or normal rows with the mean and deviation of the training part.
    """
    units = units_of(Stored(family.config, str(family.path / "config.json")).within("seed_network"))
    generator = torch.Generator().manual_seed(0)
    if len(family.inputs) == 3:
        return [torch.rand(rows, *family.inputs, generator=generator) for rows in ROWS]
    mean, deviation = torch.tensor(units["input_mean"] or 0.0), torch.tensor(units["input_std"] or 1.0)
    return [mean + deviation * torch.randn(rows, *family.inputs, generator=generator) for rows in ROWS]
