"""How many examples and positions a check reads, and what that costs, known before it starts.

With f the forward FLOPs of an example now, w those with what is on trial (all units of a pool, or all blocks), and D
directions to judge, that of the present weights among them, n examples of part A and n of part B take about

    A, units     n w A_PASSES                statistics of norms, the moments' forward pass, the backward passes of
                                             the gradient (weights and inputs, 2) and of the noise (inputs, 1)
                 n f PASSES[proposal]        what proposes them
                 2 r (a^2 + s^2)             the factors of a layer with a features and s outputs, from its r rows
                 TRIED (a^3 + s^3) / 3       their Cholesky factors, those that choose a damping among them
    A, blocks    n w (14 + 8 for each)       likewise; the pieces of a block's direction take passes of their own
    A, diagonal  n w DIAGONAL_PASSES         SECNN's score, of units and of blocks
    B, units     n w (B_PASSES + 1.3 D)      judging all directions by back-propagation, the loss, and the drop along
                                             each, which is measured more than once where it disappoints
    B, blocks    n w (2 + 3.5 D)             by forward-mode products
    removals     n f (A_PASSES + 1 + axes)   moments, the loss, and the loss without an axis's units

and starts every module a few times a chunk of examples. Where nothing is judged, both parts are read as A.

Residuals fitted on r rows with a features lose a/r of pure noise, and what a regression on them fails to take out is
credited to new units though the present weights could do it: a layer reads so many positions of each example that r >=
ROWS_PER_FEATURE max(a, s), where it has them and the budget allows; else fewer, and last fewer examples.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from outgrow.grow.diagonal import DIAGONAL_PASSES
from outgrow.grow.folds import DAMPINGS
from outgrow.grow.moments import ROWS_PER_FEATURE, hooked, positions_for
from outgrow.grow.patches import groups_of, has_rows, position_count
from outgrow.grow.policy import Plan
from outgrow.grow.pool import POOL
from outgrow.grow.proposals import PASSES
from outgrow.grow.sample import chunk_of, rows_in
from outgrow.grow.weights import WIDE
from outgrow.net.inputs import Example, call
from outgrow.net.kernels import fast_path
from outgrow.net.preserve import frozen_state

A_PASSES = 5
B_PASSES = 7
DROPS = 1.3  # for each direction
A_STARTS = 6  # passes through all modules on part A: statistics, forward, and two backward passes of two
B_STARTS = 8  # on part B: forward, three backward passes of two, the loss
TRIED = 1 + 2 * len(DAMPINGS)  # Cholesky factors of a factor: of the whole, and for each damping on either fold
BLOCK_A_PASSES, BLOCK_PIECES = 14, 8  # of blocks on part A, and for each of them
BLOCK_B_PASSES, BLOCK_DROPS = 2, 3.5  # on part B, and for each direction
START_FLOPS = 6e6  # what starting a module costs, in the FLOPs that the machine could do meanwhile: 0.1 ms on two cores
WIDER = 1.25  # an axis with the units that a check adds against the axis as it is, where no plan says how many


@dataclass(frozen=True)
class Load:
    """What the factors of one layer are made of.

    Args:
        features: Features of one group, with the constant.
        outputs: Outputs of one group.
        groups: Groups.
        calls: Positions of one example in each call.
    """

    features: int
    outputs: int
    groups: int
    calls: tuple[int, ...]

    def positions(self, examples: int, rows_per_feature: float = ROWS_PER_FEATURE) -> int:
        """Return how many positions of an example to read from each call, at most all and at least one."""
        return min(positions_for(max(self.features, self.outputs), examples, rows_per_feature), max(self.calls))

    def flops(self, examples: int, positions: int, wider: float = 1.0, tried: int = 1) -> float:
        """Return the FLOPs of both factors and of `tried` Cholesky factors of each, with layers `wider` times as wide.

        Of more than `WIDE` outputs only the diagonal is taken.
        """
        rows = examples * sum(min(count, positions) for count in self.calls)
        features, outputs = wider * self.features, wider * self.outputs
        on_outputs = 2 * rows * outputs if outputs > WIDE else 2 * rows * outputs**2 + tried * outputs**3 / 3
        return self.groups * (2 * rows * features**2 + tried * features**3 / 3 + on_outputs)


@dataclass(frozen=True)
class Effort:
    """What a check will read and cost.

    Args:
        examples: Of each part of the sample.
        positions: Positions of each example that a call of a layer gives to its factors, by the layer's path.
        flops: Floating-point operations that it will take, about.
        start: Those that could be done while modules start, beside that.
    """

    examples: int
    positions: Mapping[str, int]
    flops: int
    start: float = 0.0

    def of_fewer(self, examples: int) -> "Effort":
        """Return the effort where there are fewer examples: more positions of each, so that factors have their rows.

        Args:
            examples: Of part A.

        Examples:
            >>> Effort(1_000, {"head": 3}, flops=10**6).of_fewer(400).positions
            {'head': 8}
        """
        if not 0 < examples < self.examples:
            return self
        more = self.examples / examples
        return replace(
            self, examples=examples, positions={path: math.ceil(more * n) for path, n in self.positions.items()}
        )


@dataclass(frozen=True)
class Passes:
    """What goes through a model for one example of each part.

    Args:
        a: FLOPs for an example of part A.
        b: FLOPs for an example of part B.
        starts: Passes through all modules, for each chunk of examples.
    """

    a: float = 0.0
    b: float = 0.0
    starts: float = 0.0

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(self.a + other.a, self.b + other.b, self.starts + other.starts)


@dataclass(frozen=True)
class Workload:
    """What a check has to do, whatever it reads.

    Args:
        loads: The layers whose factors are taken, by path.
        forward: Forward FLOPs of one example of the model as it is.
        passes: What goes through it.
        wider: An axis with what is on trial, against the axis as it is, at most.
        parts: How many parts of the sample are read as part A: 2 where nothing is judged.
        start: What starting one pass through the model costs, in the FLOPs that could be done meanwhile.

    Examples:
        >>> work = Workload({"head": Load(17, 10, 1, (1,))}, forward=5_000, passes=Passes(40_000, 80_000))
        >>> found = work.affordable(1e8)
        >>> found.examples, found.positions, found.flops <= 1e8
        (827, {'head': 1}, True)
    """

    loads: Mapping[str, Load]
    forward: int
    passes: Passes
    wider: float = 1.0
    parts: int = 1
    start: float = 0.0

    def effort(self, examples: int, rows_per_feature: float = ROWS_PER_FEATURE) -> Effort:
        """Return what a check of so many examples a part takes.

        Args:
            examples: Of each part.
            rows_per_feature: Rows to sum for each feature or output of a layer, where it has as many.
        """
        positions = {path: load.positions(examples, rows_per_feature) for path, load in self.loads.items()}
        on_a = self.parts * examples
        factors = sum(load.flops(on_a, positions[path], self.wider, TRIED) for path, load in self.loads.items())
        flops = self.passes.a * on_a + self.passes.b * examples + factors
        starts = self.passes.starts * (examples / chunk_of(self.forward) + 1)
        return Effort(examples, positions, int(flops), starts * self.start)

    def affordable(self, budget: float, least: int = 1, most: int = 2**20) -> Effort:
        """Return the largest check that keeps within a budget.

        As many examples as the budget affords, with `ROWS_PER_FEATURE` rows for each feature; where that are less than
        `least`, with half as many rows, and so on down to one position of each example.

        Args:
            budget: What the check may cost [flops].
            least: Examples below which rows are given up first.
            most: Examples that there are.

        Returns:
            The effort; of no examples where not even one is affordable.
        """
        rows = float(ROWS_PER_FEATURE)
        found = self._within(budget, most, rows)
        while found.examples < min(least, most) and any(count > 1 for count in found.positions.values()):
            rows /= 2
            found = self._within(budget, most, rows)
        return found

    def _within(self, budget: float, most: int, rows_per_feature: float) -> Effort:
        """The most examples within a budget, by bisection."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.effort(middle, rows_per_feature).flops <= budget:
                low = middle
            else:
                high = middle - 1
        return self.effort(low, rows_per_feature)


