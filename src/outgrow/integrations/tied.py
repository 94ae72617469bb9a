"""Tied axes: axes whose sizes one number sets, which a policy sees as one axis, and grows alike."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from outgrow.grow.event import Candidate, Event, Growth
from outgrow.grow.policy import Decision, Plan, Policy, Present, Situation

SUMMED = ("params", "flops", "gain", "realised", "alone", "score", "bound", "present", "diagonal")
NORMED = ("se", "alone_se", "gradient")


def pattern(name: str) -> str:
    """Return a name without its numbers, the same for all blocks of a container.

    Examples:
        >>> pattern("model.layers.12.mlp.fc1")
        'model.layers.#.mlp.fc1'
    """
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1#", name)


@dataclass(frozen=True)
class Tied:
    """A policy that grows tied axes alike: the policy inside sees each tie as one axis, with what they gain together.

    Args:
        policy: What decides.
        ties: Name of the tie, by the pattern of an axis's name; other axes do not grow. None where each axis grows by
            itself.
        blocks: Gives the places that may take a block.
        takes: Says whether the axes of a tie can have a size; the nearest one is planned, where there is one.
    """

    policy: Policy
    ties: Mapping[str, str] | None
    blocks: Callable[[], Collection[str]] = tuple
    takes: Callable[[str, int], bool] = lambda tie, size: True
    _history: list[Event] = field(default_factory=list, init=False, repr=False, compare=False)  # of one run, as seen

    @property
    def init(self) -> str | None:
        """How the policy proposes units."""
        return getattr(self.policy, "init", None)

    def may_grow(self, axis: str) -> bool:
        """Return whether an axis belongs to a tie."""
        return self._tie(axis) is not None

    def propose(self, now: Situation) -> Plan | None:
        """Return the plan of the policy, with the units of each tie on all of its axes."""
        axes = self._axes(now.sizes)
        seen = self._seen(now, axes)
        plan = self.policy.propose(seen)
        if plan is None:
            return None
        units, gone = self._taken(seen, plan.units), self._taken(seen, plan.removals, -1)
        none = "no size near the planned one is valid" if plan and not (units or gone or plan.blocks) else plan.reason
        return replace(plan, units=_spread(units, axes), removals=_spread(gone, axes), reason=none)

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return the decision of the policy, with the units of each tie on all of its axes."""
        axes = self._axes(now.sizes)
        on_trial = {(one.kind, one.where) for one in candidates}
        whole = [
            one
            for one in candidates
            if one.kind == "insert"
            or all((one.kind, axis) in on_trial for axis in axes.get(self._tie(one.where) or "", [one.where]))
        ]
        seen = self._seen(now, axes)
        decision = self.policy.decide(seen, self._together(whole), present)
        units, gone = self._taken(seen, decision.units, 1, 1), self._taken(seen, decision.removals, -1, 1)
        return replace(decision, units=_spread(units, axes), removals=_spread(gone, axes))

    def _tie(self, axis: str) -> str | None:
        return axis if self.ties is None else self.ties.get(pattern(axis))

    def _axes(self, sizes: Mapping[str, int]) -> dict[str, list[str]]:
        """The axes of every tie; of no tie whose axes have come to differ in size."""
        found: dict[str, list[str]] = {}
        for axis in sizes:
            if (tie := self._tie(axis)) is not None:
                found.setdefault(tie, []).append(axis)
        return {tie: axes for tie, axes in found.items() if len({sizes[axis] for axis in axes}) == 1}

    def _taken(self, seen: Situation, units: Mapping[str, int], sign: int = 1, most: int = 2) -> dict[str, int]:
        """Units with which the axes have sizes that they can have: at most as many, else up to `most` times as many."""
        found = dict(units)
        for tie, count in units.items():
            less, more = range(count, 0, -1), range(count + 1, most * count + 1)
            sizes = (n for n in (*less, *more) if self.takes(tie, seen.sizes[tie] + sign * n))
            chosen = next((n for n in sizes if n <= count or seen.fits({**found, tie: n})), 0)
            found[tie] = chosen
        return {tie: count for tie, count in found.items() if count}

    def _seen(self, now: Situation, axes: Mapping[str, list[str]]) -> Situation:
        """What the policy sees: every tie as one axis."""
        return replace(
            now,
            sizes={tie: now.sizes[names[0]] for tie, names in axes.items()},
            cost_with=lambda units: now.cost_with(_spread(units, axes)),
            history=self._events(now.history),
            places=lambda: tuple(place for place in now.places() if place in self.blocks()),
        )

    def _events(self, history: Sequence[Event]) -> list[Event]:
        self._history.extend(map(self._event, history[len(self._history) :]))
        return self._history[: len(history)]

    def _event(self, event: Event) -> Event:
        return replace(event, candidates=self._together(event.candidates), growths=self._grown(event.growths))

    def _together(self, candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
        """Candidates, those of a tie as one: sums of what they add and gain, norms of errors and gradients."""
        found: dict[tuple[str, str], list[Candidate]] = {}
        for one in candidates:
            where = one.where if one.kind == "insert" else self._tie(one.where)
            if where is not None:
                found.setdefault((one.kind, where), []).append(one)
        return tuple(_sum(where, parts) for (_, where), parts in found.items())

    def _grown(self, growths: Iterable[Growth]) -> tuple[Growth, ...]:
        """Growths, one for each tie."""
        found: dict[tuple[str, str], Growth] = {}
        for one in growths:
            where = one.where if one.kind == "insert" else self._tie(one.where)
            if where is not None:
                before = found.get((one.kind, where))
                params = one.params + (before.params if before else 0)
                found[one.kind, where] = replace(one, where=where, params=params)
        return tuple(found.values())


def _spread(units: Mapping[str, int], axes: Mapping[str, list[str]]) -> dict[str, int]:
    return {axis: count for tie, count in units.items() for axis in axes[tie]}


def _sum(where: str, parts: Sequence[Candidate]) -> Candidate:
    sums = {name: sum(getattr(part, name) for part in parts) for name in SUMMED}
    norms = {name: math.hypot(*(getattr(part, name) for part in parts)) for name in NORMED}
    changes: dict[str, Any] = {**sums, **norms, "where": where, "units": min(part.units for part in parts)}
    return replace(parts[0], **changes)
