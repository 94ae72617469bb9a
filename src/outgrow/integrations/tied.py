"""Tied axes: axes whose sizes one number sets, which a policy sees as one axis, and grows alike."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

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
    """A policy that grows tied axes alike: the policy inside sees each tie as one axis, with what its axes gain together.

    Args:
        policy: What decides.
        ties: Name of the tie, by the pattern of an axis's name; other axes do not grow. None where each axis grows by
            itself.
        blocks: Gives the places that may take a block.
    """

    policy: Policy
    ties: Mapping[str, str] | None
    blocks: Callable[[], Collection[str]] = tuple

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
        plan = self.policy.propose(self._seen(now, axes))
        if plan is None:
            return None
        return replace(plan, units=_spread(plan.units, axes), removals=_spread(plan.removals, axes))

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
        decision = self.policy.decide(self._seen(now, axes), self._together(whole), present)
        return replace(decision, units=_spread(decision.units, axes), removals=_spread(decision.removals, axes))

    def _tie(self, axis: str) -> str | None:
        return axis if self.ties is None else self.ties.get(pattern(axis))

    def _axes(self, sizes: Mapping[str, int]) -> dict[str, list[str]]:
        """The axes of every tie; of no tie whose axes have come to differ in size."""
        found: dict[str, list[str]] = {}
        for axis in sizes:
            if (tie := self._tie(axis)) is not None:
                found.setdefault(tie, []).append(axis)
        return {tie: axes for tie, axes in found.items() if len({sizes[axis] for axis in axes}) == 1}

    def _seen(self, now: Situation, axes: Mapping[str, list[str]]) -> Situation:
        """What the policy sees: every tie as one axis."""
        return replace(
            now,
            sizes={tie: now.sizes[names[0]] for tie, names in axes.items()},
            cost_with=lambda units: now.cost_with(_spread(units, axes)),
            history=[self._event(event) for event in now.history],
            places=lambda: tuple(place for place in now.places() if place in self.blocks()),
        )

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
    return replace(parts[0], where=where, units=min(part.units for part in parts), **sums, **norms)
