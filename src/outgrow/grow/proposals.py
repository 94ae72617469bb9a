"""Proposals: the weights with which new units come in, by name.

A proposal gets the axes and how many units each wants, part A of the sample, and a source of randomness, and returns
units for every axis, in that order. It may return more than are wanted, a pool, from which the trial takes the best
together. What the true activation, norms and pooling make of the units is for the trial to say.

    random    drawn as a fresh layer's
    closed    singular vectors of the whitened residual, both signs (TINY)
    gradmax   singular vectors of the plain cross moment, both signs (GradMax)
    split     noisy copies of existing units (Net2Net, Firefly)
    suited    random ones behind a norm, elsewhere long random ones and split ones; the default policy's
    mixed     a pool of closed, split and random ones

Two more can't be put on trial, since their columns are not zero: they are for policies that add units unjudged.

    net2net   copies that divide the outgoing weights of existing units (Net2Net)
    twins     pairs of random units with opposite outgoing weights
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from outgrow.errors import GrowthError, InputError
from outgrow.grow.closed import closed, gradmax
from outgrow.grow.objective import Objective
from outgrow.grow.pool import mixed, random, suited
from outgrow.grow.sample import Batch
from outgrow.grow.splitting import split
from outgrow.net.axis import Axis
from outgrow.net.inits import Init, divided, twins
from outgrow.net.preserve import frozen_state
from outgrow.net.widening import Widening


class Proposal(Protocol):
    """Proposes units on several axes at once."""

    def __call__(
        self,
        model: nn.Module,
        units: Mapping[Axis, int],
        batches: Sequence[Batch],
        objective: Objective,
        generator: torch.Generator,
    ) -> list[Widening]:
        """Propose at least so many units on each axis, the model in eval mode."""


def unjudged(init: Init) -> Proposal:
    """Return the proposal of units by a way that needs no examples; random ones where an axis can't have them."""

    def propose(
        model: nn.Module,
        units: Mapping[Axis, int],
        batches: Sequence[Batch],
        objective: Objective,
        generator: torch.Generator,
    ) -> list[Widening]:
        return [one(model, axis, count, generator) for axis, count in units.items()]

    def one(model: nn.Module, axis: Axis, count: int, generator: torch.Generator) -> Widening:
        try:
            return init(model, axis, count, generator)
        except GrowthError:
            return Widening(axis, count)

    return propose


PROPOSALS: dict[str, Proposal] = {
    "random": random,
    "closed": closed,
    "gradmax": gradmax,
    "split": split,
    "suited": suited,
    "mixed": mixed,
    "net2net": unjudged(divided),
    "twins": unjudged(twins),
}
UNJUDGED = ("net2net", "twins")  # whose units can't be put on trial
NAMES = tuple(name for name in PROPOSALS if name not in UNJUDGED)  # whose units can
PASSES = {  # over part A, in forward passes
    "random": 0,
    "closed": 8,
    "gradmax": 3,
    "split": 3,
    "suited": 3,
    "mixed": 11,
    "net2net": 0,
    "twins": 0,
}


def demanded(kind: str) -> str:
    """Return the name of a proposal.

    Raises:
        InputError: There is none of that name.
    """
    if kind not in PROPOSALS:
        raise InputError(f"unknown proposal '{kind}': choose one of {', '.join(PROPOSALS)}")
    return kind


def propose_all(
    kind: str,
    model: nn.Module,
    units: Mapping[Axis, int],
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator,
) -> list[Widening]:
    """Propose units on several axes, which share the passes over the sample.

    Args:
        kind: One of `PROPOSALS`. `closed` and `gradmax` give random units to an axis that several layers hand out, or
            where a layer is frozen, not called or of another kind; `net2net` and `twins` to one that can't have
            such units. The units of these two can't be put on trial.
        model: The model as it is; not changed.
        units: How many are wanted, by axis, as the model has it now.
        batches: Part A of the sample, at least two examples.
        objective: What the model is trained for.
        generator: The source of everything random.

    Returns:
        The units of each axis: as many as wanted, or a pool of more. What the proposal leaves open is drawn when the
        units are put on trial.

    Raises:
        InputError: The kind is unknown.
    """
    if demanded(kind) == "random" or not units:
        return random(model, units, batches, objective, generator)
    with frozen_state(model):
        model.eval()
        return PROPOSALS[kind](model, units, batches, objective, generator)
