"""The setup of a check: the model as it is, the examples, and how candidates are made and measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from outgrow.grow.moments import Convention, Fisher
from outgrow.grow.objective import Objective
from outgrow.grow.sample import Sample
from outgrow.net.axis import Axis
from outgrow.net.cost import flops_after, parameters, parameters_after
from outgrow.net.inputs import Example
from outgrow.net.place import Place


@dataclass(frozen=True)
class Setup:
    """What a check goes by, whatever is on trial.

    Args:
        model: The model as it is; not changed.
        axes: All its axes.
        places: All its places.
        counts: Its FLOPs as `flops_by_weight` counts them.
        sample: Examples that propose, and fresh ones that judge.
        objective: What the model is trained for.
        example: One input of the model.
        generator: The source of everything random.
        damping: Share of the mean diagonal that is added to every K-FAC factor; chosen on held-out data where absent.
        proposal: How units are proposed, by name.
        positions: How many positions of each example are read, by layer; see `take_moments`.
        jump_start: Whether the steps that gains stand for will be taken.
        fisher: Which Fisher matrix the factors approximate, `true` or `empirical`.
        convention: How positions enter the factors, `expand` or `reduce`.
        judged: Whether candidates are judged on part B, or scored alone.
        diagonal: Whether they get SECNN's score, too.
    """

    model: nn.Module
    axes: Sequence[Axis]
    places: Sequence[Place]
    counts: Mapping[str, int]
    sample: Sample
    objective: Objective
    example: Example
    generator: torch.Generator
    damping: float | None = None
    proposal: str = "random"
    positions: Mapping[str, int] | None = None
    jump_start: bool = False
    fisher: Fisher = "true"
    convention: Convention = "expand"
    judged: bool = True
    diagonal: bool = False

    def added(self, units: Mapping[str, int]) -> tuple[int, int]:
        """Return the parameters and FLOPs that come with so many units more, by axis; fewer units free them."""
        params = parameters_after(self.model, self.axes, units) - parameters(self.model)
        flops = flops_after(self.model, self.axes, units, self.counts) - sum(self.counts.values())
        return params, flops
