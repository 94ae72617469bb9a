"""The architecture that a run grew to, with weights that are drawn anew."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.models import SeedNetwork
from outgrow.net.carry import adopt_shapes_
from outgrow.net.deepen import deepen_
from outgrow.net.setting import Setting
from outgrow.net.surgery import tensors_of


@dataclass(frozen=True)
class Grown(SeedNetwork):
    """The architecture that a run grew to, as a seed: every weight is drawn anew when it is built.

    Args:
        seed: What the run began with.
        blocks: Places of the inserted blocks, in the order in which they came.
        shapes: Shape of every tensor, by name.
        settings: Sizes that modules keep beside their weights.
    """

    seed: SeedNetwork
    blocks: Sequence[str]
    shapes: Mapping[str, Sequence[int]]
    settings: Sequence[Setting] = ()

    def __post_init__(self) -> None:
        for name in SeedNetwork.__annotations__:
            object.__setattr__(self, name, getattr(self.seed, name))

    @property
    def core_name(self) -> str:
        """What the core is called in the network."""
        return self.seed.core_name

    @property
    def smaller(self) -> str:
        """What to do where the network is too large."""
        return "choose a smaller size"

    def core(self) -> nn.Module:
        """Return a freshly initialised core."""
        net = self.seed.build()
        for place in self.blocks:
            deepen_(net, place, example=self.example())
        drawn = {name: tensor.detach().clone() for name, tensor in tensors_of(net).items()}
        adopt_shapes_(net, {name: _shaped(drawn.get(name), shape) for name, shape in self.shapes.items()})
        for setting in self.settings:
            setting.write(net)
        _draw_(net, drawn)
        return net.get_submodule(self.core_name)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "seed": self.seed.to_json(),
            "blocks": list(self.blocks),
            "shapes": dict(self.shapes),
            "settings": [asdict(s) for s in self.settings],
        }


def _shaped(tensor: Tensor | None, shape: Sequence[int]) -> Tensor:
    """Return a tensor if it has a shape already (the constants of a seed have), else zeros."""
    return tensor if tensor is not None and list(tensor.shape) == list(shape) else torch.zeros(*shape)


@torch.no_grad()
def _draw_(net: nn.Module, drawn: Mapping[str, Tensor]) -> None:
    """Initialise every layer as it initialises itself.

    Where it can't, a parameter that has its first shape stays as it was drawn, and another one is drawn from a normal
    distribution of the same mean and standard deviation.
    """
    for path, module in net.named_modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
            continue
        for name, parameter in module.named_parameters(path, recurse=False):
            if (first := drawn.get(name)) is not None and first.shape != parameter.shape:
                std, mean = torch.std_mean(first, correction=0)
                parameter.normal_().mul_(std).add_(mean)
