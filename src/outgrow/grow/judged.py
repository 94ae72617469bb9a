"""What the candidates of a panel are worth, judged together on part B."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outgrow.grow.block import BlockTrial
from outgrow.grow.gain import Gain, Judgement, Worth, worths
from outgrow.grow.objective import Objective, Tangent
from outgrow.grow.sample import Batch
from outgrow.grow.trial import Trial

UNKNOWN = Gain(math.nan, math.nan, 0.0)
"""Of what was not judged."""


@dataclass(frozen=True)
class Judged:
    """Candidates on one trial: direction 0 is the step of the present weights, theirs come behind it in order.

    Args:
        units: How many units each candidate has, by its axis or place.
        tangents: Their directions.
        judgement: Of all directions; None where nothing was judged.
        worths: What each candidate is worth beyond the step of the present weights.
    """

    units: Mapping[str, int]
    tangents: Sequence[Tangent]
    judgement: Judgement | None
    worths: Sequence[Worth]

    @classmethod
    def on(
        cls,
        trial: Trial | BlockTrial,
        units: Mapping[str, int],
        tangents: Sequence[Tangent],
        present: Tangent,
        batches: Sequence[Batch],
        objective: Objective,
    ) -> "Judged":
        """Judge candidates in one pass.

        Args:
            trial: Where they are on trial.
            units: How many units each has, by its axis or place.
            tangents: Their directions.
            present: The step of the present weights.
            batches: Part B of the sample.
            objective: What the model is trained for.

        Returns:
            What they are worth.
        """
        directions = [present, *tangents]
        judgement = trial.judged(directions, batches)
        found = worths(trial.model, judgement, directions, batches, objective)
        return cls(dict(units), tangents, judgement, found)

    @classmethod
    def not_judged(cls, units: Mapping[str, int], tangents: Sequence[Tangent]) -> "Judged":
        """Say of candidates that nothing is known of what they are worth."""
        return cls(dict(units), tangents, None, [Worth(dict, UNKNOWN, math.nan, 0)] * len(tangents))

    @property
    def passes(self) -> float:
        """What judging cost, in forward passes over part B, about; the loss before is one of them."""
        if self.judgement is None:
            return 0.0
        return 1 + self.judgement.passes + sum(worth.passes for worth in self.worths)

    def alone(self, direction: int) -> Gain:
        """Return what a direction is worth by itself."""
        return UNKNOWN if self.judgement is None else self.judgement.alone(direction)

    def numbers(self, where: str) -> dict[str, float]:
        """Return what a `Candidate` says of what it is worth."""
        place = [*self.units].index(where)
        worth, alone = self.worths[place], self.alone(1 + place)
        return {
            "gain": worth.gain.gain,
            "se": worth.gain.se,
            "realised": worth.realised,
            "alone": alone.gain,
            "alone_se": alone.se,
        }
