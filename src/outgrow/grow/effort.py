"""How many examples and positions a check reads, and what that costs, known before it starts.

A check puts n examples of part A and n of part B through the model with the new units, WIDER times as wide, so with
`forward` FLOPs of an example now, f = WIDER^2 forward, and D directions to judge, it takes about

    A: n f (A_PASSES + more)     statistics of norms, the moments' forward pass, the backward passes of the
                                 gradient (weights and inputs, 2) and of the noise (inputs, 1)
    A: 2 r (a^2 + s^2)           the factors of a layer with a features and s outputs, from its r rows
       (a^3 + s^3) / 3           their Cholesky factors
    B: n f (B_PASSES + 1.3 D)    judging all directions by back-propagation, the loss, and the drop along each, which
                                 is measured more than once where it disappoints

and starts every module a few times a chunk of examples. Residuals fitted on r rows with a features lose a/r of pure
noise, and what a regression on them fails to take out is credited to new units though the present weights could do it:
a layer reads so many positions of each example that r >= ROWS_PER_FEATURE max(a, s), where it has them and the budget
allows; else fewer, and last fewer examples.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from outgrow.grow.moments import ROWS_PER_FEATURE, hooked, positions_for
from outgrow.grow.patches import groups_of, has_rows, position_count
from outgrow.grow.sample import as_tensors, chunk_of
from outgrow.grow.weights import WIDE
from outgrow.net.inputs import Example, call
from outgrow.net.preserve import frozen_state

A_PASSES = 5
B_PASSES = 7
DROPS = 1.3  # for each direction
A_STARTS = 6  # passes through all modules on part A: statistics, forward, and two backward passes of two
B_STARTS = 8  # on part B: forward, three backward passes of two, the loss
START_FLOPS = 6e6  # what starting a module costs, in the FLOPs that the machine could do meanwhile: 0.1 ms on two cores
WIDER = 1.25  # a model with units on trial against the model as it is, in each width, about


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

    def flops(self, examples: int, positions: int, wider: float = 1.0) -> float:
        """Return the FLOPs of both factors and of a Cholesky factor of each, with layers `wider` times as wide.

        Of more than `WIDE` outputs only the diagonal is taken.
        """
        rows = examples * sum(min(count, positions) for count in self.calls)
        features, outputs = wider * self.features, wider * self.outputs
        on_outputs = 2 * rows * outputs if outputs > WIDE else 2 * rows * outputs**2 + outputs**3 / 3
        return self.groups * (2 * rows * features**2 + features**3 / 3 + on_outputs)


@dataclass(frozen=True)
class Effort:
    """What a check will read and cost.

    Args:
        examples: Of each part of the sample.
        positions: Positions of each example that a call of a layer gives to its factors, by the layer's path.
        flops: What the check will take, about: its operations, and those that could be done while modules start.
    """

    examples: int
    positions: Mapping[str, int]
    flops: int


@dataclass(frozen=True)
class Workload:
    """What a check has to do, whatever it reads.

    Args:
        loads: The layers whose factors are taken, by path.
        forward: Forward FLOPs of one example of the model as it is.
        directions: How many directions are judged.
        more: Further forward passes over part A, such as a proposal takes.
        start: What starting one pass through the model costs, in the FLOPs that could be done meanwhile.

    Examples:
        >>> work = Workload({"head": Load(17, 10, 1, (1,))}, forward=5_000, directions=3)
        >>> found = work.affordable(1e8)
        >>> found.examples, found.positions, found.flops <= 1e8
        (797, {'head': 1}, True)
    """

    loads: Mapping[str, Load]
    forward: int
    directions: int
    start: float = 0.0
    more: float = 0.0

    def effort(self, examples: int, rows_per_feature: float = ROWS_PER_FEATURE) -> Effort:
        """Return what a check of so many examples a part takes.

        Args:
            examples: Of each part.
            rows_per_feature: Rows to sum for each feature or output of a layer, where it has as many.
        """
        positions = {path: load.positions(examples, rows_per_feature) for path, load in self.loads.items()}
        drops = DROPS * self.directions
        passes = A_PASSES + self.more + B_PASSES + drops
        starts = (A_STARTS + self.more + B_STARTS + drops) * (examples / chunk_of(self.forward) + 1)
        factors = sum(load.flops(examples, positions[path], WIDER) for path, load in self.loads.items())
        return Effort(
            examples, positions, int(passes * examples * WIDER**2 * self.forward + starts * self.start + factors)
        )

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


def loads_of(model: nn.Module, layers: Iterable[str], example: Example) -> dict[str, Load]:
    """Return what the factors of layers are made of, from one forward pass.

    Args:
        model: Left as it is.
        layers: Paths of linear layers or convolutions; others, and those that are not called, are left out.
        example: One input, or several.

    Returns:
        The load of each layer for one example.

    Examples:
        >>> loads_of(nn.Sequential(nn.Conv2d(3, 8, 3)), ["0"], torch.zeros(1, 3, 6, 6))
        {'0': Load(features=28, outputs=8, groups=1, calls=(16,))}
    """
    modules = {path: model.get_submodule(path) for path in layers}
    modules = {path: module for path, module in modules.items() if has_rows(module)}
    calls: dict[str, list[int]] = {path: [] for path in modules}
    size = next((len(leaf) for leaf in as_tensors(example) if leaf.ndim), 1)

    def keep(path: str, read: Tensor, written: Tensor) -> None:
        calls[path].append(max(-(-len(written) * position_count(modules[path], written) // size), 1))

    with frozen_state(model), hooked(modules, keep), torch.no_grad():
        call(model.eval(), example)
    return {path: _load(modules[path], calls[path]) for path in modules if calls[path]}


def _load(module: nn.Module, calls: list[int]) -> Load:
    weight = module.weight
    assert isinstance(weight, Tensor)
    groups = groups_of(module)
    features = weight[0].numel() + (module.bias is not None)
    return Load(features, len(weight) // groups, groups, tuple(calls))
