"""Gain: what a step is worth on examples that did not choose it (method.md, section 4).

Along one direction V of the weights, on fresh examples,

    slope     = -E[ dL/dz . dz ],   dz = d(output)/dV by one forward-mode product
    curvature =  E[ dz^T H dz ],    H the Hessian of the loss at the output
    gain      = slope^2 / (2 curvature) if slope > 0 else 0,   step = slope / curvature.

By Cauchy-Schwarz the gain is at most half the natural expansion score on those examples: a lower bound without
selection bias and without any approximation of the curvature but Gauss-Newton's. (Where curvatures are drawn, that
holds in the mean over draws.)

Several directions are judged in one pass. With s their slopes and C the curvatures between them, steps taken together
are C^-1 s, and what direction d adds to direction 0, that of the present weights, has

    slope     = s_d - C_d0 / C_00 s_0,    curvature = C_dd - C_d0^2 / C_00.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from outgrow.grow.layerwise import can_split, expand_by_layers
from outgrow.grow.objective import Expansion, Objective, OutputLoss, Tangent
from outgrow.grow.sample import Batch, examples_in


@dataclass(frozen=True)
class Gain:
    """What a direction is worth.

    Args:
        gain: Nats of mean loss that the best multiple of the direction saves.
        se: Standard error of the gain over examples [nats].
        step: That best multiple; 0 where the direction does not descend.
    """

    gain: float
    se: float
    step: float


KEPT = 0.85  # of a promise, at least, for a step to be taken as it is
TRIES = 3  # steps
BACKWARD = 6  # forward passes that judging layer by layer takes, about
FORWARD = 2.5  # and a forward-mode product
NOTHING = Gain(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Judgement:
    """Directions that were judged together, by their numbers.

    Args:
        slopes: [terms, directions].
        own: Curvature along each direction [terms, directions].
        first: Curvature between each direction and direction 0 [terms, directions].
        matrix: Mean curvature between all directions [directions, directions].
        passes: What judging cost, in forward passes over the examples, about.
    """

    slopes: Tensor
    own: Tensor
    first: Tensor
    matrix: Tensor
    passes: float = 0.0

    def alone(self, direction: int) -> Gain:
        """Return what a direction is worth by itself."""
        return best_step(self.slopes[:, direction], self.own[:, direction])

    def share(self, direction: int) -> float:
        """Return how much of direction 0 a direction has in it: C_d0 / C_00, 0 where direction 0 does not descend."""
        base = float(self.matrix[0, 0])
        return float(self.matrix[direction, 0]) / base if base > 0 and float(self.slopes[:, 0].mean()) > 0 else 0.0

    def beyond(self, direction: int) -> Gain:
        """Return what a direction adds to direction 0: the gain of what is left without its `share` of that one.

        The standard error counts that the share is estimated on the same examples.
        """
        share = self.share(direction)
        if not share:
            return self.alone(direction)
        slopes = self.slopes[:, direction] - share * self.slopes[:, 0]
        curvatures = self.own[:, direction] - 2 * share * self.first[:, direction] + share**2 * self.own[:, 0]
        uncertain = (self.first[:, direction] - share * self.own[:, 0]) * float(self.slopes[:, 0].mean())
        return best_step(slopes, curvatures, -uncertain / float(self.matrix[0, 0]))

    def together(self, directions: Sequence[int]) -> list[float]:
        """Return the steps of directions that are taken together, C^-1 s; 0 for those that would not descend."""
        slopes, left = self.slopes.mean(0), [d for d in directions if self.alone(d).step > 0]
        while left:
            matrix = self.matrix[left][:, left]
            ridge = 1e-9 * matrix.diagonal().mean() * torch.eye(len(left)).to(matrix)
            steps = torch.linalg.solve(matrix + ridge, slopes[left])
            if bool((steps > 0).all()):
                found = dict(zip(left, steps.tolist(), strict=True))
                return [found.get(d, 0.0) for d in directions]
            left.pop(int(steps.argmin()))
        return [0.0 for _ in directions]


def judge(
    model: nn.Module,
    directions: Sequence[Tangent],
    batches: Sequence[Batch],
    objective: Objective,
    generator: torch.Generator | None = None,
) -> Judgement:
    """Judge directions of a model's weights on batches, in one pass.

    With a generator, directions of layers' weights are judged by back-propagation (`layerwise`), whose curvatures are
    drawn; otherwise, and where that can't be, by a forward-mode product each.

    Args:
        model: Run as it is.
        directions: By parameter name; parameters that are not named stay. Without any it gains nothing.
        batches: Examples that had no part in choosing the directions.
        objective: What the model is trained for.
        generator: Draws curvatures.

    Returns:
        The terms of slopes and curvatures.
    """
    there = [i for i, direction in enumerate(directions) if direction]
    if not there:
        return _nothing(len(directions))
    asked = [directions[i] for i in there]
    by_layers = generator is not None and isinstance(objective, OutputLoss) and can_split(model, asked)
    found: list[Expansion] = []
    passes = 0.0
    for batch in batches:
        one = None
        if by_layers and generator is not None:
            one = expand_by_layers(model, asked, batch, objective, generator, checked=bool(found))
        by_layers = one is not None
        passes += (BACKWARD if by_layers else 1 + FORWARD * len(asked)) * batch.size
        found.append(one or objective.expand(model, asked, batch))
    total = examples_in(batches)
    matrix = sum((one.matrix * (batch.size / total) for one, batch in zip(found, batches, strict=True)))
    assert isinstance(matrix, Tensor)
    judged = Judgement(
        torch.cat([one.slopes for one in found]),
        torch.cat([one.own for one in found]),
        torch.cat([one.first for one in found]),
        matrix,
        passes / total,
    )
    return judged if len(there) == len(directions) else _spread(judged, there, len(directions))


def best_step(slopes: Tensor, curvatures: Tensor, more: Tensor | float = 0.0) -> Gain:
    """Return the gain from the terms of each example [examples]; 0 where there is no curvature.

    The standard error is that of the ratio s^2 / 2c to first order: of the terms (s/c) s_i - (s^2/2c^2) c_i.

    Args:
        slopes: Of each example.
        curvatures: Of each example.
        more: Further first-order terms of the slope, of mean zero.

    Returns:
        Gain, its standard error and the step.

    Examples:
        >>> best_step(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0]))
        Gain(gain=0.25, se=0.0, step=0.5)
    """
    slope, curvature = float(slopes.mean()), float(curvatures.mean())
    if not (curvature > 0 and math.isfinite(slope)):
        return NOTHING
    step = slope / curvature
    if step <= 0:
        return Gain(0.0, _error(slopes + more) * abs(step), 0.0)
    return Gain(slope * step / 2, _error(step * (slopes + more) - step**2 / 2 * curvatures), step)


@dataclass(frozen=True)
class Worth:
    """What a candidate is worth beside a step of the present weights, and whether that is kept.

    Args:
        build: Makes the direction, less its share of the present step.
        gain: What that is worth.
        realised: Drop of the loss [nats] when its step is taken; 0 where there is none.
        passes: Forward passes over the examples that it took to find out.
    """

    build: Callable[[], Tangent]
    gain: Gain
    realised: float
    passes: int

    @property
    def tangent(self) -> Tangent:
        """The direction, made anew: as large as all weights that the present step moves."""
        return self.build()


def worths(
    model: nn.Module,
    judgement: Judgement,
    directions: Sequence[Tangent],
    batches: Sequence[Batch],
    objective: Objective,
) -> list[Worth]:
    """Return what each direction but the first is worth beyond the first, with its drop measured.

    Args:
        model: Run as it is; its weights stay.
        judgement: Of these directions on these batches.
        directions: The step of the present weights, then the candidates.
        batches: Part B.
        objective: What the model is trained for.
    """
    gains = [judgement.beyond(d) for d in range(1, len(directions))]
    before = mean_loss(model, batches, objective) if any(gain.step > 0 for gain in gains) else 0.0
    found = []
    for d, gain in enumerate(gains, 1):
        build = partial(_without, directions[d], directions[0], judgement.share(d))
        found.append(replace(confirmed(model, build(), gain, batches, objective, before), build=build))
    return found


def joint(
    model: nn.Module,
    judgement: Judgement,
    directions: Mapping[int, Tangent],
    batches: Sequence[Batch],
    objective: Objective,
) -> list[float]:
    """Return the steps of directions that are taken together, as far as the loss confirms them.

    Args:
        model: Run as it is; its weights stay.
        judgement: Of these directions on these batches.
        directions: Those to take, by their number.
        batches: Part B.
        objective: What the model is trained for.
    """
    steps = judgement.together(list(directions))
    whole: dict[str, Tensor] = {}
    for step, direction in zip(steps, directions.values(), strict=True):
        for name, value in direction.items():
            whole[name] = whole.get(name, 0.0) + step * value
    wanted = torch.zeros(len(judgement.matrix), dtype=torch.float64)
    wanted[list(directions)] = torch.tensor(steps, dtype=torch.float64)
    wanted = wanted.to(judgement.matrix.device)
    slope, curvature = float(judgement.slopes.mean(0) @ wanted), float(wanted @ judgement.matrix @ wanted)
    if not (slope > 0 and curvature > 0):
        return [0.0 for _ in steps]
    promise = Gain(slope**2 / (2 * curvature), 0.0, slope / curvature)
    found = confirmed(model, whole, promise, batches, objective, mean_loss(model, batches, objective))
    return [step * found.gain.step for step in steps]


def _without(direction: Tangent, first: Tangent, share: float) -> Tangent:
    """A direction less a share of the first."""
    left = dict(direction)
    for name, value in first.items() if share else ():
        left[name] = left[name] - share * value if name in left else -share * value
    return left


def confirmed(
    model: nn.Module, tangent: Tangent, gain: Gain, batches: Sequence[Batch], objective: Objective, before: float
) -> Worth:
    """Take the step, and correct the gain where the loss bends more along it than its parabola says.

    A step of finite length meets what no derivative at its start knows: units that switch, probabilities that saturate.
    Where less than `KEPT` of the promise comes, the curvature becomes the secant's, 2 (slope t - drop(t)) / t^2, which
    gives a shorter step t and a smaller gain, and so on. After `TRIES` steps the gain is what came, if anything.

    Args:
        model: Run as it is; its weights stay.
        tangent: The direction.
        gain: What it is worth by its parabola.
        batches: The examples that judged it.
        objective: What the model is trained for.
        before: Their mean loss without the step [nats].

    Returns:
        The gain that is kept, at most the one given, and the drop of the loss when its step is taken.
    """
    if gain.step <= 0:
        return Worth(lambda: tangent, gain, 0.0, 0)
    slope, step, drop, tries = 2 * gain.gain / gain.step, gain.step, 0.0, 0
    for tries in range(1, TRIES + 1):
        drop = realised(model, tangent, step, batches, objective, before)
        if drop >= KEPT * slope * step / 2:
            return Worth(lambda: tangent, Gain(slope * step / 2, gain.se * step / gain.step, step), drop, tries)
        if tries < TRIES:
            step = slope * step**2 / (2 * (slope * step - drop)) if math.isfinite(drop) else step / 4
    se = gain.se * step / gain.step
    kept = Gain(drop, se, step) if drop > 0 else Gain(0.0, se, 0.0)
    return Worth(lambda: tangent, kept, max(drop, 0.0) if math.isfinite(drop) else 0.0, tries)


def realised(
    model: nn.Module, tangent: Tangent, step: float, batches: Sequence[Batch], objective: Objective, before: float
) -> float:
    """Return the drop of the mean loss [nats] on batches when a step is really taken; the model stays as it is."""
    weights = {
        name: model.get_parameter(name).detach() + step * value.to(model.get_parameter(name))
        for name, value in tangent.items()
    }
    return before - mean_loss(model, batches, objective, weights)


def mean_loss(
    model: nn.Module, batches: Sequence[Batch], objective: Objective, weights: Tangent | None = None
) -> float:
    """Return the mean loss [nats] over batches, with some parameters replaced if given."""
    total = sum(objective.mean(model, batch, weights or {}) * batch.size for batch in batches)
    return total / examples_in(batches)


def _nothing(count: int) -> Judgement:
    zeros = torch.zeros(1, count, dtype=torch.float64)
    return Judgement(zeros, zeros, zeros, torch.zeros(count, count, dtype=torch.float64))


def _spread(judged: Judgement, there: Sequence[int], count: int) -> Judgement:
    """Put the judgement of some of the directions where they stand among all of them."""

    def spread(found: Tensor) -> Tensor:
        wide = found.new_zeros(len(found), count)
        wide[:, there] = found
        return wide

    index = torch.tensor(there, device=judged.matrix.device)
    matrix = judged.matrix.new_zeros(count, count)
    matrix[index[:, None], index] = judged.matrix
    first = judged.first if there[0] == 0 else torch.zeros_like(judged.first)
    return Judgement(spread(judged.slopes), spread(judged.own), spread(first), matrix, judged.passes)


def _error(terms: Tensor) -> float:
    return float(terms.std()) / math.sqrt(len(terms)) if len(terms) > 1 else 0.0
