"""Firefly: of many candidate units, the ones with the steepest loss, over all layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from outgrow.errors import InputError
from outgrow.grow.event import Candidate
from outgrow.grow.policies.pace import most_units
from outgrow.grow.policies.schedule import Init, Schedule
from outgrow.grow.policy import Decision, Evidence, Plan, Present, Situation


@dataclass(frozen=True)
class Firefly(Schedule):
    """Try more units than are wanted, and add the steepest ones over all axes, at the times of a schedule.

    Wu et al., *Firefly Neural Architecture Descent*, arXiv 2102.08574, look for the steepest descent among networks
    nearby: candidates are splits of all units and new random ones (and layers), each behind a factor of zero. Their
    directions are trained for some steps, then those get in whose factors have the greatest gradient over all layers,
    as many as the event has room for.

    Here the candidates are splits, drawn where the loss asks most for change, random units and closed-form ones, which
    stand in for the trained directions (`mixed`, twice as many as are on trial). Within an axis the trial orders them
    by what each adds to those before it, so that copies don't win twice, where Firefly takes them one by one. Over
    axes, the norm of the gradient in the outgoing weights decides, as a root mean square over an axis's units on trial:
    the steepest axis gets all of its units, then the next, until the cost that the plain schedule would add is used
    up. No examples judge the result, as in the paper. New units come in with outgoing weights of zero; depth does not
    grow.

    Args:
        events: How many events.
        share: Share of the run in which the network grows.
        factor: Growth of the parameters at an event where there is no budget.
        most: Greatest growth of the cost at one event.
        candidates: Units on trial for each one that the schedule would add.
    """

    init: Init = field(default="mixed", init=False, repr=False)
    evidence: Evidence = field(default="score", init=False, repr=False)
    candidates: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise InputError(f"candidates: expected at least one for each unit wanted, received {self.candidates}")

    def propose(self, now: Situation) -> Plan | None:
        """Return the candidates, when an event is due."""
        plan = super().propose(now)
        if not plan:
            return plan
        tried = {axis: self.candidates * count for axis, count in plan.units.items()}
        return replace(plan, units=tried)

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return the steepest units, as many as there is room for at this event."""
        room, units = self.room(now), dict[str, int]()
        for c in sorted(candidates, key=lambda c: c.gradient / math.sqrt(c.units), reverse=True):
            if count := most_units(now, units, c.where, c.units, room):
                units[c.where] = count
        return Decision(units, f"the steepest of {sum(c.units for c in candidates)} candidates")
