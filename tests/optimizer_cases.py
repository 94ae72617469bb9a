"""Optimizers of every kind and edits of every kind, for the tests of what becomes of an optimizer."""

from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from net_cases import noise
from outgrow.errors import GrowthError
from outgrow.net.axes import Axis, axes, find_axis
from outgrow.net.carry import carry_optimizer_
from outgrow.net.edit import Change, Edit, Insertion
from outgrow.net.enlargement import widen
from outgrow.net.newborns import BIRTHS
from outgrow.net.surgery import insert_, replace_, tensors_of
from outgrow.net.widening import Widening

X = noise(4, 3).double()
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def seed() -> nn.Sequential:
    """An MLP in double precision, so that what is compared is the arithmetic and not its rounding."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def gradient(shape: Sequence[int], at: int) -> Tensor:
    """What the gradient is at a step, whatever the weights are: a function of place and time."""
    where = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")) + 1.0
    weights = torch.tensor([1.3, 2.9])[: len(shape)].view(-1, *[1] * len(shape))
    return (torch.sin((where * weights).sum(0) + 0.7 * at) + 0.3).double()


def steps(model: nn.Module, optimizer: Optimizer, start: int, stop: int) -> None:
    for at in range(start, stop):
        optimizer.zero_grad()
        for parameter in model.parameters():
            parameter.grad = gradient(parameter.shape, at).to(parameter.dtype)
        optimizer.step()


# edits, each with its optimizer


def named(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False))


def carried(model: nn.Module, edit: Callable[[], Edit], optimizer: Optimizer) -> Edit:
    before = named(model)
    made = edit()
    try:
        carry_optimizer_(optimizer, made, model, before)
    except GrowthError:
        made.undo()
        raise
    return made


def widened(model: nn.Module, axis: str, units: int, optimizer: Optimizer) -> Edit:
    found = axes_by_shape(model)
    return carried(model, lambda: widen(model, found, [Widening(find_axis(found, axis), units)]), optimizer)


def axes_by_shape(model: nn.Module) -> list[Axis]:
    """Axes of the seed, looked for once for each shape that it has."""
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())
    if shapes not in KNOWN_AXES:
        KNOWN_AXES[shapes] = axes(model, X.to(next(model.parameters()).dtype))
    return KNOWN_AXES[shapes]


KNOWN_AXES: dict[object, list[Axis]] = {}


def narrowed(model: nn.Module, units: Sequence[int], optimizer: Optimizer) -> Edit:
    """Take units off the first layer of the seed."""

    def narrow() -> Edit:
        present = tensors_of(model)
        rest = torch.tensor([i for i in range(len(present["0.bias"])) if i not in units])
        dims = {"0.weight": 0, "0.bias": 0, "2.weight": 1}
        put_back = replace_(model, {n: present[n].detach().index_select(dim, rest) for n, dim in dims.items()})
        changes = []
        for name, dim in dims.items():
            old, new = present[name], tensors_of(model)[name]
            kept = tuple(rest if at == dim else torch.arange(size) for at, size in enumerate(old.shape))
            changes.append(Change(name, old, new, tuple(torch.arange(size) for size in new.shape), kept))
        return Edit("removing units of 0", tuple(changes), _undo=[put_back])

    return carried(model, narrow, optimizer)


def inserted(model: nn.Module, insertion: Insertion, optimizer: Optimizer) -> Edit:
    return carried(
        model, lambda: Edit("inserting", insertions=(insertion,), _undo=[insert_(model, insertion)]), optimizer
    )


def layer(**like: str) -> Insertion:
    """One more layer behind the second, with dots of names as underscores."""
    return Insertion("", "2", (nn.Linear(3, 3).double(), nn.Tanh()), {k.replace("_", "."): v for k, v in like.items()})


EDITS: dict[str, Callable[[nn.Module, Optimizer], Edit]] = {
    "wider": lambda model, optimizer: widened(model, "0", 2, optimizer),
    "narrower": lambda model, optimizer: narrowed(model, [0, 2], optimizer),
    "deeper": lambda model, optimizer: inserted(model, layer(), optimizer),
}
every_edit = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)

# optimizers

Make = Callable[[Iterable[nn.Parameter]], Optimizer]
optim = torch.optim

AGEING: dict[str, Make] = {
    "Adam": lambda p: optim.Adam(p, lr=0.01),
    "Adam, other betas": lambda p: optim.Adam(p, lr=0.01, betas=(0.5, 0.9)),
    "Adam, large epsilon": lambda p: optim.Adam(p, lr=0.01, eps=0.1),
    "Adam, foreach": lambda p: optim.Adam(p, lr=0.01, foreach=True),
    "Adam, fused": lambda p: optim.Adam(p, lr=0.01, fused=True),
    "Adam, one by one": lambda p: optim.Adam(p, lr=0.01, foreach=False),
    "Adam, amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "Adam, amsgrad, fused": lambda p: optim.Adam(p, lr=0.01, amsgrad=True, fused=True),
    "Adam, maximize": lambda p: optim.Adam(p, lr=0.01, maximize=True),
    "Adam, L2": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.1),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "AdamW, no decay": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.0),
    "AdamW, fused": lambda p: optim.AdamW(p, lr=0.01, fused=True, weight_decay=0.1),
    "AdamW, amsgrad, foreach": lambda p: optim.AdamW(p, lr=0.01, amsgrad=True, foreach=True),
    "AdamW, tensor rate": lambda p: optim.AdamW(p, lr=torch.tensor(0.01).double(), foreach=False),
    "Adamax": lambda p: optim.Adamax(p, lr=0.01, eps=1e-3, weight_decay=0.1),
    "Adamax, foreach": lambda p: optim.Adamax(p, lr=0.01, foreach=True),
    "NAdam": lambda p: optim.NAdam(p, lr=0.01),
    "NAdam, L2, maximize": lambda p: optim.NAdam(p, lr=0.01, weight_decay=0.1, maximize=True, momentum_decay=0.5),
    "NAdam, decoupled, foreach": lambda p: optim.NAdam(
        p, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True, foreach=True
    ),
    "RAdam": lambda p: optim.RAdam(p, lr=0.01, betas=(0.9, 0.99)),
    "RAdam, decoupled, foreach": lambda p: optim.RAdam(
        p, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True, foreach=True
    ),
}

AGELESS: dict[str, Make] = {
    "SGD": lambda p: optim.SGD(p, lr=0.01),
    "SGD, momentum": lambda p: optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1),
    "SGD, Nesterov, fused": lambda p: optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, fused=True),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01),
    "RMSprop, momentum, centered": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True, foreach=True),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.01),
    "Adagrad, initial value": lambda p: optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.5),
    "Adagrad, fused": lambda p: optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.5, fused=True),
    "Adadelta": lambda p: optim.Adadelta(p),
    "Rprop": lambda p: optim.Rprop(p, lr=0.02),
    "Rprop, foreach": lambda p: optim.Rprop(p, lr=0.02, foreach=True),
}

SCHEDULED: dict[str, Make] = {
    "Adagrad, decay": lambda p: optim.Adagrad(p, lr=0.01, lr_decay=0.1),
    "ASGD": lambda p: optim.ASGD(p),
    "ASGD, averaging": lambda p: optim.ASGD(p, t0=2, foreach=True),
    "SGD, dampening": lambda p: optim.SGD(p, lr=0.01, momentum=0.9, dampening=0.5),
}

every_ageing = pytest.mark.parametrize("make", AGEING.values(), ids=AGEING)
every_entrywise = pytest.mark.parametrize("make", (AGEING | AGELESS).values(), ids=[*AGEING, *AGELESS])
every_optimizer = pytest.mark.parametrize(
    "make", (AGEING | AGELESS | SCHEDULED).values(), ids=[*AGEING, *AGELESS, *SCHEDULED]
)


def old_entries(edit: Edit) -> dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Where entries of each changed tensor are, and where they were."""
    return {
        c.name: (
            torch.meshgrid(*c.keep, indexing="ij"),
            torch.meshgrid(*(c.kept or [torch.arange(n) for n in c.old.shape]), indexing="ij"),
        )
        for c in edit.changes
    }


def births_in(optimizer: Optimizer) -> int:
    return sum(BIRTHS in state for state in optimizer.state.values())
