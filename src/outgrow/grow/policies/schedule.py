"""A plain schedule: fixed times, proportional widths, random weights, no look at any data. The control of them all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

from outgrow.errors import InputError
from outgrow.grow.event import Candidate
from outgrow.grow.policies.pace import Pace, filled, least_units, proportional_units, room_with
from outgrow.grow.policy import Decision, Evidence, Plan, Present, Situation, Timetable

Init = Literal["random", "closed", "gradmax", "split", "suited", "mixed", "net2net", "twins"]
"""How units come in; see `outgrow.grow.proposals`."""

ON_TRIAL = ("random", "closed", "gradmax", "split", "suited", "mixed")
"""Those of them that can be judged: copies that divide are in use at once."""


def demand_on_trial(init: str) -> None:
    """Check that units that come in so can be judged.

    Args:
        init: How they come in.

    Raises:
        InputError: They can't.
    """
    if init not in ON_TRIAL:
        raise InputError(f"init: expected one of {', '.join(ON_TRIAL)}, received '{init}'")


@dataclass(frozen=True)
class Schedule:
    """Widen all axes by one factor at fixed times, whatever the data say.

    Networks have long been widened by hand like this; whoever decides by data has to beat it at the same times and
    sizes. Events are spread evenly over the first `share` of the run; without a known end every call is one, until
    there were `events`. All axes grow by the common factor that, repeated, uses the budget up at the last event; by
    one unit each, or one of the cheapest axis, where rounding leaves nothing. What rounding left over goes to single
    units at the last event. Units have random incoming weights and zero outgoing ones.

    Args:
        events: How many events.
        share: Share of the run in which the network grows.
        factor: Growth of the parameters at an event where there is no budget.
        most: Greatest growth of the cost at one event.
        init: How units come in, see `outgrow.grow.proposals`.

    Attributes:
        evidence: What the policy wants to know of what it adds.
        jump_start: Whether it takes the steps that gains stand for.

    Raises:
        InputError: An argument is out of range.
    """

    events: int = 8
    share: float = 0.15
    factor: float = 1.5
    most: float = 3.0
    init: Init = "random"
    evidence: Evidence = field(default="none", init=False, repr=False)
    jump_start: bool | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        _ = self.pace  # raises
        if self.init not in get_args(Init):
            raise InputError(f"init: expected one of {', '.join(get_args(Init))}, received '{self.init}'")
        if self.init == "mixed" and self.evidence == "none":
            raise InputError("init: 'mixed' makes a pool to choose from, expected another where nothing is judged")

    @classmethod
    def over(cls, run: Timetable) -> Self:
        """Return the policy for a run."""
        return cls(events=run.events, share=run.share)

    @property
    def pace(self) -> Pace:
        """When events come, and how much they add."""
        return Pace(self.events, self.share, self.factor, self.most)

    def propose(self, now: Situation) -> Plan | None:
        """Return the units to add, when an event is due."""
        if not self.pace.due(now) or self._number(now) > self.events:
            return None
        if not now.sizes:
            return Plan({}, "no axis can grow")
        units = self.units(now)
        reason = f"event {self._number(now)} of {self.events}" if units else f"the budget of {now.budget} is spent"
        return Plan(units, reason, init=self.init, evidence=self.evidence, jump_start=self.jump_start)

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return all units on trial."""
        units = {c.where: c.units for c in candidates if c.kind == "widen"}
        return Decision(units, f"event {self._number(now)} of {self.events}")

    def units(self, now: Situation) -> dict[str, int]:
        """Return how many units an event adds, by axis."""
        growth = self.pace.growth(now, self._number(now))
        units = proportional_units(now, growth, dict.fromkeys(now.sizes, 1.0)) or least_units(now)
        return filled(now, units, 1.0) if self._is_last(now) else units

    def room(self, now: Situation) -> float:
        """Return by what factor the cost that counts may grow once the units of an event have come in, whichever."""
        return 1.0 if self._is_last(now) else room_with(now, self.units(now))

    def _is_last(self, now: Situation) -> bool:
        """Whether this event may use up the budget."""
        return self.pace.growth(now, self._number(now)) >= now.budget.room(now.cost)

    def _number(self, now: Situation) -> int:
        """The number of the event that is due, from 1."""
        return len(now.history) + 1 if now.progress is None else self.pace.slot(now.progress)