def passes_of(plan: Plan, proposal: str, forward: int, wide: int, deep: int) -> Passes:
    """Return what a check of a plan sends through the model.

    Args:
        plan: What is on trial.
        proposal: How units are proposed, by name.
        forward: Forward FLOPs of one example of the model as it is.
        wide: Those with all units on trial, a whole pool of them.
        deep: Those with all blocks on trial.

    Examples:
        >>> passes_of(Plan({"0": 2}, "due"), "random", forward=100, wide=120, deep=100)
        Passes(a=600.0, b=1152.0, starts=16.6)
    """
    more = PASSES[proposal] if plan.units else 0
    if plan.evidence == "none":
        return Passes((more + 1) * forward, 0.0, more + 1) if more else Passes()
    judged, found = plan.evidence == "gain", Passes()
    diagonal = DIAGONAL_PASSES * plan.diagonal
    if plan.units:
        drops = DROPS * (1 + len(plan.units))
        on_a, on_b = (A_PASSES + diagonal) * wide + more * forward, (B_PASSES + drops) * wide
        found += Passes(on_a, judged * on_b, A_STARTS + diagonal + more + judged * (B_STARTS + drops))
    if plan.blocks:
        on_a = BLOCK_A_PASSES + BLOCK_PIECES * len(plan.blocks) + diagonal
        on_b = judged * (BLOCK_B_PASSES + BLOCK_DROPS * (1 + len(plan.blocks)))
        found += Passes(on_a * deep, on_b * deep, on_a + on_b)
    if plan.removals:
        on_b = 1 + len(plan.removals)
        found += Passes(A_PASSES * forward, on_b * forward, A_STARTS + on_b)
    return found


