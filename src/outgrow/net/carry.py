"""Carry an optimizer's state and averaged weights through an edit."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

from outgrow.errors import GrowthError
from outgrow.net.edit import Change, Edit
from outgrow.net.laws import law_of
from outgrow.net.newborns import BIRTHS, Newborns, births_after
from outgrow.net.notice import warn
from outgrow.net.optimizers import Optimizers, each_of, owned_by
from outgrow.net.setting import apply_settings_
from outgrow.net.surgery import insert_, replace_, tensors_of

_MUON = getattr(torch.optim, "Muon", ())  # trains matrices only; everything else has another optimizer


def carry_optimizer_(optimizer: Optimizers, edit: Edit, model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Give optimizers the parameters of an edited model in place of the old ones, with their state.

    Old entries keep their state bit for bit. New entries start as those of a fresh parameter:

    - SGD, Muon, RMSprop, Adadelta: moments of zero, exactly as a fresh parameter has them (SGD takes its first gradient
      less the dampening, where there is one).
    - Adam, AdamW, Adamax, NAdam, RAdam, SparseAdam: moments of zero, and from each birth on the bias correction of the
      entry's own age, see `Newborns`. NAdam's product of momenta is that of the momentum as it is now.
    - Adagrad: the accumulator's initial value. Rprop: the group's rate as step size. ASGD: the weight itself as its
      average. What falls with the count of steps in Adagrad and ASGD is a schedule of the rate; it goes on.
    - Where a unit was copied and its outgoing weights divided, old moments stay as they are, too. The gradient of an
      outgoing weight is an error times what the unit hands out; both are what they were, however the weight is divided.
      That of the unit's own weights falls to the share that the unit kept: its moments are too large by that factor
      until they have forgotten, in 1 / (1 - beta) steps, while Adam's ratio of the two keeps its size at first. Copies
      are newborns like all others, so that they part from their parents sooner than with the same moments. ASGD's
      average is one of weights, and is divided and copied as they are.
    - Adafactor, and any optimizer with state in a shape that is not its parameter's: the edited parameters start anew,
      with a warning. L-BFGS, whose history is of all parameters at once, starts anew as a whole, with a warning.

    A new parameter joins the group of the one that it is like, at its place in the order of the model, so that a saved
    state fits an optimizer that is made for the grown model. It stays out where none of the optimizers trains the one
    that it is like; where it is like none, or like a frozen one, it joins the group with most weights (Muon's for
    matrices only).

    Args:
        optimizer: One or several, changed in place; an `edit.undo()` restores them.
        edit: The edit that was applied to the model.
        model: The model as it is now.
        before: Its parameters before the edit, by name (every name of tied ones).

    Raises:
        GrowthError: An optimizer has no parameter of this model; everything is as before.

    Examples:
        >>> from outgrow.net.edit import Insertion
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> before = dict(model.named_parameters(remove_duplicate=False))
        >>> edit = Edit("one more layer", insertions=(Insertion("", "0", (nn.Linear(2, 2, bias=False),)),))
        >>> edit.on_undo(insert_(model, edit.insertions[0]))
        >>> carry_optimizer_(optimizer, edit, model, before)
        >>> [p is q for p, q in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True)]
        [True, True, True, True, True]
    """
    optimizers, present = each_of(optimizer), {id(parameter) for parameter in before.values()}
    for one in optimizers:
        if present.isdisjoint(held := owned_by([one])):
            raise GrowthError(
                f"{edit.what}: expected an optimizer of this model, got {type(one).__name__} with {len(held)} other "
                f"parameters; pass the optimizer that was made with model.parameters(), or none"
            )
    held = owned_by(optimizers)
    if apart := [change.name for change in edit.changes if change.new.requires_grad and id(change.old) not in held]:
        given = " and ".join(type(one).__name__ for one in optimizers)
        warn(
            f"{edit.what}: {given} {'do' if len(optimizers) > 1 else 'does'} not train {', '.join(apart[:4])}, which "
            f"the edit has made anew: another optimizer that does holds what was there before; pass it as well, "
            f"optimizer=[one, another]"
        )
    joined = _joined(optimizers, edit, before)
    for at, one in enumerate(optimizers):
        _carry_(one, edit, {group: new for (of, group), new in joined.items() if of == at}, model, before)


