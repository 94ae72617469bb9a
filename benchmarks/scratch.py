"""Controls that are trained from scratch: the network that a run ended with, and a uniformly widened seed."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from outgrow.grow.event import Candidate
from outgrow.grow.policy import Decision, Plan, Present, Situation
from outgrow.models import Seed
from outgrow.net.carry import adopt_shapes_
from outgrow.net.cost import flops, parameters
from outgrow.net.deepen import deepen_
from outgrow.net.surgery import tensors_of


class Never:
    """A policy that never looks: training from scratch."""

    def propose(self, now: Situation) -> Plan | None:
        """Return None: it is never time."""
        return None

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return that nothing is added."""
        return Decision({}, "training from scratch")


@dataclass(frozen=True)
class Grown(Seed):
    """The architecture that a run ended with, as a seed: every weight is drawn anew when it is built.

    Args:
        blocks: Places of the inserted blocks, in the order in which they came.
        shapes: Shape of every tensor, by name.
    """

    blocks: Sequence[str] = ()
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def build(self) -> nn.Sequential:
        """Return the network (from torch's global random state)."""
        net = super().build()
        for place in self.blocks:
            deepen_(net, place, example=self.example())
        before = tensors_of(net)
        adopt_shapes_(net, {name: shaped(before.get(name), shape) for name, shape in self.shapes.items()})
        return fresh(net)


def shaped(tensor: torch.Tensor | None, shape: Sequence[int]) -> torch.Tensor:
    """Return a tensor if it has a shape already (the constants of a seed have), else zeros."""
    return tensor if tensor is not None and list(tensor.shape) == list(shape) else torch.zeros(*shape)


def grown(seed: Seed, architecture: Mapping) -> Grown:
    """Return the architecture of a run that began with a seed; what `policies.architecture` has noted."""
    fields = {name: getattr(seed, name) for name in Seed.__dataclass_fields__}
    return Grown(**fields, blocks=architecture["blocks"], shapes=architecture["shapes"])


def fresh(model: nn.Module) -> nn.Module:
    """Return a copy in which every layer is initialised as torch initialises it, whatever was learned or inserted.

    Raises:
        ValueError: A parameter belongs to a module that can't be reset.
    """
    new, drawn = copy.deepcopy(model), set()
    for module in new.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
            drawn |= {id(parameter) for parameter in module.parameters(recurse=False)}
    if kept := [name for name, parameter in new.named_parameters() if id(parameter) not in drawn]:
        raise ValueError(f"expected modules with reset_parameters, there is none for {', '.join(kept)}")
    return new


def uniform(seed: Seed, params: int) -> Seed:
    """Return a seed with all widths grown by one factor, as near to a number of parameters as whole units allow."""
    below = seed
    while (above := replace(below, widths=one_more(seed.widths, below.widths))) and size(above) <= params:
        below = above
    return min((below, above), key=lambda network: abs(size(network) - params))


def one_more(start: Sequence[int], now: Sequence[int]) -> tuple[int, ...]:
    """Return widths with one unit more where the common factor, rising, next rounds up."""
    factors = [(width + 0.5) / first for first, width in zip(start, now, strict=True)]
    chosen = factors.index(min(factors))
    return tuple(width + (i == chosen) for i, width in enumerate(now))


def size(network: Seed) -> int:
    """Return the number of parameters of a seed network."""
    return parameters(network.build())


def training_flops(network: Seed, steps: int, batch_size: int) -> int:
    """Return what training takes, a backward pass counted as two forward ones."""
    return 3 * flops(network.build(), network.example()) * steps * batch_size
