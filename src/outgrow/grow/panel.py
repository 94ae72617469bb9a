"""Panels: all candidates of one kind, scored on part A and judged on part B in one pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from outgrow.grow.block import BlockTrial
from outgrow.grow.effort import A_PASSES
from outgrow.grow.event import Candidate
from outgrow.grow.gain import Gain, Judgement, Worth, confirmed, joint, mean_loss, realised, worths
from outgrow.grow.moments import Convention, Fisher
from outgrow.grow.objective import Objective, Tangent
from outgrow.grow.proposals import PASSES, propose_all
from outgrow.grow.sample import Batch, Sample, examples_in
from outgrow.grow.trial import DAMPING, Trial
from outgrow.net.axis import Axis
from outgrow.net.cost import flops_after, parameters, parameters_after
from outgrow.net.edit import Insertion
from outgrow.net.inputs import Example
from outgrow.net.place import Place
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
        self._present = trial.present_step()
        self._judged = self._judge(self._units, [tangent for _, _, tangent in scored.values()])
        self.gain_now = self._gain_now()
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
                self._judged.judgement.alone(i),
                self._judged.worths[i - 1],
            )
            for i, (name, count) in enumerate(self._units.items(), 1)
        ]

    @property
    def flops(self) -> int:
        """What it cost so far, about."""
        forward = flops_after(self._setup.model, self._setup.axes, self._units, self._setup.counts)
        on_a = (A_PASSES + PASSES[self._setup.proposal]) * examples_in(self._setup.sample.a)
        return int(forward * (on_a + self._passes * examples_in(self._setup.sample.b))) + self._trial.factor_flops

    @property
    def judgement(self) -> Judgement:
        """Of the step of the present weights, then of each axis in the order of the candidates."""
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
        steps = joint(self._trial.model, judged.judgement, directions, self._setup.sample.b, self._setup.objective)
        return chosen, self._trial.written(list(zip(directions.values(), steps, strict=True)), units)

    def _gain_now(self) -> float:
        """What the step of the present weights is worth, as far as the loss confirms it [nats]."""
        trial, batches, gain = self._trial, self._setup.sample.b, self.judgement.alone(0)
        if gain.step <= 0:
            return 0.0
        before = mean_loss(trial.model, batches, trial.objective)
        found = confirmed(trial.model, self._present, gain, batches, trial.objective, before)
        self._passes += 1 + found.passes
        return found.gain.gain

    def _judge(self, units: Mapping[str, int], tangents: Sequence[Tangent]) -> "_Judged":
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
        self._setup, self._places = setup, {place.name: place for place in places}
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
        directions = [trial.present_step(), *(tangent for _, _, tangent in scored.values())]
        judgement = trial.judged(directions, setup.sample.b)
        found = worths(trial.model, judgement, directions, setup.sample.b, setup.objective)
        self._worths = dict(zip(self._places, found, strict=True))
        self._judgement, self._directions = judgement, dict(enumerate(directions))
        self._passes = 1 + judgement.passes + sum(worth.passes for worth in found)
        self.gain_now = judgement.alone(0).gain
        self.candidates = [
            _candidate(
                "insert", name, 1, *trial.cost(name), scored[name], trial.gradient(name), judgement.alone(i), worth
            )
            for i, (name, worth) in enumerate(self._worths.items(), 1)
        ]

    @property
    def flops(self) -> int:
        """What it cost, about."""
        forward = sum(self._setup.counts.values()) + sum(self._trial.cost(name)[1] for name in self._places)
        on_a = self._trial.passes * examples_in(self._setup.sample.a)
        return int(forward * (on_a + self._passes * examples_in(self._setup.sample.b))) + self._trial.factor_flops

    def chosen(self, names: Sequence[str]) -> tuple[Block, ...]:
        """Return the blocks that were decided on."""
        order = list(self._places)
        directions = {1 + order.index(name): self._directions[1 + order.index(name)] for name in names}
        setup, steps = self._setup, dict.fromkeys(names, 0.0)
        if setup.jump_start:
            taken = joint(self._trial.model, self._judgement, directions, setup.sample.b, setup.objective)
            steps = dict(zip(names, taken, strict=True))

        def written(name: str, model: nn.Module) -> Mapping[str, Tensor]:
            return self._trial.written(model, name, self._trial.scored(name)[2], steps[name])

        return tuple(
            Block(
                self._places[name],
                self._trial.insertion(name),
                self._worths[name].gain,
                self._worths[name].realised,
                self._trial.cost(name)[0],
                partial(written, name),
            )
            for name in names
        )


@dataclass(frozen=True)
class _Judged:
    units: dict[str, int]
    judgement: Judgement
    tangents: Sequence[Tangent]
    worths: Sequence[Worth]


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
    )
