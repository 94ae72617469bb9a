"""The sources of chance of a run: what they are at now, and how to put them back there."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Chance:
    """torch's global source, that of the device, and generators of a run.

    Args:
        device: Where the network is trained.
        generators: The generators, by name.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> chance = Chance("cpu", order=generator)
        >>> before, drawn = chance.states(), torch.rand(3, generator=generator)
        >>> chance.restore_(before)
        >>> torch.equal(torch.rand(3, generator=generator), drawn)
        True
    """

    def __init__(self, device: str, **generators: torch.Generator) -> None:
        self._device = torch.device(device)
        self._generators = generators

    def states(self) -> dict[str, Tensor]:
        """Return the state of each, uint8, by name."""
        states = {name: generator.get_state() for name, generator in self._generators.items()}
        states["torch"] = torch.get_rng_state()
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        return states

    def restore_(self, states: Mapping[str, Tensor]) -> None:
        """Put each back to the state that it had; the device's stays where it was another one then."""
        for name, generator in self._generators.items():
            generator.set_state(states[name].clone())
        torch.set_rng_state(states["torch"].clone())
        if self._device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"].clone(), self._device)


def seed_(device: str, seed: int) -> None:
    """Seed torch's global source, and those of GPUs where the network is trained on one.

    `torch.manual_seed` alone would also leave its seed for GPUs that nobody has used yet.
    """
    if torch.device(device).type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
