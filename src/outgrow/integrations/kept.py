"""Networks that are kept in memory, after the folder of the run that made them is gone."""

import copy
from typing import Any

from torch import nn

from outgrow.models import Factory, Seed, SeedNetwork
from outgrow.train.size import Size


class Kept:
    """Loads a size from memory.

    Args:
        net: Its network.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    def __call__(self, size: Size, seed: Factory | None = None) -> nn.Module:
        """Return a copy of the network."""
        return copy.deepcopy(self._net)


class Continued(SeedNetwork):
    """A network that was trained before, as what a run starts from.

    Args:
        seed: What it grew from.
        net: The network.
    """

    def __init__(self, seed: Seed, net: nn.Module) -> None:
        self.model, self.inputs, self.outputs = seed.model, seed.inputs, seed.outputs
        self.input_mean, self.input_std = seed.input_mean, seed.input_std
        self.output_mean, self.output_std = seed.output_mean, seed.output_std
        self._seed, self._net = seed, net

    @property
    def core_name(self) -> str:
        """What the core is called in the network."""
        return self._seed.core_name

    @property
    def smaller(self) -> str:
        """What to do where the network is too large."""
        return "fit anew, without warm_start"

    def core(self) -> nn.Module:
        """Return a copy of the core."""
        return copy.deepcopy(self._net.get_submodule(self.core_name))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values of what it grew from; a saved size brings its own shapes."""
        return self._seed.to_json()
