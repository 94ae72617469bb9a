"""Growth at random: where and what by chance, at fixed times and sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Self

from outgrow.errors import InputError
from outgrow.grow.event import Candidate
from outgrow.grow.policies.pace import shared_units
from outgrow.grow.policies.schedule import Init, Schedule
from outgrow.grow.policy import Decision, Plan, Present, Situation, Timetable


@dataclass(frozen=True)
class RandomGrowth(Schedule):
    """Add random units on axes drawn at random, when and as much as the plain schedule does.

    The control for *where*: a rule that chooses axes has to beat chance. Each event draws new shares of its cost for
    the axes, uniformly among all that sum up to one (Dirichlet with all parameters 1), from the seed and the number of
    events before it; single units are added until what the schedule would add now is used up.

    With `depth`, an event inserts a block at a random place instead, with that chance and if the budget allows; later
    events then add what is missing or too much.

    Args:
        events: How many events.
        share: Share of the run in which the network grows.
        factor: Growth of the parameters at an event where there is no budget.
        most: Greatest growth of the cost at one event.
        depth: Chance that an event inserts a block.
        seed: Of the draws.

    Raises:
        InputError: An argument is out of range.
    """

    init: Init = field(default="random", init=False, repr=False)
    depth: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.depth <= 1:
            raise InputError(f"depth: expected a chance from 0 to 1, received {self.depth}")

    @classmethod
    def over(cls, run: Timetable) -> Self:
        """Return the policy for a run."""
        return replace(super().over(run), seed=run.seed)

    def propose(self, now: Situation) -> Plan | None:
        """Return the units to add unseen, or a block to see the cost of, when an event is due."""
        plan = super().propose(now)
        if not plan:
            return plan
        draw = Random(f"{self.seed} {len(now.history)}")
        if draw.random() < self.depth and (places := now.places()):
            return Plan({}, plan.reason, (draw.choice(places),), evidence="score")
        parts = [draw.expovariate(1.0) for _ in now.sizes]
        shares = {axis: part / sum(parts) for axis, part in zip(now.sizes, parts, strict=True)}
        return replace(plan, units=shared_units(now, shares, self.room(now)))

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return the block on trial if the budget allows it, whatever its score."""
        blocks = tuple(c.where for c in candidates if c.kind == "insert" and now.affords(c))
        decision = super().decide(now, candidates, present)
        return replace(decision, blocks=blocks) if blocks else replace(decision, reason="no budget for the block")
