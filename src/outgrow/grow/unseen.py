"""Units and blocks that come in without evidence, as a plain schedule adds them: made, but not scored or judged."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow.block_panel import Block
from outgrow.grow.event import Candidate
from outgrow.grow.judged import UNKNOWN
from outgrow.grow.proposals import PASSES, propose_all
from outgrow.grow.sample import examples_in, rows_in
from outgrow.grow.setup import Setup
from outgrow.grow.stage import Stage
from outgrow.grow.unit_panel import Units
from outgrow.net.axis import Axis
from outgrow.net.cost import flops, parameters
from outgrow.net.deepen import deepen_, prepared
from outgrow.net.place import Place
from outgrow.net.twin import duplicate
from outgrow.net.widening import Widening


def unseen_units(setup: Setup, units: Mapping[Axis, int]) -> tuple[list[tuple[Units, Candidate]], int]:
    """Make units to add.

    Args:
        setup: What the check goes by. Where the proposal reads part A of the sample, norms get their statistics from
            it, too, and dead units are drawn anew.
        units: How many, by axis.

    Returns:
        The units and what they cost, and the floating-point operations of making them, about.

    Raises:
        InputError: The proposal makes a pool to choose from.
    """
    batches, model = setup.sample.a, setup.model
    widenings = propose_all(setup.proposal, model, units, batches, setup.objective, setup.generator) if units else []
    if any(widening.units != units[widening.axis] for widening in widenings):
        raise InputError(
            f"'{setup.proposal}' proposes a pool to choose from, expected one of the proposals that make as many units "
            "as are asked for, or a policy that goes by scores or gains"
        )
    directed = bool(widenings) and PASSES[setup.proposal] > 0
    widenings = _settled(setup, widenings) if directed else widenings
    passes = (PASSES[setup.proposal] + 1) * examples_in(batches) if directed else 0
    found = [(Units(one, UNKNOWN, math.nan), _candidate(setup, one)) for one in widenings]
    return found, int(passes * sum(setup.counts.values()))


def unseen_blocks(setup: Setup, places: Sequence[Place]) -> list[tuple[Block, Candidate]]:
    """Make the blocks to insert at places, and say what they cost."""
    return [_block(setup, place) for place in places]


def unknown(kind: str, where: str, units: int, params: int, flops: int) -> Candidate:
    """Return a candidate of which nothing is known but what it costs."""
    measured = dict.fromkeys(("gain", "se", "realised", "alone", "alone_se", "score", "bound", "gradient"), math.nan)
    return Candidate(kind, where, units, params, flops, **measured)


def _settled(setup: Setup, widenings: Sequence[Widening]) -> list[Widening]:
    batches, generator = setup.sample.a, setup.generator
    stage = Stage(setup.model, setup.axes, widenings, batches, setup.objective, generator)
    return [stage.widening(one.axis.name, torch.arange(one.units)) for one in widenings]


def _candidate(setup: Setup, widening: Widening) -> Candidate:
    axis, units = widening.axis.name, widening.units
    return unknown("widen", axis, units, *setup.added({axis: units}))


def _block(setup: Setup, place: Place) -> tuple[Block, Candidate]:
    deeper = duplicate(setup.model)
    deepen_(deeper, place.name, example=setup.example, generator=torch.Generator())
    params = parameters(deeper) - parameters(setup.model)
    more = (flops(deeper, setup.example) - flops(setup.model, setup.example)) // rows_in(setup.example)
    insertion = prepared(setup.model, place, generator=setup.generator)
    return Block(place, insertion, UNKNOWN, math.nan, params, _unmoved), unknown("insert", place.name, 1, params, more)


def _unmoved(model: nn.Module) -> Mapping[str, Tensor]:
    return {}