def _carry_(
    optimizer: Optimizer,
    edit: Edit,
    joined: Mapping[int, list[nn.Parameter]],
    model: nn.Module,
    before: Mapping[str, Tensor],
) -> None:
    """Give one optimizer what became of its parameters, and those that join it, by the number of the group."""
    held = owned_by([optimizer])
    changes = {id(c.old): c for c in edit.changes if isinstance(c.old, nn.Parameter) and id(c.old) in held}
    state, anew = _state_after(optimizer, changes, joined)
    edit.on_undo(_restate_(optimizer, state, changes, joined))
    edit.on_undo(_regroup_(optimizer, changes, joined, model, before))
    if any(isinstance(entries, dict) and BIRTHS in entries for entries in state.values()):
        Newborns.follow(optimizer)
    if anew:
        warn(
            f"{edit.what}: {type(optimizer).__name__} has state that can't follow the edit, as it is not of the shape "
            f"of its parameter; it starts anew for {', '.join(anew)}"
        )


# groups


def _joined(
    optimizers: Sequence[Optimizer], edit: Edit, before: Mapping[str, Tensor]
) -> dict[tuple[int, int], list[nn.Parameter]]:
    """New parameters that have to be trained, by the numbers of the optimizer and of its group that each joins."""
    groups = {(at, n): group for at, one in enumerate(optimizers) for n, group in enumerate(one.param_groups)}
    group_of = {id(parameter): key for key, group in groups.items() for parameter in group["params"]}
    sizes = {key: sum(p.numel() for p in before.values() if group_of.get(id(p)) == key) for key in groups}
    largest, old = sorted(groups, key=sizes.__getitem__, reverse=True), {id(parameter) for parameter in before.values()}
    joined: dict[tuple[int, int], list[nn.Parameter]] = {}
    for insertion in edit.insertions:
        for name, parameter in nn.ModuleList(insertion.modules).named_parameters():
            if id(parameter) in old or not parameter.requires_grad:
                continue  # tied to one that is there, or frozen
            like = _parameter_like(insertion.like.get(name), before)
            if like is None or (id(like) not in group_of and not like.requires_grad):
                keys = [at for at in largest if parameter.ndim == 2 or not isinstance(optimizers[at[0]], _MUON)][:1]
            else:  # where nothing trains the one that it is like, nothing trains it
                keys = [group_of[id(like)]] if id(like) in group_of else []
            for key in keys:
                joined.setdefault(key, []).append(parameter)
    return joined


def _parameter_like(name: str | None, before: Mapping[str, Tensor]) -> Tensor | None:
    if name is None:
        return None
    if name not in before:
        raise GrowthError(f"expected a parameter of the model that a new one is like, got '{name}', which it has not")
    return before[name]


def _regroup_(
    optimizer: Optimizer,
    changes: Mapping[int, Change],
    joined: Mapping[int, list[nn.Parameter]],
    model: nn.Module,
    before: Mapping[str, Tensor],
) -> Callable[[], None]:
    """Put new parameters into the groups and take old ones out; the lists stay the very same."""
    names = _names(optimizer)
    order = {id(parameter): at for at, parameter in enumerate(model.parameters())}
    for number, group in enumerate(optimizer.param_groups):
        parameters = group["params"]
        parameters[:] = [changes[id(p)].new if id(p) in changes else p for p in parameters]
        for new in joined.get(number, ()):
            ahead = [at for at, p in enumerate(parameters) if order.get(id(p), len(order)) < order[id(new)]]
            parameters.insert(ahead[-1] + 1 if ahead else 0, new)
    _name_(optimizer, _names_after(names, changes, model, before))

    def put_back() -> None:
        old = {id(change.new): change.old for change in changes.values()}
        added = {id(parameter) for parameters in joined.values() for parameter in parameters}
        for group in optimizer.param_groups:
            group["params"][:] = [old.get(id(p), p) for p in group["params"] if id(p) not in added]
        _name_(optimizer, names)

    return put_back


