"""One check: put what a policy planned on trial, score and judge it, decide, and measure what was decided."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow.additions import ceiling
from outgrow.grow.block_panel import Block, BlockPanel
from outgrow.grow.event import Candidate
from outgrow.grow.policy import Decision, Plan, Policy, Present, Situation, is_count
from outgrow.grow.removal import Losing, RemovalPanel, losable
from outgrow.grow.sample import examples_in
from outgrow.grow.setup import Setup
from outgrow.grow.trial import tried
from outgrow.grow.unit_panel import UnitPanel, Units
from outgrow.grow.unseen import unseen_blocks, unseen_units
from outgrow.net.axis import Axis
from outgrow.net.place import Place
from outgrow.net.preserve import frozen_state
from outgrow.net.remove import Values


def no_values(model: nn.Module) -> Values:
    """Return no other weights for a module: nothing goes from it."""
    return {}


@dataclass(frozen=True)
class Verdict:
    """What a check found: candidates, the decision, and the growths that it led to.

    Args:
        gain_now: What a step of the present weights is worth on part B [nats]; nan where nothing was judged.
        loss: Mean loss on part B [nats]; nan likewise.
        candidates: What was on trial.
        decision: What the policy said.
        units: The units to add.
        blocks: The blocks to insert.
        losing: The units to remove.
        values: Gives the weights, by name, with which what stays in a module stands in for what goes.
        step: What the steps of the units, taken together, add to the tensors of the widened model, by name.
        flops: Floating-point operations of the check, about.
        examples: How many judged the candidates.
    """

    gain_now: float
    loss: float
    candidates: tuple[Candidate, ...]
    decision: Decision
    units: tuple[Units, ...]
    blocks: tuple[Block, ...] = ()
    losing: tuple[Losing, ...] = ()
    values: Callable[[nn.Module], Values] = no_values
    step: Mapping[str, Tensor] = field(default_factory=dict)
    flops: int = 0
    examples: int = 0

    def __bool__(self) -> bool:
        return bool(self.units or self.blocks or self.losing)


def add_unseen(setup: Setup, plan: Plan) -> Verdict:
    """Make what a policy wants without evidence.

    Args:
        setup: What the check goes by; part A of its sample may be empty where the proposal needs none.
        plan: Units to add, by axis, and places of blocks; what can't be tried is left out.

    Returns:
        What will be added, none of it scored or judged.

    Raises:
        InputError: Both units and blocks are planned.
    """
    if plan.units and plan.blocks:
        raise InputError(
            "expected units or blocks to add unseen, received both: a block that is made has the old widths"
        )
    units, flops = unseen_units(setup, {a: plan.units[a.name] for a in tried(setup.model, setup.axes, plan.units)})
    blocks = unseen_blocks(setup, [p for p in setup.places if p.name in plan.blocks])
    decision = Decision(
        {one.widening.axis.name: one.widening.units for one, _ in units},
        plan.reason,
        tuple(block.place.name for block, _ in blocks),
    )
    candidates = tuple(candidate for _, candidate in (*units, *blocks))
    added, inserted = tuple(one for one, _ in units), tuple(block for block, _ in blocks)
    return Verdict(math.nan, math.nan, candidates, decision, added, inserted, flops=flops)


def check(setup: Setup, plan: Plan, policy: Policy, now: Situation) -> Verdict:
    """Run one check; the model is not changed.

    Units are judged beside units and blocks beside blocks, each in one pass over part B of the sample.

    Args:
        setup: What the check goes by.
        plan: Units to put on trial, by axis, and places where to try a block; what can't be tried is left out.
        policy: Decides.
        now: What the policy sees.

    Returns:
        What was found and decided.

    Raises:
        FloatingPointError: The loss is not finite.
        InputError: The policy decided on what was not on trial, or returned no decision.
    """
    units = {axis: plan.units[axis.name] for axis in tried(setup.model, setup.axes, plan.units)}
    blocks = [p for p in setup.places if p.name in plan.blocks]
    gone = {axis: plan.removals[axis.name] for axis in losable(setup.model, setup.axes, plan.removals)}
    widen = UnitPanel(setup, units) if units else None
    insert = BlockPanel(setup, blocks) if blocks else None
    shrink = RemovalPanel(setup, gone) if gone else None
    panels = [panel for panel in (widen, insert, shrink) if panel is not None]
    candidates = tuple(candidate for panel in panels for candidate in panel.candidates)
    present = _present([panel.present for panel in panels], setup, plan)
    if not all(math.isfinite(panel.present.loss) for panel in panels if setup.judged or panel is shrink):
        raise FloatingPointError(
            f"the loss of the check's examples is {present.loss}, though the weights are finite: look for inputs or "
            "targets that are not, for batches without a target that counts, or lower the learning rate"
        )
    decision = policy.decide(now, candidates, present)
    _demand_offered(decision, candidates, policy)
    added, step = widen.chosen(decision.units) if widen and decision.units else ((), {})
    inserted = insert.chosen(decision.blocks) if insert and decision.blocks else ()
    losing, values = shrink.chosen(decision.removals) if shrink and decision.removals else ((), no_values)
    return Verdict(
        present.gain,
        present.loss,
        candidates,
        decision,
        added,
        inserted,
        losing,
        values,
        step,
        sum(panel.flops for panel in panels),
        examples_in(setup.sample.b) if setup.judged or gone else 0,
    )


def _present(found: Sequence[Present], setup: Setup, plan: Plan) -> Present:
    """What the panels say of the weights that are there; SENN's ceiling only for a policy that goes by scores."""
    return Present(
        _largest(one.gain for one in found),
        _largest(one.score for one in found),
        _ceiling(setup) if plan.evidence == "score" else math.nan,
        _largest(one.diagonal for one in found),
        next((one.loss for one in found if not math.isnan(one.loss)), math.nan),
    )


