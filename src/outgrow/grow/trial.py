"""A trial: pools of new units of every axis at once, ordered, scored and judged on a copy of the model (`stage`).

What is proposed on an axis is a pool: units that don't fire are drawn anew, and all are ordered by what each adds to
those before it (`selection`). "The first units" are those of that order.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from outgrow.grow.folds import best_on_the_other, drop, folds
from outgrow.grow.gain import Judgement, judge
from outgrow.grow.moments import Moments, merged, take_moments
from outgrow.grow.objective import Objective, Tangent
from outgrow.grow.patches import is_mixer
from outgrow.grow.sample import Batch
from outgrow.grow.selection import Reading, greedy
from outgrow.grow.stage import Stage
from outgrow.net.axis import Axis, Member
from outgrow.net.widening import Widening

DAMPINGS = (0.01, 0.1, 1.0, 10.0)  # of the mean diagonal, to choose from
DAMPING = 0.3  # where a layer is too wide to choose
WIDE = 2048  # features of a layer, beyond which factors are not kept fold by fold


class Trial:
    """New units on trial.

    Args:
        model: The model as it is; not changed.
        found: All its axes.
        widenings: The units proposed, at most one entry an axis; at least as many as will be asked for.
        batches: Part A of the sample, at least two examples.
        objective: What the model is trained for.
        generator: Draws rows that the widenings leave open, positions and noise.
        damping: Share of the mean diagonal that is added to every factor. Chosen among `DAMPINGS` where absent, for
            each axis and for the present step, by what the step of one half of the batches does in K-FAC's quadratic of
            the other; `DAMPING` where a layer reads more than `WIDE` features.
        positions: How many positions of each example are read, by layer; see `take_moments`.
        settle_all: Whether all running statistics of BatchNorm in training are computed anew on the batches, and not
            those of new channels only: the running ones lag in the first steps of a run.

    Attributes:
        model: The copy with the units, in eval mode.
        moments: Of every layer that reads an axis on trial.
        dampings: The damping of each axis.
        factor_flops: FLOPs of the moments and of factorising them.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Sequence[Axis],
        widenings: Sequence[Widening],
        batches: Sequence[Batch],
        objective: Objective,
        generator: torch.Generator,
        damping: float | None = None,
        *,
        positions: Mapping[str, int] | None = None,
        settle_all: bool = False,
    ) -> None:
        self._stage = Stage(model, found, widenings, batches, objective, generator, settle_all)
        self.model, self.objective, self._damping, self._generator = self._stage.model, objective, damping, generator
        reading = [m for axis in self._stage.axes.values() for m in axis.consumers if m.tensor.endswith("weight")]
        layers = list(dict.fromkeys(m.module for m in reading))
        choose = damping is None and not any(_features(self.model, path) > WIDE for path in layers)
        parts = folds(batches) if choose else (batches,)
        taken = [take_moments(self.model, layers, p, objective, generator, positions=positions) for p in parts]
        self.moments = merged(taken)
        pools = {name: [self._readings(name, part) for part in taken] for name in self._stage.axes}
        self.dampings = {name: self._chosen(folded) for name, folded in pools.items()}
        self._present_damping = self._chosen([[self._present(path, m) for path, m in p.items()] for p in taken])
        self._orders: dict[str, Tensor] = {}
        factors = sum(size**3 // 3 for moments in self.moments.values() for size in moments.G.shape)
        self.factor_flops = sum(moments.flops for part in taken for moments in part.values()) + factors
        self.factor_flops += len(parts) * len(DAMPINGS) * factors if choose else 0
        self._frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        self.model.requires_grad_(False)

    def scored(self, axis: str, units: int) -> tuple[float, float, Tangent]:
        """Return the score and its lower bound [nats], and the step, of the first `units` new units of an axis.

        The sums run over the layers that read the axis, each under its own K-FAC factors; layers without moments, whose
        weights are used without calling them, count for nothing.
        """
        score, bound, tangent, chosen = 0.0, 0.0, dict[str, Tensor](), self.first(axis, units)
        for member in self._stage.axes[axis].consumers:
            moments = self.moments.get(member.module)
            if moments is None:
                continue
            found = self._reading(axis, member, moments).chosen(chosen).increase(self.dampings[axis])
            score, bound = score + found.score, bound + found.bound
            rows, inputs = self._stage.kept(member.module)
            step = torch.zeros_like(moments.G)
            step[rows[:, None], moments.features_of(self._stage.new(axis, member, chosen).flatten())] = found.new
            step[rows[:, None], moments.features_of(inputs, bias=True)] = found.present
            tangent.update(self._tangent(member.module, step))
        return score, bound, tangent

    def first(self, axis: str, units: int) -> Tensor:
        """Return the first units of an axis: the best ones together, the best first; all as they were proposed."""
        pool = torch.arange(self._stage.pool(axis))
        if units >= len(pool):
            return pool
        if axis not in self._orders:
            readings = self._readings(axis, self.moments)
            self._orders[axis] = greedy(readings, self.dampings[axis]) if readings else pool
        return self._orders[axis][:units]

    def gradient(self, axis: str, units: int) -> float:
        """Return the norm of the gradient with respect to the columns that read the first `units` new units."""
        squares, chosen = 0.0, self.first(axis, units)
        for member in self._stage.axes[axis].consumers:
            if moments := self.moments.get(member.module):
                rows, _ = self._stage.kept(member.module)
                new = moments.features_of(self._stage.new(axis, member, chosen).flatten())
                squares += float(moments.G[rows][:, new].square().sum())
        return math.sqrt(squares)

    def judged(self, tangents: Sequence[Tangent], batches: Sequence[Batch]) -> Judgement:
        """Judge steps on part B, in one pass."""
        return judge(self.model, tangents, batches, self.objective, self._generator)

    def present_step(self) -> Tangent:
        """Return the natural-gradient step of the present weights, in every layer that reads an axis on trial."""
        tangent: dict[str, Tensor] = {}
        for path, moments in self.moments.items():
            rows, inputs = self._stage.kept(path)
            step = torch.zeros_like(moments.G)
            present = self._present(path, moments).step(self._present_damping)
            step[rows[:, None], moments.features_of(inputs, bias=True)] = present
            tangent.update(self._tangent(path, step))
        return tangent

    def widening(self, axis: str, units: int) -> Widening:
        """Return the first `units` new units of an axis, in order, as an edit of the real model with all they need."""
        return self._stage.widening(axis, self.first(axis, units))

    def written(self, steps: Sequence[tuple[Tangent, float]], units: Mapping[str, int]) -> dict[str, Tensor]:
        """Return what steps add to the tensors of the real model once it has been widened.

        Args:
            steps: Tangents of this trial, and how far along each.
            units: How many units of which axes the real model got, each by `widening`.

        Returns:
            The sum of the steps by name, in the shapes that the tensors have after the edit. Where the steps move no
            other new units, and present statistics were left alone, the real model then computes what this one does
            with the steps taken.
        """
        return self._stage.written(steps, {name: self.first(name, count) for name, count in units.items()})

    def _readings(self, axis: str, moments: Mapping[str, Moments]) -> list[Reading]:
        """How the layers that read an axis read its pool."""
        members = [m for m in self._stage.axes[axis].consumers if m.module in moments]
        return [self._reading(axis, member, moments[member.module]) for member in members]

    def _reading(self, axis: str, member: Member, moments: Moments) -> Reading:
        rows, inputs = self._stage.kept(member.module)
        new = self._stage.new(axis, member)
        at = torch.cat([moments.features_of(inputs, bias=True), moments.features_of(new.flatten())])
        entries = new.shape[1] * moments.kernel
        return Reading(moments.A[at][:, at], moments.S[rows][:, rows], moments.G[rows][:, at], len(new), entries)

    def _present(self, path: str, moments: Moments) -> Reading:
        """How a layer reads its present features, with no units beside."""
        rows, inputs = self._stage.kept(path)
        at = moments.features_of(inputs, bias=True)
        return Reading(moments.A[at][:, at], moments.S[rows][:, rows], moments.G[rows][:, at], 0, 1)

    def _chosen(self, parts: Sequence[Sequence[Reading]]) -> float:
        """The damping whose step from one fold drops K-FAC's quadratic of the other most."""
        if self._damping is not None:
            return self._damping
        same = len({len(part) for part in parts}) == 1
        return best_on_the_other(DAMPINGS, parts, held_out_value) if len(parts) == 2 and same else DAMPING

    def _tangent(self, path: str, step: Tensor) -> Tangent:
        """Split a step [outputs, features] into those of weight and bias."""
        module = self.model.get_submodule(path)
        weight = module.weight
        assert isinstance(weight, Tensor)
        inputs = weight[0].numel()
        found = {f"{path}.weight": step[:, :inputs].reshape(weight.shape).to(weight.dtype)}
        if module.bias is not None and f"{path}.bias" not in self._frozen:
            found[f"{path}.bias"] = step[:, inputs].to(weight.dtype)
        return found


def held_out_value(damping: float, make: Sequence[Reading], test: Sequence[Reading]) -> float:
    """Return what the step V that one fold makes takes off K-FAC's quadratic of another, over all layers.

    At its best multiple that is (sum Tr V^T G)^2 / (2 sum Tr V A V^T S), with the other fold's moments.

    Args:
        damping: Of the step.
        make: Layers as read on the fold that makes the step.
        test: The same layers on the other one.

    Returns:
        The drop [nats]; 0 where the step climbs there.
    """
    slope, curvature = 0.0, 0.0
    for one, other in zip(make, test, strict=True):
        step = one.step(damping)
        slope -= float((step * other.G).sum())
        curvature += float((step @ other.A * (other.S @ step)).sum())
    return drop(slope, curvature)


def can_try(model: nn.Module, axis: Axis) -> str:
    """Return why the units of an axis can't be put on trial, or an empty string."""
    if not axis.growable:
        return axis.reason
    if axis.zero != "in":
        return "its new units come in through zero rows, whose worth can't be judged by what reads them"
    for member in axis.consumers:
        if not is_mixer(model.get_submodule(member.module)) or not member.tensor.endswith("weight"):
            return f"{member.module}, which reads it, is no linear layer or ungrouped convolution"
        if not model.get_parameter(member.tensor).requires_grad:
            return f"{member.module}, which reads it, is frozen"
    return ""


def tried(model: nn.Module, found: Sequence[Axis], units: Mapping[str, int]) -> list[Axis]:
    """Return the axes that can be tried and that `units` has any for."""
    return [axis for axis in found if units.get(axis.name, 0) > 0 and not can_try(model, axis)]


def _features(model: nn.Module, path: str) -> int:
    weight = model.get_submodule(path).weight
    assert isinstance(weight, Tensor)
    return weight[0].numel()
