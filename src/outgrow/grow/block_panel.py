"""The panel of blocks: all of them on one trial, scored on part A and judged on part B in one pass."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from outgrow.grow.block import BlockTrial
from outgrow.grow.diagonal import DIAGONAL_PASSES
from outgrow.grow.event import Candidate
from outgrow.grow.gain import Gain, joint, mean_loss
from outgrow.grow.judged import Judged
from outgrow.grow.objective import Tangent
from outgrow.grow.policy import Present
from outgrow.grow.sample import examples_in
from outgrow.grow.setup import Setup
from outgrow.grow.trial import DAMPING
from outgrow.net.edit import Insertion
from outgrow.net.place import Place


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


class BlockPanel:
    """Blocks on trial at several places.

    Args:
        setup: What the check goes by.
        places: Where.

    Attributes:
        candidates: Of kind `insert`.
        present: What the weights that are there are worth, and the loss from which blocks were judged.
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
        self._judged = self._judge([tangent for _, _, tangent in scored.values()])
        present, diagonal = trial.diagonal(setup.sample.a) if setup.diagonal else (math.nan, {})
        self.present = Present(self._judged.alone(0).gain, trial.present_score(), math.nan, present, loss=self._loss())
        self.candidates = [
            self._candidate(name, score, bound, diagonal.get(name, math.nan))
            for name, (score, bound, _) in scored.items()
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

    def _loss(self) -> float:
        """The mean loss on part B, which blocks leave as it is [nats]."""
        if not self._setup.judged:
            return math.nan
        self._passes += 1
        return mean_loss(self._trial.model, self._setup.sample.b, self._setup.objective)

    def _candidate(self, place: str, score: float, bound: float, diagonal: float) -> Candidate:
        params, flops = self._trial.cost(place)
        return Candidate(
            "insert",
            place,
            1,
            params,
            flops,
            score=score,
            bound=bound,
            gradient=self._trial.gradient(place),
            present=self.present.score,
            diagonal=diagonal,
            **self._judged.numbers(place),
        )

    def _judge(self, tangents: Sequence[Tangent]) -> Judged:
        blocks, setup = dict.fromkeys(self._places, 1), self._setup
        if not setup.judged:
            return Judged.not_judged(blocks, tangents)
        present = self._trial.present_step()
        judged = Judged.on(self._trial, blocks, tangents, present, setup.sample.b, setup.objective)
        self._passes += judged.passes
        return judged
