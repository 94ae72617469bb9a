"""A trial: pools of new units of every axis at once, ordered, scored and judged on a copy of the model (`stage`).

What is proposed on an axis is a pool: units that don't fire are drawn anew, and all are ordered by what each adds to
those before it (`selection`). "The first units" are those of that order.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from outgrow.grow.diagonal import diagonal_score
from outgrow.grow.folds import DAMPINGS, best_on_the_other, drop, folds
from outgrow.grow.gain import Judgement, judge
from outgrow.grow.moments import Convention, Fisher, Moments, merged, take_moments
from outgrow.grow.objective import Objective, Tangent
from outgrow.grow.patches import is_mixer
from outgrow.grow.sample import Batch
from outgrow.grow.selection import Reading, greedy
from outgrow.grow.stage import Stage
from outgrow.grow.weights import is_wide, tangent_of
from outgrow.net.axis import Axis
from outgrow.net.edit import grid
from outgrow.net.widening import Widening

DAMPING = 0.3  # where a layer is too wide to choose: its factors are not kept fold by fold
NO_UNITS = torch.empty(0, 1, dtype=torch.long)  # places [units, entries]


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
            the other; `DAMPING` where a layer is wide, or called on one half only.
        positions: How many positions of each example are read, by layer; see `take_moments`.
        fisher: Which Fisher matrix is approximated; see `take_moments`.
        convention: How positions enter its factors; see `take_moments`.

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
        fisher: Fisher = "true",
        convention: Convention = "expand",
    ) -> None:
        self._stage = Stage(model, found, widenings, batches, objective, generator)
        self.model, self.objective, self._generator = self._stage.model, objective, generator
        reading = [m for axis in self._stage.axes.values() for m in axis.consumers if m.tensor.endswith("weight")]
        layers = list(dict.fromkeys(m.module for m in reading))
        choose = damping is None and not any(is_wide(self.model.get_submodule(path)) for path in layers)
        parts = folds(batches) if choose else (batches,)
        taken = [
            take_moments(
                self.model, layers, p, objective, generator, convention=convention, fisher=fisher, positions=positions
            )
            for p in parts
        ]
        self.moments = merged(taken)
        self._present_damping = DAMPING if damping is None else damping
        self.dampings = dict.fromkeys(self._stage.axes, self._present_damping)
        if choose:
            self._present_damping = _best([[self._reading(path, m) for path, m in part.items()] for part in taken])
            self.dampings = {name: _best([self._readings(name, part) for part in taken]) for name in self.dampings}
        self._orders: dict[str, Tensor] = {}
        factors = sum(moments.cholesky_flops for moments in self.moments.values())
        self.factor_flops = sum(moments.flops for part in taken for moments in part.values()) + factors
        self.factor_flops += len(parts) * len(DAMPINGS) * factors if choose else 0
        self._trained = freeze_(self.model)

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
            new = self._stage.new(axis, member, chosen)
            found = self._reading(member.module, moments, new).increase(self.dampings[axis])
            score, bound = score + found.score, bound + found.bound
            tangent.update(self._tangent(member.module, moments, torch.cat([found.present, found.new], 1), new))
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
                reading = self._reading(member.module, moments, self._stage.new(axis, member, chosen))
                squares += float(reading.G[:, reading.present :].square().sum())
        return math.sqrt(squares)

    def judged(self, tangents: Sequence[Tangent], batches: Sequence[Batch]) -> Judgement:
        """Judge steps on part B, in one pass."""
        return judge(self.model, tangents, batches, self.objective, self._generator)

    def present_step(self) -> Tangent:
        """Return the natural-gradient step of the present weights, in every layer that reads an axis on trial."""
        tangent: dict[str, Tensor] = {}
        for path, moments in self.moments.items():
            step = self._reading(path, moments).step(self._present_damping)
            tangent.update(self._tangent(path, moments, step))
        return tangent

    def present_score(self, axis: str | None = None) -> float:
        """Return the score of the present weights [nats] of the layers that read an axis, or any axis on trial."""
        reading = self.moments if axis is None else {m.module for m in self._stage.axes[axis].consumers}
        found = [self._reading(path, moments) for path, moments in self.moments.items() if path in reading]
        return sum(reading.quadratic(reading.step(self._present_damping))[0] for reading in found)

    def diagonal(self, batches: Sequence[Batch], units: Mapping[str, int]) -> tuple[float, dict[str, float]]:
        """Return SECNN's score of the real model's weights, and of the columns that read the first new units of axes.

        Args:
            batches: The examples.
            units: How many units, by axis.

        Returns:
            The score of all weights that are trained, and that of the columns by axis.
        """
        terms, stage = frozen_terms(self.model, self._trained, batches, self.objective), self._stage
        kept = {name: [*change.keep] for name, change in stage.changes.items()}
        names = [name for name, _ in self.model.named_parameters() if name in terms]  # a tied one once
        present = sum(float((terms[name][grid(kept[name])] if name in kept else terms[name]).sum()) for name in names)
        new = dict.fromkeys(units, 0.0)
        for axis, count in units.items():
            for member in stage.axes[axis].consumers:
                where = list(kept[member.tensor])
                where[member.dim] = stage.new(axis, member, self.first(axis, count)).flatten()
                new[axis] += float(terms[member.tensor][grid(where)].sum())
        return present, new

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
            other new units, the real model then computes what this one does with the steps taken.
        """
        return self._stage.written(steps, {name: self.first(name, count) for name, count in units.items()})

    def _readings(self, axis: str, moments: Mapping[str, Moments]) -> list[Reading]:
        """How the layers that read an axis read its pool."""
        members = [m for m in self._stage.axes[axis].consumers if m.module in moments]
        return [self._reading(m.module, moments[m.module], self._stage.new(axis, m)) for m in members]

    def _reading(self, path: str, moments: Moments, new: Tensor = NO_UNITS) -> Reading:
        """How a layer reads its present features, and beside them those of new units at some places."""
        rows, at = self._where(path, moments, new)
        entries = new.shape[1] * moments.kernel
        return Reading(moments.A[at][:, at], moments.among(rows), moments.G[rows][:, at], len(new), entries)

    def _tangent(self, path: str, moments: Moments, step: Tensor, new: Tensor = NO_UNITS) -> Tangent:
        """A step of what a layer reads, in the order of `_reading`, by parameter; frozen biases stay."""
        rows, at = self._where(path, moments, new)
        full = torch.zeros_like(moments.G)
        full[rows[:, None], at] = step
        return tangent_of(path, self.model.get_submodule(path), full, moments.bias_moves)

    def _where(self, path: str, moments: Moments, new: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs that the real model's layer has, and its features with those of new units behind them."""
        rows, inputs = self._stage.kept(path)
        return rows, torch.cat([moments.features_of(inputs, bias=True), moments.features_of(new.flatten())])


def freeze_(model: nn.Module) -> list[str]:
    """Stop all parameters of a model on trial from asking for gradients; return the names of those that did."""
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    model.requires_grad_(False)
    return names


def frozen_terms(
    model: nn.Module, names: Sequence[str], batches: Sequence[Batch], objective: Objective
) -> dict[str, Tensor]:
    """Return the terms of SECNN's score of parameters that `freeze_` froze; they stay frozen."""
    try:
        for name in names:
            model.get_parameter(name).requires_grad_(True)
        return diagonal_score(model, names, batches, objective)
    finally:
        model.requires_grad_(False)


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
        terms = other.quadratic(one.step(damping))
        slope, curvature = slope + terms[0], curvature + terms[1]
    return drop(slope, curvature)


def _best(parts: Sequence[Sequence[Reading]]) -> float:
    """The damping whose step from one of two folds drops K-FAC's quadratic of the other most."""
    same = len({len(part) for part in parts}) == 1
    return best_on_the_other(DAMPINGS, parts, held_out_value) if same else DAMPING


def can_try(model: nn.Module, axis: Axis) -> str:
    """Return why the units of an axis can't be put on trial, or an empty string."""
    if not axis.growable:
        return axis.reason
    if axis.zero != "in":
        return "its new units come in through zero rows, whose worth can't be judged by what reads them"
    for member in axis.consumers:
        if not is_mixer(model.get_submodule(member.module)) or not member.tensor.endswith("weight"):
            return f"{member.module or member.tensor}, which reads it, is no linear layer or ungrouped convolution"
        if not model.get_parameter(member.tensor).requires_grad:
            return f"{member.module}, which reads it, is frozen"
    return ""


def tried(model: nn.Module, found: Sequence[Axis], units: Mapping[str, int]) -> list[Axis]:
    """Return the axes that can be tried and that `units` has any for."""
    return [axis for axis in found if units.get(axis.name, 0) > 0 and not can_try(model, axis)]
