"""One check: put units and blocks on trial, score and judge them, decide, and measure what was decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from outgrow.errors import InputError
from outgrow.grow.block import can_try_place
from outgrow.grow.event import Candidate
from outgrow.grow.panel import Block, BlockPanel, Setup, UnitPanel, Units
from outgrow.grow.policy import Decision, Policy, Situation
from outgrow.grow.trial import tried


@dataclass(frozen=True)
class Verdict:
    """What a check found: candidates, the decision, and the growths that it led to.

    Args:
        gain_now: What a step of the present weights is worth on part B [nats].
        candidates: What was on trial.
        decision: What the policy said.
        units: The units to add.
        blocks: The blocks to insert.
        step: What the steps of the units, taken together, add to the tensors of the widened model, by name.
        flops: Floating-point operations of the check, about.
    """

    gain_now: float
    candidates: tuple[Candidate, ...]
    decision: Decision
    units: tuple[Units, ...]
    blocks: tuple[Block, ...]
    step: Mapping[str, Tensor]
    flops: int


def check(setup: Setup, proposed: Decision, policy: Policy, now: Situation) -> Verdict:
    """Run one check; the model is not changed.

    Units are judged beside units and blocks beside blocks, each in one pass over part B of the sample.

    Args:
        setup: What the check goes by.
        proposed: Units to put on trial, by axis, and places where to try a block; what can't be tried is left out.
        policy: Decides.
        now: What the policy sees.

    Returns:
        What was found and decided.

    Raises:
        InputError: The policy decided on what was not on trial.
    """
    units = {axis: proposed.units[axis.name] for axis in tried(setup.model, setup.axes, proposed.units)}
    blocks = [p for p in setup.places if p.name in proposed.blocks and not can_try_place(setup.model, p)]
    widen = UnitPanel(setup, units) if units else None
    insert = BlockPanel(setup, blocks) if blocks else None
    panels = [panel for panel in (widen, insert) if panel is not None]
    candidates = tuple(candidate for panel in panels for candidate in panel.candidates)
    gain_now = max((panel.gain_now for panel in panels), default=0.0)
    decision = policy.decide(now, candidates, gain_now)
    _demand_offered(decision, candidates, policy)
    added, step = widen.chosen(decision.units) if widen and decision.units else ((), {})
    inserted = insert.chosen(decision.blocks) if insert and decision.blocks else ()
    return Verdict(gain_now, candidates, decision, added, inserted, step, sum(panel.flops for panel in panels))


def _demand_offered(decision: Decision, candidates: Sequence[Candidate], policy: Policy) -> None:
    who = f"policy {type(policy).__name__} decided on"
    offered = {c.where: c.units for c in candidates if c.kind == "widen"}
    for axis, count in decision.units.items():
        if axis not in offered:
            raise InputError(f"{who} units of '{axis}', expected one of those on trial: {', '.join(offered) or 'none'}")
        if not 1 <= count <= offered[axis]:
            raise InputError(f"{who} {count} units of '{axis}', expected 1 to {offered[axis]} as were on trial")
    blocks = [c.where for c in candidates if c.kind == "insert"]
    for place in decision.blocks:
        if place not in blocks:
            raise InputError(
                f"{who} a block at '{place}', expected one of those on trial: {', '.join(blocks) or 'none'}"
            )
    if len(set(decision.blocks)) < len(decision.blocks):
        raise InputError(f"{who} two blocks at one place, expected one at most: {', '.join(decision.blocks)}")
    if decision.units and decision.blocks:
        raise InputError(f"{who} units and blocks, expected one or the other: a block on trial has the old widths")