def _names(optimizer: Optimizer) -> dict[int, str]:
    """The names that an optimizer made with `named_parameters()` keeps beside its parameters."""
    return {
        id(parameter): name
        for group in optimizer.param_groups
        for parameter, name in zip(group["params"], group.get("param_names", ()), strict=False)
    }


def _name_(optimizer: Optimizer, names: Mapping[int, str]) -> None:
    for group in optimizer.param_groups:
        if "param_names" in group:
            group["param_names"] = [names.get(id(parameter), "") for parameter in group["params"]]


def _names_after(
    names: Mapping[int, str], changes: Mapping[int, Change], model: nn.Module, before: Mapping[str, Tensor]
) -> dict[int, str]:
    """The names after the edit: the model's, save for what was called by another name before."""
    own = {(id(parameter), name) for name, parameter in before.items()}
    others = {key: name for key, name in names.items() if (key, name) not in own}
    now = {id(parameter): name for name, parameter in model.named_parameters()}
    return now | {id(changes[key].new) if key in changes else key: name for key, name in others.items()}


# state


def _state_after(
    optimizer: Optimizer, changes: Mapping[int, Change], joined: Mapping[int, list[nn.Parameter]]
) -> tuple[dict[Any, Any], list[str]]:
    """The state after the edit, in the same order, and what starts anew; the old state stays as it is."""
    if isinstance(optimizer, torch.optim.LBFGS) and (changes or joined):
        return {}, ["all parameters"] if optimizer.state else []
    group_of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    after: dict[Any, Any] = {}
    anew = []
    for key, state in optimizer.state.items():
        change = changes.get(id(key))
        carried = state if change is None else _carried(optimizer, group_of[id(key)], state, change)
        if carried is None:
            anew.append(changes[id(key)].name)
        else:
            after[key if change is None else change.new] = carried
    for number, parameters in joined.items():
        after |= {new: first for new in parameters if (first := _first_state(optimizer, number, new))}
    return after, anew


def _restate_(
    optimizer: Optimizer,
    after: Mapping[Any, Any],
    changes: Mapping[int, Change],
    joined: Mapping[int, list[nn.Parameter]],
) -> Callable[[], None]:
    """Set the state; what is put back is the very same state, for what the edit did not touch as it is by then."""
    before = dict(optimizer.state)
    _fill_(optimizer, after)

    def put_back() -> None:
        made = {id(change.new) for change in changes.values()} | {id(p) for ps in joined.values() for p in ps}
        now = {key: state for key, state in optimizer.state.items() if id(key) not in made}
        old = {key: now.get(key) if key in after else state for key, state in before.items()}
        later = {key: state for key, state in now.items() if key not in old}
        _fill_(optimizer, {key: state for key, state in (old | later).items() if state is not None})

    return put_back


def _fill_(optimizer: Optimizer, state: Mapping[Any, Any]) -> None:
    optimizer.state.clear()
    optimizer.state.update(state)
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer._numel_cache = None


def _carried(
    optimizer: Optimizer, group: Mapping[str, Any], state: Mapping[str, Any], change: Change
) -> dict[str, Any] | None:
    """The state of a changed parameter; None where it can't follow."""
    if isinstance(optimizer, torch.optim.Adafactor):
        return None  # its factors have lost what each entry was
    carried: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == change.old.shape:
            follow = change.repeat if _averages(optimizer, key) else change.carry
            carried[key] = _laid_out(follow(value, _start(optimizer, group, key, change)), change.new)
        elif isinstance(value, Tensor) and value.ndim == 0:
            carried[key] = value.clone()
        elif any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
            return None
        else:
            carried[key] = copy.deepcopy(value)
    births = births_after(state.get(BIRTHS, ()), change, int(state.get("step", 0))) if law_of(optimizer) else ()
    carried.pop(BIRTHS, None)
    return carried | ({BIRTHS: births} if births else {})


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """Give a tensor the strides of another: fused steps expect those of the parameter."""
    if tensor.is_sparse or tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like.detach(), dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _start(optimizer: Optimizer, group: Mapping[str, Any], key: str, change: Change) -> Tensor | float:
    """What a new entry of a state starts at: zero, but for a few."""
    if isinstance(optimizer, torch.optim.Adagrad) and key == "sum":
        return float(optimizer.defaults["initial_accumulator_value"])
    if isinstance(optimizer, torch.optim.Rprop) and key == "step_size":
        return float(group["lr"])
    return change.new.detach() if _averages(optimizer, key) else 0.0


