"""Newborns: entries that are younger than their parameter, each with the bias correction of its own age.

Adam and its relatives divide their moments by `1 - beta^t` with one count t for a whole parameter. An entry that came
in s steps ago, with zero moments, needs `1 - beta^s`; under the old count its first step would be 3.2 learning rates
(method.md, section 10). The dates of birth are kept in the optimizer's state, and are saved and loaded with it.

A group of parameters may have a rate that new entries start with, lower than its own: the option `first_rate`. Under
Adam at a high rate the scale and shift of a unit that is not heard yet drift, by whole steps of the rate however small
their gradients are, until a ReLU behind them lets nothing through.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from outgrow.net.edit import Change, grid
from outgrow.net.laws import Group, Law, Step, law_of, taken
from outgrow.net.notice import warn
from outgrow.net.optimizers import innermost

BIRTHS = "births"
"""Key of the dates in the state of a parameter."""

FIRST_RATE = "first_rate"
"""Option of a group of parameters: the rate that new entries start with, which rises to the group's own."""

YOUTH = 2_000  # steps in which it rises; half a run of 12 epochs on CIFAR-10

GROWN_UP = 1e-2  # of its moments is missing at most: steps with the own correction and the parameter's differ by 0.5 %

Births = tuple[tuple[int, ...], ...]
"""For each dimension, the count of the parameter when each of its places came in [size]; empty where all were there
from the start. An entry is as young as its youngest place. Plain numbers, for loading a state casts tensors."""


def births_after(births: Births, change: Change, now: int) -> Births:
    """Carry dates of birth through a change of a parameter.

    Args:
        births: The dates before; empty where nothing is younger than the parameter.
        change: What became of the parameter; its new places are born now.
        now: The parameter's count of steps.

    Returns:
        The dates after; empty where nothing is younger than the parameter.

    Examples:
        >>> wider = Change("weight", torch.zeros(2, 3), torch.zeros(3, 3), (torch.arange(2), torch.arange(3)))
        >>> births_after((), wider, 7)
        ((0, 0, 7), ())
    """
    after = []
    for dim, (size, keep) in enumerate(zip(change.new.shape, change.keep, strict=True)):
        dates = torch.full((size,), now)
        old = torch.tensor(births[dim]) if births and births[dim] else torch.zeros(change.old.shape[dim]).long()
        dates[keep] = old[change.kept[dim]] if change.kept else old
        after.append(tuple(dates.tolist()) if dates.any() else ())
    return tuple(after) if any(after) else ()


@dataclass(frozen=True, eq=False)
class Young:
    """The young entries of a parameter.

    Args:
        births: What they were found from.
        dates: The different dates, in order.
        at: Where the entries are in the flattened parameter [young].
        which: Which of the dates is each entry's [young].
    """

    births: Births
    dates: tuple[int, ...]
    at: Tensor
    which: Tensor

    @classmethod
    def among(cls, parameter: Tensor, births: Births) -> "Young":
        """Find the young entries of a parameter by the dates of its places."""
        places = [torch.tensor(at or (0,) * size) for at, size in zip(births, parameter.shape, strict=True)]
        dates = torch.cat([torch.zeros(1).long(), *places]).unique()
        which = reduce(torch.maximum, grid([torch.searchsorted(dates, at) for at in places])).flatten()
        at = which.nonzero().squeeze(1)
        return cls(births, tuple(dates[1:].tolist()), at.to(parameter.device), (which[at] - 1).to(parameter.device))


