"""The contract between a policy and a check: what a policy sees, what it asks for, and what it answers.

    Situation ──propose──▶ Plan ──check──▶ candidates, present ──decide──▶ Decision

A policy is a small pure part: it sees numbers only, and both of its methods return the same for the same arguments
(what is random in one comes from a seed of its own and the number of events).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, Protocol, get_args

from outgrow.errors import InputError
from outgrow.grow.budget import Budget, Cost
from outgrow.grow.event import Candidate, Event

Evidence = Literal["none", "score", "gain"]
"""What a policy wants to know of what it plans: nothing, scores on part A of the sample, or gains on part B too."""


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number above zero."""
    return isinstance(value, Integral) and int(value) > 0


@dataclass(frozen=True)
class Situation:
    """What a policy sees.

    Args:
        sizes: Units of every axis that can grow now, by name.
        cost: What the network costs now.
        cost_with: Gives what it costs with some more units on some axes, by name. Like `places`, of the model as it is:
            valid until it grows next.
        progress: Share of the run that is over, 0 to 1; None where the end isn't known.
        epoch: Epochs of training so far; where they aren't known, calls of `Grower.check` before this one.
        history: Every check so far for which the policy had a plan: also an empty one, and growth without a look.
        budget: What the network may cost.
        places: Gives the names of the places where a block can go.
        held_out: Mean loss now on examples that are not trained on [nats]; nan where it wasn't told.
    """

    sizes: Mapping[str, int]
    cost: Cost
    cost_with: Callable[[Mapping[str, int]], Cost]
    progress: float | None = None
    epoch: float = 0.0
    history: Sequence[Event] = ()
    budget: Budget = field(default_factory=Budget)
    places: Callable[[], tuple[str, ...]] = tuple
    held_out: float = math.nan

    def fits(self, units: Mapping[str, int]) -> bool:
        """Return whether the network with some more units keeps within the budget."""
        return self.budget.fits(self.cost_with(units))

    def affords(self, candidate: Candidate) -> bool:
        """Return whether the network with what a candidate adds keeps within the budget."""
        return self.budget.fits(self.cost.after(self.cost.params + candidate.params, self.cost.flops + candidate.flops))


@dataclass(frozen=True)
class Plan:
    """What to put on trial: units by axis, blocks by place, units that may go.

    A plan with nothing of it says that there is nothing to do, which is recorded with its reason; None is not.

    Args:
        units: How many new units, by axis.
        reason: Why this, or why nothing.
        blocks: Places where to try a block.
        removals: How many units may go, by axis.
        init: How new units are proposed, by name; the Grower's own way where absent.
        evidence: What has to be known of it; with `none` the units and blocks are added without a decision. Removals
            need a look.
        jump_start: Whether what is added takes the steps that its gain stands for; the Grower's own choice where
            absent.
        diagonal: Whether candidates get SECNN's score, too.

    Raises:
        InputError: The evidence is unknown or none for removals, or a number of units is not whole and above zero.
    """

    units: Mapping[str, int]
    reason: str
    blocks: tuple[str, ...] = ()
    removals: Mapping[str, int] = field(default_factory=dict)
    init: str | None = None
    evidence: Evidence = "gain"
    jump_start: bool | None = None
    diagonal: bool = False

    def __post_init__(self) -> None:
        if self.evidence not in get_args(Evidence):
            raise InputError(f"evidence: expected one of {', '.join(get_args(Evidence))}, received '{self.evidence}'")
        if self.evidence == "none" and self.removals:
            raise InputError("evidence: expected 'score' or 'gain' for removals, which need a look, received 'none'")
        for what, units in (("units", self.units), ("removals", self.removals)):
            for axis, count in units.items():
                if not is_count(count):
                    raise InputError(f"{what} of '{axis}': expected a whole number above zero, received {count!r}")

    def __bool__(self) -> bool:
        return bool(self.units or self.blocks or self.removals)


@dataclass(frozen=True)
class Present:
    """What the weights that are there are worth.

    Args:
        gain: Of their natural-gradient step on part B [nats]; nan where no gains were asked for.
        score: Their natural expansion score under K-FAC, summed over the layers that read an axis on trial [nats].
        ceiling: Mean squared gradient of an example's loss at the outputs, SENN's lambda.
        diagonal: SECNN's score of all weights; nan where it was not asked for.
        loss: Mean loss on part B [nats]; nan where nothing was judged.
    """

    gain: float
    score: float
    ceiling: float
    diagonal: float
    loss: float = math.nan


@dataclass(frozen=True)
class Decision:
    """What to add and to remove, and why; nothing of it: nothing changes.

    Units and blocks can be on trial together, but not be added at one event: a block that was judged has the old
    widths. A policy that wants both looks `again`.

    Args:
        units: How many units to add, by axis; at most as many as were on trial.
        reason: Why.
        blocks: Places where to insert the block that was on trial.
        removals: How many units to remove, by axis; at most as many as were on trial.
        again: Whether to ask the policy for another plan at once, before any training; ignored where the model has not
            changed, but for blocks that could not be inserted.
    """

    units: Mapping[str, int]
    reason: str
    blocks: tuple[str, ...] = ()
    removals: Mapping[str, int] = field(default_factory=dict)
    again: bool = False


@dataclass(frozen=True)
class Timetable:
    """What a run of known length tells the policy that is made for it.

    Args:
        events: How many events the run has room for.
        share: Share of the run in which the network grows.
        epochs: Length of the run.
        seed: Seed of everything random.
        device: Where it trains, as torch names it.
        params: Parameters of the seed network.
        sizes: Sizes that are wanted [parameters]; none where the policy is free.
    """

    events: int = 8
    share: float = 0.15
    epochs: int = 20
    seed: int = 0
    device: str = "cpu"
    params: int = 1
    sizes: tuple[int, ...] = ()


class Policy(Protocol):
    """When to look at candidates and which of them to add. Both methods are pure."""

    def propose(self, now: Situation) -> Plan | None:
        """Return what to put on trial; None while it is not time for a check."""

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return which of the candidates to add."""
