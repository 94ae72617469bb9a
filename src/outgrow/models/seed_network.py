"""What a run starts from: a small network with the constants that let it take raw inputs and give raw outputs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.models.affine import Affine
from outgrow.stored import Stored


class SeedNetwork(ABC):
    """How to build the network of a run: `input standardization -> core -> output scaling`.

    Images come in as 0..1, tables as they are, and a regression answers in the target's own units.

    Attributes:
        model: What it is called: one of the built-in networks, or `package.module:factory`.
        inputs: Shape of one example, [features] or [channels, height, width].
        outputs: Number of classes or targets.
        input_mean: Mean of each channel or feature; empty for 0.
        input_std: Standard deviation of each channel or feature; empty for 1.
        output_mean: Mean of each target (regression); empty for 0.
        output_std: Standard deviation of each target (regression); empty for 1.
    """

    model: str
    inputs: tuple[int, ...]
    outputs: int
    input_mean: tuple[float, ...]
    input_std: tuple[float, ...]
    output_mean: tuple[float, ...]
    output_std: tuple[float, ...]

    @property
    @abstractmethod
    def core_name(self) -> str:
        """What the core is called in the network."""

    @property
    @abstractmethod
    def smaller(self) -> str:
        """What to do where the network is too large."""

    @abstractmethod
    def core(self) -> nn.Module:
        """Return a freshly initialised core: standardized inputs [examples, *inputs] to [examples, outputs]."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return JSON values, which `seed_from_json` reads back."""

    def build(self) -> nn.Sequential:
        """Return a freshly initialised network (from torch's global random state)."""
        image = len(self.inputs) == 3
        channels = self.inputs[0] if image else math.prod(self.inputs)
        net = nn.Sequential()
        standardize = Affine.standardize(
            _vector(self.input_mean, 0.0, channels), _vector(self.input_std, 1.0, channels), 2 if image else 0
        )
        net.add_module("input", standardize)
        net.add_module(self.core_name, self.core())
        if self.output_mean or self.output_std:
            scale, shift = _vector(self.output_std, 1.0, self.outputs), _vector(self.output_mean, 0.0, self.outputs)
            net.add_module("output", Affine(scale, shift))
        return net

    def example(self) -> Tensor:
        """Return one input of zeros, [1, *inputs]."""
        return torch.zeros(1, *self.inputs)


def units_of(stored: Stored) -> dict[str, Any]:
    """Read the fields that every seed network has, but for its model.

    Args:
        stored: What `to_json` gave.

    Returns:
        The fields by name.
    """
    numbers = {key: stored.numbers(key) for key in ("input_mean", "input_std", "output_mean", "output_std")}
    return {"inputs": stored.wholes("inputs", least=1), "outputs": stored.whole("outputs", least=1), **numbers}


def _vector(values: Sequence[float], default: float, size: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float32) if values else torch.full((size,), default)
