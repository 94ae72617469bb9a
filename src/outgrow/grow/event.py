"""What a check saw and decided: data that the journal keeps and the report draws.

Numbers that a policy did not ask for are nan here and null in the journal.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar


@dataclass(frozen=True)
class Candidate:
    """Units that were proposed on one axis, a block at a place, or units that may go.

    Args:
        kind: What it is: `widen`, `insert` for a block, or `remove`.
        where: Name of the axis, or of the place.
        units: How many units; 1 for a block.
        params: Parameters they would add; below zero where they would go.
        flops: Forward FLOPs of one example they would add.
        gain: What they are worth on fresh examples, beyond what a step of the present weights is [nats].
        se: Standard error of the gain [nats].
        realised: Drop of the loss on those examples when the step is taken [nats].
        alone: What they are worth by themselves, with what the present weights could do as well [nats].
        alone_se: Standard error of that [nats].
        score: Natural expansion score on the examples that proposed them [nats].
        bound: SENN's lower bound of the score [nats].
        gradient: Norm of the loss's gradient with respect to what is at zero, which GradMax goes by.
        present: Natural expansion score of the present weights of the layers that read the axis [nats].
        diagonal: SECNN's score of what is at zero, under the diagonal empirical Fisher matrix.
    """

    kind: str
    where: str
    units: int
    params: int
    flops: int
    gain: float
    se: float
    realised: float
    alone: float
    alone_se: float
    score: float
    bound: float
    gradient: float
    present: float = math.nan
    diagonal: float = math.nan


@dataclass(frozen=True)
class Growth:
    """Units that were added on one axis or removed from it, or a block that was inserted.

    Args:
        kind: What it is: `widen`, `insert` for a block, or `remove`.
        where: Name of the axis, or of the place.
        units: How many units; 1 for a block.
        size_before: Units that the axis had; 0 for a block.
        size_after: Units that it has now; 1 for a block.
        gain: What was added is worth on fresh examples, beyond what a step of the weights before is [nats].
        se: Standard error of the gain [nats].
        realised: Drop of the loss on those examples when the step is really taken [nats].
        moved: Largest change of an output by the event's edit, relative to the output's scale.
        params: Parameters that the event's edit added here, the growths of the event taken in order.
    """

    kind: str
    where: str
    units: int
    size_before: int
    size_after: int
    gain: float
    se: float
    realised: float
    moved: float
    params: int

    def __str__(self) -> str:
        what = {
            "widen": f"grew {self.where} {self.size_before} -> {self.size_after}",
            "insert": f"inserted a block behind {self.where}",
            "remove": f"shrank {self.where} {self.size_before} -> {self.size_after}",
        }[self.kind]
        if math.isnan(self.gain):
            judged = ""
        elif self.kind == "remove":
            judged = f"{'saves' if self.gain > 0 else 'costs'} {abs(self.gain):.4f} +- {self.se:.4f} nats, "
        else:
            judged = f"gain {self.gain:.4f} +- {self.se:.4f} nats, realised {self.realised:.4f}, "
        return f"{what}: {judged}{self.params:+,} parameters"


@dataclass(frozen=True)
class Event:
    """One check.

    Args:
        event: Its number, from 1; 0 where the policy said that it was not time.
        gain_now: What a natural-gradient step of the present parameters is worth on fresh examples [nats].
        candidates: What was proposed.
        growths: What was done.
        params_before: Parameters before.
        params_after: Parameters after.
        reason: Why it was decided so.
        seconds: Time of the check.
        flops: Floating-point operations of the check.
        progress: Share of the run that was over, 0 to 1; None where that wasn't known.
        examples: How many judged the candidates.
        epoch: Epochs of training so far, or calls of `Grower.check` where they weren't known.
        loss: Mean loss on the examples that judged, before anything changed [nats].
        held_out: Mean loss on examples that are not trained on, where it was told [nats].
    """

    event: int
    gain_now: float | None
    candidates: tuple[Candidate, ...]
    growths: tuple[Growth, ...]
    params_before: int
    params_after: int
    reason: str
    seconds: float
    flops: int
    progress: float | None = None
    examples: int = 0
    epoch: float = 0.0
    loss: float = math.nan
    held_out: float = math.nan

    def __str__(self) -> str:
        return "\n".join(map(str, self.growths)) if self.growths else f"no growth: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Return the event as a record of the journal."""
        return {key: _known(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Build an event from a record of the journal; what `to_json` wrote comes back as it was, infinities as nan.

        Args:
            record: What `to_json` gave; other keys are left out.

        Returns:
            The event.

        Examples:
            >>> event = Event(1, None, (), (), 8, 8, "nothing to do", 0.0, 0)
            >>> math.isnan(Event.from_json(event.to_json() | {"step": 7}).loss)
            True
        """
        values = {field.name: record[field.name] for field in fields(cls)}
        values["candidates"] = tuple(_read(Candidate, one) for one in record["candidates"])
        values["growths"] = tuple(_read(Growth, one) for one in record["growths"])
        losses = {name: math.nan if record[name] is None else record[name] for name in ("loss", "held_out")}
        return cls(**values | losses)


Part = TypeVar("Part", Candidate, Growth)


def _read(kind: type[Part], values: Mapping[str, Any]) -> Part:
    """A part of an event; all of its numbers that aren't known are nan."""
    known: dict[str, Any] = {key: math.nan if value is None else value for key, value in values.items()}
    return kind(**known)


def _known(value: Any) -> Any:
    """The value with null in place of every number that isn't known."""
    if isinstance(value, dict):
        return {key: _known(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_known(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
