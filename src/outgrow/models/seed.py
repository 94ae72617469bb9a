"""A seed: the small network that a run starts from, rebuilt from a few JSON values."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from outgrow.errors import InputError
from outgrow.models.affine import Affine
from outgrow.models.convnet import ConvNet
from outgrow.models.mlp import MLP
from outgrow.models.resnet import ResNet

NAMES = ("mlp", "convnet", "resnet")


@dataclass(frozen=True)
class Seed:
    """How to build a seed network, with the constants that let it take raw inputs and give raw outputs.

    The network is `input standardization -> model -> output scaling`: images come in as 0..1, tables as they are, and
    a regression answers in the target's own units.

    Args:
        model: One of `mlp`, `convnet`, `resnet`.
        inputs: Shape of one example, [features] or [channels, height, width].
        outputs: Number of classes or targets.
        widths: Starting widths; empty for the smallest sensible ones.
        input_mean: Mean of each channel or feature; empty for 0.
        input_std: Standard deviation of each channel or feature; empty for 1.
        output_mean: Mean of each target (regression); empty for 0.
        output_std: Standard deviation of each target (regression); empty for 1.

    Raises:
        InputError: The model is unknown or can't read such inputs, or the widths don't fit it.

    Examples:
        >>> Seed("mlp", (4,), 3, widths=(2,)).build()(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    model: str
    inputs: tuple[int, ...]
    outputs: int
    widths: tuple[int, ...] = ()
    input_mean: tuple[float, ...] = ()
    input_std: tuple[float, ...] = ()
    output_mean: tuple[float, ...] = ()
    output_std: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.model not in NAMES:
            raise InputError(f"unknown model '{self.model}': choose one of {', '.join(NAMES)}")
        if self.model != "mlp" and len(self.inputs) != 3:
            raise InputError(f"{self.model} reads images, but an example here has shape {list(self.inputs)}: use mlp")
        if not self.widths:
            object.__setattr__(self, "widths", self._starting_widths())
        if min(self.widths) < 1:
            raise InputError(f"expected starting widths of at least 1, got {' '.join(map(str, self.widths))}")
        if self.model == "convnet" and len(self.widths) % 2:
            raise InputError(
                f"convnet has two convolutions a stage: expected an even number of widths, got {len(self.widths)}"
            )

        if self.model == "convnet" and min(self.inputs[1:]) >> (len(self.widths) // 2 - 1) < 1:
            raise InputError(
                f"convnet halves the image after every two convolutions: {len(self.widths)} widths are too many for "
                f"{self.inputs[1]}x{self.inputs[2]} pixels"
            )

    def _starting_widths(self) -> tuple[int, ...]:
        if self.model == "mlp":
            return (8, 8)
        stages = min(max((min(self.inputs[1:]) // 4).bit_length(), 1), 3)  # as long as 4 pixels are left
        if self.model == "resnet":
            return (4, 8, 16)[:stages]
        return (4, 4, 8, 8, 16, 16)[: 2 * stages]

    def build(self) -> nn.Sequential:
        """Return a freshly initialised network (from torch's global random state)."""
        image = len(self.inputs) == 3
        channels = self.inputs[0] if image else math.prod(self.inputs)
        core: nn.Module
        if self.model == "mlp":
            core = MLP(math.prod(self.inputs), self.widths, self.outputs)
        elif self.model == "convnet":
            core = ConvNet(channels, self.widths, self.outputs)
        else:
            core = ResNet(channels, self.widths, self.outputs)
        net = nn.Sequential()
        standardize = Affine.standardize(
            _vector(self.input_mean, 0.0, channels), _vector(self.input_std, 1.0, channels), 2 if image else 0
        )
        net.add_module("input", standardize)
        net.add_module(self.model, core)
        if self.output_mean or self.output_std:
            scale, shift = _vector(self.output_std, 1.0, self.outputs), _vector(self.output_mean, 0.0, self.outputs)
            net.add_module("output", Affine(scale, shift))
        return net

    def example(self) -> torch.Tensor:
        """Return one input of zeros, [1, *inputs]."""
        return torch.zeros(1, *self.inputs)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; `Seed.from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Seed":
        """Build a seed from what `to_json` gave."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


def _vector(values: Sequence[float], default: float, size: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32) if values else torch.full((size,), default)
