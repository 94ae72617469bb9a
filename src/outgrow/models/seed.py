"""A built-in seed: the small network that a run starts from, rebuilt from a few JSON values."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from outgrow.errors import InputError
from outgrow.models.convnet import ConvNet
from outgrow.models.mlp import MLP
from outgrow.models.resnet import ResNet
from outgrow.models.seed_network import SeedNetwork, units_of
from outgrow.stored import Stored

NAMES = ("mlp", "convnet", "resnet")


@dataclass(frozen=True)
class Seed(SeedNetwork):
    """A built-in seed network.

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
        >>> import torch
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
            raise InputError(
                f"unknown model '{self.model}': choose one of {', '.join(NAMES)}, or name your own as "
                f"package.module:factory"
            )
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

    @property
    def core_name(self) -> str:
        """What the core is called in the network: its kind."""
        return self.model

    @property
    def smaller(self) -> str:
        """What to do where the network is too large."""
        return f"start with smaller widths than {' '.join(map(str, self.widths))}"

    def core(self) -> nn.Module:
        """Return a freshly initialised core: standardized inputs [examples, *inputs] to [examples, outputs]."""
        if self.model == "mlp":
            return MLP(math.prod(self.inputs), self.widths, self.outputs)
        kind = ConvNet if self.model == "convnet" else ResNet
        net = kind(self.inputs[0], self.widths, self.outputs)
        if dist.is_available() and dist.is_initialized():  # DDP asks for weights in the format of their gradients
            for at, layer in enumerate(module for module in net.modules() if isinstance(module, nn.Conv2d)):
                if layer.kernel_size == (1, 1) or (at == 0 and layer.in_channels == 1):  # both are one in memory
                    layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
        return net

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; `Seed.from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | Stored) -> "Seed":
        """Build a seed from what `to_json` gave."""
        stored = values if isinstance(values, Stored) else Stored(values, "seed network")
        return cls(stored.text("model"), widths=stored.wholes("widths", least=1), **units_of(stored))
