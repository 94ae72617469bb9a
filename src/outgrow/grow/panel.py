"""Panels: all candidates of one kind, scored on part A and judged on part B in one pass."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow.block import BlockTrial
from outgrow.grow.effort import A_PASSES
from outgrow.grow.event import Candidate
from outgrow.grow.gain import Gain, Judgement, Worth, confirmed, joint, mean_loss, realised, worths
from outgrow.grow.moments import Convention, Fisher
from outgrow.grow.objective import Objective, Tangent
from outgrow.grow.policy import Present
from outgrow.grow.proposals import PASSES, propose_all
from outgrow.grow.sample import Batch, Sample, examples_in
from outgrow.grow.trial import DAMPING, Trial
from outgrow.net.axis import Axis
from outgrow.net.cost import flops_after, parameters, parameters_after
from outgrow.net.edit import Insertion
from outgrow.net.inputs import Example
from outgrow.net.place import Place
from outgrow.net.widening import Widening

DIAGONAL_PASSES = 6  # over part A, in forward passes: gradients of the batches, and of single examples
UNKNOWN = Gain(math.nan, math.nan, 0.0)
"""Of what was not judged."""


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


@dataclass(frozen=True)
class Block:
    """A block that was decided on, ready to be inserted.

    Args:
        place: Where.
        insertion: The block, with the weights and statistics that were judged.
        gain: What it is worth on part B.
        realised: Drop of the loss on part B when the step is taken [nats].
        params: Parameters that it adds.
        written: Gives the values, by name, that its parameters have in the real model after the step.
    """

    place: Place
    insertion: Insertion
    gain: Gain
    realised: float
    params: int
    written: Callable[[nn.Module], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Setup:
    """What a check goes by, whatever is on trial.

    Args:
        model: The model as it is; not changed.
        axes: All its axes.
        places: All its places.
        counts: Its FLOPs as `flops_by_weight` counts them.
        sample: Examples that propose, and fresh ones that judge.
        objective: What the model is trained for.
        example: One input of the model.
        generator: The source of everything random.
        damping: Share of the mean diagonal that is added to every K-FAC factor; chosen on held-out data where absent.
        proposal: How units are proposed, by name.
        positions: How many positions of each example are read, by layer; see `take_moments`.
        jump_start: Whether the steps that gains stand for will be taken.
        fisher: Which Fisher matrix the factors approximate, `true` or `empirical`.
        convention: How positions enter the factors, `expand` or `reduce`.
        judged: Whether candidates are judged on part B, or scored alone.
        diagonal: Whether they get SECNN's score, too.
    """

    model: nn.Module
    axes: Sequence[Axis]
    places: Sequence[Place]
    counts: Mapping[str, int]
    sample: Sample
    objective: Objective
    example: Example
    generator: torch.Generator
    damping: float | None = None
    proposal: str = "random"
    positions: Mapping[str, int] | None = None
    jump_start: bool = False
    fisher: Fisher = "true"
    convention: Convention = "expand"
    judged: bool = True
    diagonal: bool = False


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
        base, before = sum(setup.counts.values()), parameters(model)
        self.candidates = [
            _candidate(
                "widen",
                name,
                count,
                parameters_after(model, setup.axes, {name: count}) - before,
                flops_after(model, setup.axes, {name: count}, setup.counts) - base,
                scored[name],
                trial.gradient(name, count),
                self._judged.alone(i),
                self._judged.worths[i - 1],
                trial.present_score(name),
                diagonal.get(name, math.nan),
            )
            for i, (name, count) in enumerate(self._units.items(), 1)
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

    def _gain_now(self, loss: float) -> float:
        """What the step of the present weights is worth, as far as the loss confirms it [nats]."""
        trial, batches, gain = self._trial, self._setup.sample.b, self._judged.alone(0)
        if not gain.step > 0:
            return 0.0 if self._setup.judged else math.nan
        found = confirmed(trial.model, self._present, gain, batches, trial.objective, loss)
        self._passes += 1 + found.passes
        return found.gain.gain

    def _judge(self, units: Mapping[str, int], tangents: Sequence[Tangent]) -> "_Judged":
        if not self._setup.judged:
            return _unjudged(units, tangents)
        trial, batches, directions = self._trial, self._setup.sample.b, [self._present, *tangents]
        judgement = trial.judged(directions, batches)
        found = worths(trial.model, judgement, directions, batches, trial.objective)
        self._passes += 1 + judgement.passes + sum(worth.passes for worth in found)
        return _Judged(dict(units), judgement, tangents, found)


class BlockPanel:
    """Blocks on trial at several places.

    Args:
        setup: What the check goes by.
        places: Where.
    """

    def __init__(self, setup: Setup, places: Sequence[Place]) -> None:
        self._setup, self._places, self._passes = setup, {place.name: place for place in places}, 0.0
        damping = DAMPING if setup.damping is None else setup.damping
        self._trial = trial = BlockTrial(
            setup.model,
            places,
            setup.sample.a,
            setup.objective,
            setup.generator,
            damping,
            example=setup.example,
            fisher=setup.fisher,
            convention=setup.convention,
        )
        scored = {name: trial.scored(name) for name in self._places}
        self._judged = judged = self._judge([tangent for _, _, tangent in scored.values()])
        present, diagonal = trial.diagonal(setup.sample.a) if setup.diagonal else (math.nan, {})
        self.present = Present(judged.alone(0).gain, trial.present_score(), math.nan, present)
        self.candidates = [
            _candidate(
                "insert",
                name,
                1,
                *trial.cost(name),
                scored[name],
                trial.gradient(name),
                judged.alone(i),
                judged.worths[i - 1],
                self.present.score,
                diagonal.get(name, math.nan),
            )
            for i, name in enumerate(self._places, 1)
        ]

    @property
    def flops(self) -> int:
        """What it cost, about."""
        forward = sum(self._setup.counts.values()) + sum(self._trial.cost(name)[1] for name in self._places)
        passes = self._trial.passes + DIAGONAL_PASSES * self._setup.diagonal
        on_a = passes * examples_in(self._setup.sample.a)
        return int(forward * (on_a + self._passes * examples_in(self._setup.sample.b))) + self._trial.factor_flops

    def chosen(self, names: Sequence[str]) -> tuple[Block, ...]:
        """Return the blocks that were decided on."""
        where = [[*self._places].index(name) for name in names]
        setup, judged, steps = self._setup, self._judged, dict.fromkeys(names, 0.0)
        if setup.jump_start and judged.judgement is not None:
            directions = {1 + i: judged.tangents[i] for i in where}
            taken = joint(self._trial.model, judged.judgement, directions, setup.sample.b, setup.objective)
            steps = dict(zip(names, taken, strict=True))

        def written(name: str, model: nn.Module) -> Mapping[str, Tensor]:
            return self._trial.written(model, name, self._trial.scored(name)[2], steps[name])

        return tuple(
            Block(
                self._places[name],
                self._trial.insertion(name),
                judged.worths[i].gain,
                judged.worths[i].realised,
                self._trial.cost(name)[0],
                partial(written, name),
            )
            for i, name in zip(where, names, strict=True)
        )

    def _judge(self, tangents: Sequence[Tangent]) -> "_Judged":
        blocks, setup = dict.fromkeys(self._places, 1), self._setup
        if not setup.judged:
            return _unjudged(blocks, tangents)
        directions = [self._trial.present_step(), *tangents]
        judgement = self._trial.judged(directions, setup.sample.b)
        found = worths(self._trial.model, judgement, directions, setup.sample.b, setup.objective)
        self._passes += 1 + judgement.passes + sum(worth.passes for worth in found)
        return _Judged(blocks, judgement, tangents, found)


@dataclass(frozen=True)
class _Judged:
    units: dict[str, int]
    judgement: Judgement | None
    tangents: Sequence[Tangent]
    worths: Sequence[Worth]

    def alone(self, direction: int) -> Gain:
        return UNKNOWN if self.judgement is None else self.judgement.alone(direction)


def _unjudged(units: Mapping[str, int], tangents: Sequence[Tangent]) -> _Judged:
    """What was not judged."""
    return _Judged(dict(units), None, tangents, [Worth(dict, UNKNOWN, math.nan, 0)] * len(tangents))


def _candidate(
    kind: str,
    where: str,
    units: int,
    params: int,
    flops: int,
    scored: tuple[float, float, Tangent],
    gradient: float,
    alone: Gain,
    worth: Worth,
    present: float,
    diagonal: float,
) -> Candidate:
    return Candidate(
        kind=kind,
        where=where,
        units=units,
        params=params,
        flops=flops,
        gain=worth.gain.gain,
        se=worth.gain.se,
        realised=worth.realised,
        alone=alone.gain,
        alone_se=alone.se,
        score=scored[0],
        bound=scored[1],
        gradient=gradient,
        present=present,
        diagonal=diagonal,
    )