def _largest(values: Iterable[float]) -> float:
    """The largest of those that are known; nan where none is."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _ceiling(setup: Setup) -> float:
    with frozen_state(setup.model):
        return ceiling(setup.model.eval(), setup.sample.a, setup.objective)


def demand_known_names(
    plan: Any, policy: Policy, axes: Sequence[Axis], places: Callable[[], Sequence[Place]]
) -> Plan | None:
    """Return what a policy proposed, whatever it is, if it is a plan for this model, or None.

    Args:
        plan: What it returned.
        policy: Which.
        axes: Every axis of the model.
        places: Gives every place of it, also where no block can go.

    Raises:
        InputError: It is no plan, or one that names what the model hasn't.
    """
    if plan is None:
        return None
    who = f"policy {type(policy).__name__}"
    if not isinstance(plan, Plan):
        raise InputError(f"{who}: expected propose to return a Plan or None, received {type(plan).__name__}")
    _demand_among("axes", (*plan.units, *plan.removals), [axis.name for axis in axes], who)
    if plan.blocks:
        _demand_among("places", plan.blocks, [place.name for place in places()], who)
    return plan


def _demand_among(what: str, names: Sequence[str], known: Sequence[str], who: str) -> None:
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{who}: expected {what} among {', '.join(known) or 'none'}, received '{unknown[0]}'")


def _demand_offered(decision: Any, candidates: Sequence[Candidate], policy: Policy) -> None:
    """Check that a policy decided on what was on trial, whatever it returned."""
    who = f"policy {type(policy).__name__}"
    if not isinstance(decision, Decision):
        raise InputError(f"{who}: expected decide to return a Decision, received {type(decision).__name__}")
    who = f"{who} decided on"
    for kind, wanted in (("widen", decision.units), ("remove", decision.removals)):
        offered = {c.where: c.units for c in candidates if c.kind == kind}
        for axis, count in wanted.items():
            if axis not in offered:
                have = ", ".join(offered) or "none"
                raise InputError(f"{who} units of '{axis}', expected one of those on trial: {have}")
            if not is_count(count) or count > offered[axis]:
                raise InputError(f"{who} {count} units of '{axis}', expected 1 to {offered[axis]} as were on trial")
    blocks = [c.where for c in candidates if c.kind == "insert"]
    for place in decision.blocks:
        if place not in blocks:
            raise InputError(
                f"{who} a block at '{place}', expected one of those on trial: {', '.join(blocks) or 'none'}"
            )
    if len(set(decision.blocks)) < len(decision.blocks):
        raise InputError(f"{who} two blocks at one place, expected one at most: {', '.join(decision.blocks)}")
    kinds = [what for what in ("units", "blocks", "removals") if getattr(decision, what)]
    if len(kinds) > 1:
        raise InputError(f"{who} {' and '.join(kinds)}, expected one of them: what was on trial has the old widths")
