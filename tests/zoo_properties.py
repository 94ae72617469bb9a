"""What must hold for every axis and every place of any network: kept function, exact return, and units that learn."""

from collections.abc import Collection, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from net_cases import Case, noise
from outgrow.net.axes import Axis, Member, axes, find_axis
from outgrow.net.deepen import deepen_
from outgrow.net.inputs import Example, call
from outgrow.net.places import places
from outgrow.net.preserve import NoChance, change
from outgrow.net.remove import Removal, remove
from outgrow.net.surgery import tensors_of
from outgrow.net.widen import apply_
from outgrow.net.widening import Widening

EXACT = {torch.float64: 1e-10, torch.float32: 1e-5}  # of the output's scale
NOISE = 1e-6  # of the largest gradient: what is below has no gradient to speak of
ENOUGH = 8  # units, so that some are alive behind a ReLU


def cast(example: Example, dtype: torch.dtype) -> Example:
    """Return an example with its floating-point tensors in a dtype."""
    return pytree.tree_map(
        lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, example
    )


def opened(case: Case, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Example]:
    """Return the network of a case and its input in a dtype."""
    return case.model().to(dtype), cast(case.example, dtype)


def exact(case: Case, dtype: torch.dtype = torch.float64) -> float:
    """How far an output may move, relative to its scale."""
    return EXACT[torch.float32 if getattr(case, "single", False) else dtype]


def growable(found: list[Axis]) -> list[Axis]:
    return [axis for axis in found if axis.growable]