class Newborns:
    """Corrects what an optimizer does to young entries, after each of its steps.

    The value that an entry should have follows from where it was before and its moments, which know no age. Entries as
    old as their parameter are not touched.
    """

    _known: ClassVar["WeakKeyDictionary[Optimizer, Newborns]"] = WeakKeyDictionary()

    def __init__(self, optimizer: Optimizer, law: Law) -> None:
        self._law = law
        self._young: dict[int, Young] = {}  # by the identity of the dates
        self._before: list[tuple[Group, Tensor, Young, Tensor]] = []
        self._which: dict[tuple[Young, ...], Tensor] = {}
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._correct)

    @classmethod
    def follow(cls, optimizer: Optimizer) -> None:
        """Correct the steps of an optimizer from now on, where its updates depend on age; once is as good as twice.

        `carry_optimizer_` does so. An optimizer that is made anew and given a saved state needs it after a growth.
        """
        optimizer = innermost(optimizer)
        law = law_of(optimizer)
        if law is not None and optimizer not in cls._known:
            cls._known[optimizer] = cls(optimizer, law)

    def _remember(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        known, self._young, self._before = self._young, {}, []
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                births = optimizer.state.get(parameter, {}).get(BIRTHS)
                if births is None:
                    continue
                young = known.get(id(births))
                if young is None or young.at.device != parameter.device:
                    young = Young.among(parameter, births)
                    self._which = {}
                self._young[id(births)] = young
                self._before.append((group, parameter, young, taken(parameter.detach(), young.at)))

    @torch.no_grad()
    def _correct(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        before, self._before = [each for each in self._before if each[1].grad is not None], []
        if not before or _captured() or _skipped(optimizer):
            return
        ages = _counts([optimizer.state[parameter]["step"] for _, parameter, _, _ in before])
        alike: dict[Any, list[tuple[Group, Tensor, Young, Tensor]]] = {}
        options = {id(group): _options(group) for group in optimizer.param_groups}
        for each, age in zip(before, ages, strict=True):
            alike.setdefault((age, options[id(each[0])], each[1].dtype, each[1].device), []).append(each)
        for (age, *_), some in alike.items():
            groups, parameters, young, starts = zip(*some, strict=True)
            states, at = [optimizer.state[parameter] for parameter in parameters], [each.at for each in young]
            decoupled = groups[0].get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
            self._correct_alike_(Step(starts, parameters, states, at, groups, decoupled), young, age)

    def _correct_alike_(self, step: Step, young: Sequence[Young], age: int) -> None:
        factors = self._factors(step, young, age)
        value = self._law.value(step, factors[:-1])
        if _starts_lower(step.group):
            value = step.start() + factors[-1] * (value - step.start())
        value = torch.view_as_complex(value) if step.parameters[0].is_complex() else value
        pieces = value.to(step.parameters[0].dtype).split([len(at) for at in step.at])
        for parameter, at, piece in zip(step.parameters, step.at, pieces, strict=True):
            parameter.put_(at, piece)
        slowest = max(map(float, step.group["betas"]))
        for state, each, group in zip(step.states, young, step.groups, strict=True):
            youngest = age - each.dates[-1]
            if slowest**youngest < GROWN_UP and (youngest >= YOUTH or FIRST_RATE not in group):
                del state[BIRTHS]

    def _factors(self, step: Step, young: Sequence[Young], age: int) -> Tensor:
        """The numbers that depend on age, and last the share of its step, for each entry [factors + 1, young]."""
        key, dates = tuple(young), sorted({date for each in young for date in each.dates})
        if key not in self._which:
            places = [torch.searchsorted(torch.tensor(dates), torch.tensor(each.dates)) for each in young]
            whiches = zip(places, young, strict=True)
            self._which[key] = torch.cat([place.to(each.which.device)[each.which] for place, each in whiches])
        of_date = [(*self._law.factors(step.group, age - date, age), _share(step.group, age - date)) for date in dates]
        dtype = torch.promote_types(step.starts[0].dtype.to_real(), torch.float32)
        table = torch.tensor(of_date, dtype=dtype).T.to(step.starts[0].device)
        factors = table.index_select(1, self._which[key])
        return factors.unsqueeze(-1) if step.parameters[0].is_complex() else factors  # complex entries are pairs


def _starts_lower(group: Group) -> bool:
    """Whether new entries start with a lower rate than the group has now."""
    return bool(group.get(FIRST_RATE, math.inf) < float(group["lr"]))


def _share(group: Group, age: int) -> float:
    """What share of the group's rate an entry has: what it starts with, or so much of it as of its youth is over."""
    return min(max(group[FIRST_RATE] / float(group["lr"]), age / YOUTH), 1.0) if _starts_lower(group) else 1.0


def _options(group: Group) -> tuple[Any, ...]:
    """What the groups of parameters have in common whose entries are corrected at once: all but weight decay."""
    others = {"params", "param_names", "weight_decay"} | (set() if _starts_lower(group) else {FIRST_RATE})
    options = [value for key, value in group.items() if key not in others]
    return tuple(float(value) if isinstance(value, Tensor) else repr(value) for value in options)


def _skipped(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler has let a fused step pass without effect, since a gradient was not finite."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _counts(counts: list[int | Tensor]) -> list[int]:
    """Read counts of steps, all that lie on an accelerator at once."""
    tensors = [count for count in counts if isinstance(count, Tensor)]
    if len(tensors) == len(counts) and len({count.device for count in tensors}) == 1:
        return [int(count) for count in torch.stack(tensors).tolist()]
    return [int(count) for count in counts]


def _captured() -> bool:
    """Whether a graph of the step is recorded, in which ages would stand still; it says so."""
    if not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return False
    warn(
        "this optimizer's step is captured in a CUDA graph, where entries born by a growth can't have the bias "
        "correction of their own age; take the steps after a growth without a graph until they have grown up"
    )
    return True