def on_trial(units: Mapping[str, int], proposal: str) -> dict[str, int]:
    """Return how many units are put on trial to add so many, by axis."""
    return {axis: count * (POOL if proposal == "mixed" else 1) for axis, count in units.items()}


def loads_of(model: nn.Module, layers: Iterable[str], example: Example) -> dict[str, Load]:
    """Return what the factors of layers are made of, from one forward pass.

    Args:
        model: Left as it is.
        layers: Paths of linear layers or convolutions; others, and those that are not called, are left out.
        example: One input, or several; as many as its first tensor is long in its first dimension.

    Returns:
        The load of each layer for one example.

    Examples:
        >>> loads_of(nn.Sequential(nn.Conv2d(3, 8, 3)), ["0"], torch.zeros(1, 3, 6, 6))
        {'0': Load(features=28, outputs=8, groups=1, calls=(16,))}
    """
    modules = {path: model.get_submodule(path) for path in layers}
    modules = {path: module for path, module in modules.items() if has_rows(module)}
    calls: dict[str, list[int]] = {path: [] for path in modules}
    size = rows_in(example)

    def keep(path: str, read: Tensor, written: Tensor) -> None:
        calls[path].append(max(-(-len(written) * position_count(modules[path], written) // size), 1))

    with frozen_state(model), hooked(modules, keep), fast_path(False), torch.no_grad():
        call(model.eval(), example)
    return {path: _load(modules[path], calls[path]) for path in modules if calls[path]}


def _load(module: nn.Module, calls: list[int]) -> Load:
    weight = module.weight
    assert isinstance(weight, Tensor)
    groups = groups_of(module)
    features = weight[0].numel() + (module.bias is not None)
    return Load(features, len(weight) // groups, groups, tuple(calls))