def _averages(optimizer: Optimizer, key: str) -> bool:
    """Whether a state is an average of the weights themselves, so that it has to become what they become."""
    return isinstance(optimizer, torch.optim.ASGD) and key == "ax"


def _first_state(optimizer: Optimizer, number: int, parameter: nn.Parameter) -> dict[str, Any]:
    """The state that a new parameter needs before its first step; most optimizers make it in that step."""
    group = optimizer.param_groups[number]
    if isinstance(optimizer, torch.optim.Adagrad):  # makes it with the optimizer
        options = {key: value for key, value in group.items() if key != "param_names"} | {"params": [parameter]}
        start = optimizer.defaults["initial_accumulator_value"]
        return dict(torch.optim.Adagrad([options], initial_accumulator_value=start).state[parameter])
    if isinstance(optimizer, torch.optim.SGD) and group.get("fused"):  # expects all momenta or none
        states = (optimizer.state.get(other, {}) for other in group["params"])
        if any(state.get("momentum_buffer") is not None for state in states):
            return {"momentum_buffer": torch.zeros_like(parameter)}
    return {}


# averages


@torch.no_grad()
def carry_average_(averaged: AveragedModel, edit: Edit, before: Mapping[str, Tensor]) -> None:
    """Take averaged weights through an edit: old entries stay, new ones start at the live model's values.

    Where the live model's units were copied, the average's own are, and its outgoing weights are divided by the same
    shares: so its function is kept, too.

    Args:
        averaged: Changed in place; an `edit.undo()` restores it.
        edit: The edit that was applied to the live model.
        before: The live model's parameters before the edit, by name: what new modules share with the rest of the live
            model, their copies share with the rest of the average.

    Raises:
        GrowthError: It is the average of another model; what was done to it is undone with the edit.
    """
    model = averaged.module
    present = tensors_of(model)
    for change in edit.changes:
        shape = tuple(present[change.name].shape) if change.name in present else None
        if shape != tuple(change.old.shape):
            raise GrowthError(
                f"{edit.what}: expected an average of this model with {change.name} {list(change.old.shape)}, got "
                f"{'none of this name' if shape is None else list(shape)}; pass the averages that were made from it"
            )
    carried = {c.name: c.repeat(present[c.name].detach(), c.new.detach().to(present[c.name])) for c in edit.changes}
    edit.on_undo(replace_(model, carried))
    shared: dict[int, Any] = {id(before[name]): tensor for name, tensor in present.items() if name in before}
    for insertion in edit.insertions:
        edit.on_undo(insert_(model, replace(insertion, modules=copy.deepcopy(insertion.modules, shared))))
    edit.on_undo(apply_settings_(model, edit.settings))


def adopt_shapes_(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put tensors of a saved network into a model of the same layers and other widths, in place.

    Args:
        model: The seed that the saved network grew from.
        tensors: Its state dict, or all of its parameters and buffers by their first names.

    Raises:
        KeyError: The names don't agree, so that the network grew from another seed.
    """
    present = tensors_of(model)
    stored = set(model.state_dict())
    if missing := (stored & set(present)) - set(tensors) | set(tensors) - (stored | set(present)):
        raise KeyError(f"these tensors are in the seed or in the file only: {', '.join(sorted(missing)[:4])}")
    saved = {name: old for name, old in present.items() if name in tensors}  # buffers that are not saved stay
    replace_(model, {name: tensors[name].detach().to(old.device, copy=True) for name, old in saved.items()})
