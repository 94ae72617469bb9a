"""The panel of units: all of them on one trial, scored on part A and judged on part B in one pass."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from outgrow.errors import InputError
from outgrow.grow.diagonal import DIAGONAL_PASSES
from outgrow.grow.effort import A_PASSES
from outgrow.grow.event import Candidate
from outgrow.grow.gain import Gain, Judgement, confirmed, joint, mean_loss, realised
from outgrow.grow.judged import Judged
from outgrow.grow.objective import Tangent
from outgrow.grow.policy import Present
from outgrow.grow.proposals import PASSES, propose_all
from outgrow.grow.sample import Batch, examples_in
from outgrow.grow.setup import Setup
from outgrow.grow.trial import Trial
from outgrow.net.axis import Axis
from outgrow.net.cost import flops_after
from outgrow.net.widening import Widening


@dataclass(frozen=True)
class Units:
    """Units that were decided on, ready to be added.

    Args:
        widening: The units, with their weights and statistics.
        gain: What they are worth on part B.
        realised: Drop of the loss on part B when the step is taken [nats].
    """

    widening: Widening
    gain: Gain
    realised: float


class UnitPanel:
    """Units on trial on several axes.

    Args:
        setup: What the check goes by.
        units: How many are on trial, by axis.
    """

    def __init__(self, setup: Setup, units: Mapping[Axis, int]) -> None:
        model, sample, objective, generator = setup.model, setup.sample, setup.objective, setup.generator
        self._setup, self._passes = setup, 0.0
        widenings = propose_all(setup.proposal, model, units, sample.a, objective, generator)
        self._trial = trial = Trial(
            model,
            setup.axes,
            widenings,
            sample.a,
            objective,
            generator,
            setup.damping,
            positions=setup.positions,
            fisher=setup.fisher,
            convention=setup.convention,
        )
        self._units = {axis.name: count for axis, count in units.items()}
        scored = {name: trial.scored(name, count) for name, count in self._units.items()}
        self._present = trial.present_step() if setup.judged else {}
        self._judged = self._judge(self._units, [tangent for _, _, tangent in scored.values()])
        present, diagonal = trial.diagonal(sample.a, self._units) if setup.diagonal else (math.nan, {})
        self.candidates = [
            self._candidate(name, score, bound, diagonal.get(name, math.nan))
            for name, (score, bound, _) in scored.items()
        ]
        loss = mean_loss(trial.model, sample.b, objective) if setup.judged else math.nan
        self.present = Present(self._gain_now(loss), trial.present_score(), math.nan, present, loss)

    @property
    def flops(self) -> int:
        """What it cost so far, about."""
        forward = flops_after(self._setup.model, self._setup.axes, self._units, self._setup.counts)
        passes = A_PASSES + PASSES[self._setup.proposal] + DIAGONAL_PASSES * self._setup.diagonal
        on_a = passes * examples_in(self._setup.sample.a)
        return int(forward * (on_a + self._passes * examples_in(self._setup.sample.b))) + self._trial.factor_flops

    @property
    def judgement(self) -> Judgement:
        """Of the step of the present weights, then of each axis in the order of the candidates.

        Raises:
            InputError: Candidates were not judged.
        """
        if self._judged.judgement is None:
            raise InputError("the candidates were scored alone, expected ones that were judged")
        return self._judged.judgement

    def drop(self, axis: str, batches: Sequence[Batch]) -> float:
        """Return the drop of the mean loss [nats] on other examples when an axis's step is taken."""
        worth = self._judged.worths[list(self._units).index(axis)]
        before = mean_loss(self._trial.model, batches, self._setup.objective)
        return realised(self._trial.model, worth.tangent, worth.gain.step, batches, self._setup.objective, before)

    def chosen(self, units: Mapping[str, int]) -> tuple[tuple[Units, ...], dict[str, Tensor]]:
        """Return the units that were decided on, and for a jump-start what their steps add to the widened model.

        Where they are fewer than were on trial, they are judged anew.
        """
        judged = self._judged
        if any(judged.units.get(name) != count for name, count in units.items()):
            judged = self._judge(units, [self._trial.scored(name, count)[2] for name, count in units.items()])
        order = list(judged.units)
        where = [order.index(name) for name in units]
        chosen = tuple(
            Units(self._trial.widening(name, count), judged.worths[i].gain, judged.worths[i].realised)
            for i, (name, count) in zip(where, units.items(), strict=True)
        )
        if not self._setup.jump_start:
            return chosen, {}
        directions = {1 + i: judged.tangents[i] for i in where}
        if judged.judgement is None:
            return chosen, {}
        steps = joint(self._trial.model, judged.judgement, directions, self._setup.sample.b, self._setup.objective)
        return chosen, self._trial.written(list(zip(directions.values(), steps, strict=True)), units)

    def _candidate(self, axis: str, score: float, bound: float, diagonal: float) -> Candidate:
        count = self._units[axis]
        params, flops = self._setup.added({axis: count})
        return Candidate(
            "widen",
            axis,
            count,
            params,
            flops,
            score=score,
            bound=bound,
            gradient=self._trial.gradient(axis, count),
            present=self._trial.present_score(axis),
            diagonal=diagonal,
            **self._judged.numbers(axis),
        )

    def _gain_now(self, loss: float) -> float:
        """What the step of the present weights is worth, as far as the loss confirms it [nats]."""
        trial, batches, gain = self._trial, self._setup.sample.b, self._judged.alone(0)
        if not gain.step > 0:
            return 0.0 if self._setup.judged else math.nan
        found = confirmed(trial.model, self._present, gain, batches, trial.objective, loss)
        self._passes += 1 + found.passes
        return found.gain.gain

    def _judge(self, units: Mapping[str, int], tangents: Sequence[Tangent]) -> Judged:
        setup = self._setup
        if not setup.judged:
            return Judged.not_judged(units, tangents)
        judged = Judged.on(self._trial, units, tangents, self._present, setup.sample.b, setup.objective)
        self._passes += judged.passes
        return judged