def run(model: nn.Module, example: Example, training: bool) -> list[Tensor]:
    """Outputs; statistics are put back. The package's own comparison has no part in it."""
    torch.default_generator.manual_seed(0)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        result = call(model.train(training), example)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return [leaf.clone() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def outputs(model: nn.Module, example: Example, case: Case) -> list[Tensor]:
    """Outputs in eval mode and, where the network has no dropout, in train mode."""
    return [leaf for training in [False] * case.dropout or [False, True] for leaf in run(model, example, training)]


def contents(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}


def same(before: dict[str, Tensor], after: dict[str, Tensor], close: Collection[str] = ()) -> str:
    """Return which tensors differ, by one bit or, if they are named in `close`, by more than rounding."""
    if before.keys() != after.keys():
        return f"names: {sorted(before.keys() ^ after.keys())}"
    return ", ".join(
        name
        for name, tensor in before.items()
        if tensor.shape != after[name].shape
        or not (torch.allclose(tensor, after[name], rtol=1e-12) if name in close else torch.equal(tensor, after[name]))
    )


def widening_keeps_the_function(
    case: Case, dtype: torch.dtype, found: list[Axis] | None = None, numbers: Sequence[int] = (1, 3)
) -> None:
    """Every growable axis by itself, then all at once; each edit is taken back, which must leave no trace."""
    model, example = opened(case, dtype)
    found = axes(model, example) if found is None else found
    before, out = contents(model), outputs(model, example, case)
    edits = [[Widening(axis, units)] for axis in growable(found) for units in numbers]
    for widenings in [*edits, [Widening(axis, 2) for axis in growable(found)]]:
        what = f"{[w.axis.name for w in widenings]} by {[w.units for w in widenings]}"
        edit = apply_(model, found, widenings, inputs=example)
        assert max(edit.moved, change(out, outputs(model, example, case))) <= exact(case, dtype), what
        edit.undo()
        assert not same(before, contents(model)), what


def removal_takes_widening_back(case: Case, found: list[Axis] | None = None, units: int = 3) -> None:
    """Adding units and removing them leaves the tensors, sizes and axes that were there.

    Bit for bit, but for the gains and eps of RMS norms, which are multiplied and divided again.
    """
    model, example = opened(case)
    first = found = axes(model, example) if found is None else found
    out, sizes = outputs(model, example, case), attributes(model)
    for name in [axis.name for axis in growable(found)]:
        axis, before = find_axis(found, name), contents(model)
        wider = apply_(model, found, [Widening(axis, units)], inputs=example).axes
        grown = find_axis(wider, name)
        found = remove(model, wider, [Removal.of(grown, range(axis.size, axis.size + units))]).axes
        assert not same(before, contents(model), {gain.tensor for gain in axis.gains}), name
        assert change(out, outputs(model, example, case)) <= exact(case), name
        assert attributes(model) == pytest.approx(sizes, rel=1e-9), name
    assert described(found) == described(first)


def attributes(model: nn.Module) -> dict[str, float]:
    """Every number that a module keeps beside its tensors."""
    return {
        f"{path}.{key}": value
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if type(value) is int or (type(value) is float and value > 1e-15)  # the smallest eps stands for no eps
    }


def described(found: list[Axis]) -> list[object]:
    return [
        (a.name, a.size, a.growable, a.settings, [(m.tensor, m.dim, m.index.tolist(), m.roles) for m in a.members])
        for a in found
    ]


def widened_units_learn(case: Case, found: list[Axis] | None = None) -> None:
    """The first step moves new entries of every axis, and a few steps all of them.

    What need not move is what nothing learns from: tensors whose old entries have no gradient either.
    """
    model, example = opened(case)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = axes(model, example) if found is None else found
    widenings = [Widening(axis, ENOUGH) for axis in growable(found)]
    edit = apply_(model, found, widenings, inputs=example, optimizer=optimizer)
    present = contents(model)

    def reached(member: Member, units: slice, tensors: dict[str, Tensor]) -> float:
        return float(tensors[member.tensor].index_select(member.dim, member.index[units].flatten()).max())

    for steps in (1, 3):
        for _ in range(steps):
            step(model, example, optimizer)
        slopes = {name: (0 * t if t.grad is None else t.grad).detach().abs() for name, t in model.named_parameters()}
        moves = {name: (t.detach() - present[name]).abs() for name, t in model.named_parameters()}
        least = NOISE * max(float(slope.max()) for slope in slopes.values())
        for axis, before in zip(growable(edit.axes), growable(found), strict=True):
            old, new = slice(before.size), slice(before.size, None)
            sides = [m for m in axis.members if m.roles & {"in", "out"} and m.tensor in slopes]
            learning = [member for member in sides if reached(member, old, slopes) > least]
            still = [f"{member.tensor}[{member.dim}]" for member in learning if not reached(member, new, moves)]
            started = not learning or any(reached(member, new, moves) for member in sides)
            assert started if steps == 1 else not still, f"{axis.name}: {', '.join(still)}"


def step(model: nn.Module, example: Example, optimizer: torch.optim.Optimizer) -> None:
    """One step down a random linear function of the outputs, dropout off."""
    optimizer.zero_grad()
    with NoChance():
        out = pytree.tree_leaves(call(model, example))
    leaves = [leaf for leaf in out if isinstance(leaf, Tensor) and leaf.requires_grad]
    sum((leaf * noise(*leaf.shape).to(leaf)).sum() for leaf in leaves).backward()
    optimizer.step()


def deepening_keeps_the_function(case: Case, dtype: torch.dtype = torch.float64) -> None:
    """A block at every place; each edit is taken back."""
    model, example = opened(case, dtype)
    found = places(model, example)
    before, out = contents(model), outputs(model, example, case)
    for place in found:
        if not place.growable:
            continue
        edit = deepen_(model, place, example=example)
        assert max(edit.moved, change(out, outputs(model, example, case))) <= exact(case, dtype), place.name
        edit.undo()
        assert not same(before, contents(model)), place.name


def inserted_blocks_learn(case: Case, most: int = 12) -> None:
    """Every weight of a new block moves within three steps; of many places, a sample all over the network."""
    model, example = opened(case)
    model.train()
    start = contents(model)
    spots = [place for place in places(model, example) if place.growable]
    for place in spots[:: 1 + len(spots) // most]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        edit = deepen_(model, place, example=example, optimizer=optimizer)
        modules = [module for insertion in edit.insertions for module in insertion.modules]
        new = [(name, weight, weight.detach().clone()) for m in modules for name, weight in m.named_parameters()]
        for _ in range(3):
            step(model, example, optimizer)
        still = [name for name, weight, before in new if weight.ndim > 1 and torch.equal(weight, before)]
        assert not still, f"{place.name}: {', '.join(still)}"
        edit.undo()
        with torch.no_grad():
            for name, tensor in tensors_of(model).items():
                tensor.copy_(start[name])
