"""Put other tensors and new modules into a model, in place: the one spot where a module's insides are touched."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from outgrow.errors import GrowthError
from outgrow.net.sizes import settle_sizes_

if TYPE_CHECKING:
    from outgrow.net.edit import Insertion


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by its first name (tied tensors once)."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def replace_(model: nn.Module, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
    """Put new tensors in place of those named, wherever the old ones are used, and settle the sizes of their modules.

    Args:
        model: Changed in place; its class and its modules stay.
        tensors: New values by name; each becomes a new `nn.Parameter` where the old one is one, and a Parameter is
            taken as it is.

    Returns:
        A function that puts the old tensors back.
    """
    present = tensors_of(model)
    new = {id(present[name]): tensor for name, tensor in tensors.items()}
    undo: list[tuple[nn.Module, str, Tensor]] = []
    sizes: list[tuple[nn.Module, dict[str, Any]]] = []
    made: dict[int, Tensor] = {}

    def put_back() -> None:
        for module, key, old in undo:
            _store(module, key, old)
        for module, before in sizes:
            vars(module).update(before)

    try:
        for module in model.modules():
            for store in (module._parameters, module._buffers):
                for key, old in list(store.items()):
                    if old is None or id(old) not in new:
                        continue
                    value = new[id(old)]
                    if isinstance(old, nn.Parameter) and id(old) not in made:
                        made[id(old)] = value if isinstance(value, nn.Parameter) else _parameter_like(old, value)
                    undo.append((module, key, old))
                    _store(module, key, made.get(id(old), value))
            if undo and undo[-1][0] is module:
                kept = {k: v for k, v in vars(module).items() if type(v) in (int, tuple) or k == "_flat_weights"}
                sizes.append((module, kept))
                settle_sizes_(module)
    except Exception:
        put_back()
        raise
    return put_back


def _parameter_like(old: nn.Parameter, value: Tensor) -> nn.Parameter:
    """A parameter with a value, and with the marks that people put on the old one, and its memory format."""
    if is_channels_last(old):
        value = value.to(memory_format=torch.channels_last)
    new = nn.Parameter(value, old.requires_grad)
    vars(new).update(vars(old))
    for hooks in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        if getattr(old, hooks):
            setattr(new, hooks, getattr(old, hooks))  # the same ones: who holds a handle can still remove them
    return new


def is_channels_last(tensor: Tensor) -> bool:
    """Return whether a tensor is laid out channels last.

    Args:
        tensor: Any; where it has one channel, or one pixel, its strides alone tell.

    Returns:
        Whether torch would take it for one.

    Examples:
        >>> kernel = torch.zeros(4, 1, 3, 3)
        >>> is_channels_last(kernel), is_channels_last(kernel.to(memory_format=torch.channels_last))
        (False, True)
    """
    if tensor.ndim != 4 or tensor.stride() == plain_strides(tensor):
        return False
    return tensor.stride() == torch.empty_like(tensor, device="meta", memory_format=torch.channels_last).stride()


def plain_strides(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides that a new tensor of the same shape has.

    Args:
        tensor: Any; torch chooses kernels by strides, those of dimensions of size 1 included.

    Returns:
        The strides by dimension.
    """
    return torch.empty_like(tensor, device="meta", memory_format=torch.contiguous_format).stride()


def _store(module: nn.Module, key: str, tensor: Tensor) -> None:
    store = module._parameters if key in module._parameters else module._buffers
    # replace_ makes a Parameter of what goes where a Parameter was; the type of the two stores can't say so
    store[key] = tensor  # type: ignore[assignment]


def insert_(model: nn.Module, insertion: "Insertion") -> Callable[[], None]:
    """Put new modules behind a child of a container, or make a child of any other module a chain.

    The new modules take the mode, the device and the dtype of the child, where theirs are none that it has.

    Args:
        model: Changed in place.
        insertion: What comes in, and where. In an `nn.Sequential` or `nn.ModuleList` later children move up; names that
            are not numbers stay, and a new child is called after the one it follows. Elsewhere the child becomes
            `nn.Sequential(child, *modules)`.

    Returns:
        A function that puts the very same modules back under the same names.

    Raises:
        GrowthError: There is no such child; the model is as it was.

    Examples:
        >>> from outgrow.net.edit import Insertion
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        >>> put_back = insert_(model, Insertion("", "0", (nn.ReLU(),)))
        >>> [type(child).__name__ for child in model]
        ['Linear', 'ReLU', 'Linear']
    """
    parent = _holder(model, insertion)
    children = parent._modules
    before = dict(children)
    child = before[insertion.child]
    assert child is not None  # _holder has looked
    for module in insertion.modules:
        _match_(module, child, chain(_tensors(child), _tensors(parent), _tensors(model)))
    if isinstance(parent, (nn.Sequential, nn.ModuleList)):
        children.clear()
        children.update(_with_behind(before, insertion))
    else:
        made = nn.Sequential(child, *insertion.modules)
        made.training = child.training
        children[insertion.child] = made

    def put_back() -> None:
        children.clear()
        children.update(before)

    return put_back


def _holder(model: nn.Module, insertion: "Insertion") -> nn.Module:
    """The module that has the child, which is there."""
    where = insertion.parent or "the model"
    try:
        parent = model.get_submodule(insertion.parent)
    except AttributeError as error:
        raise GrowthError(f"expected a module '{insertion.parent}' to insert into, but there is none") from error
    if parent._modules.get(insertion.child) is None:
        names = ", ".join(name for name, child in parent._modules.items() if child is not None) or "none"
        raise GrowthError(f"{where} has no child '{insertion.child}' to insert behind; its children: {names}")
    return parent


def _with_behind(children: Mapping[str, nn.Module | None], insertion: "Insertion") -> dict[str, nn.Module | None]:
    """The children of a container with the new ones, in order."""
    numbered = list(children) == [str(i) for i in range(len(children))]
    ordered: list[tuple[str, nn.Module | None]] = []
    for name, module in children.items():
        ordered.append((name, module))
        if name == insertion.child:
            fresh = (f"{name}_{i}" for i in count(1) if f"{name}_{i}" not in children)
            ordered += zip(fresh, insertion.modules, strict=False)
    return {str(i) if numbered else name: module for i, (name, module) in enumerate(ordered)}


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _match_(module: nn.Module, child: nn.Module, like: Iterator[Tensor]) -> None:
    """Give a module the mode of a child, and the device and dtype of the first of `like`, unless they agree already."""
    if module.training != child.training:
        module.train(child.training)
    here = {(t.device, t.dtype) for t in _tensors(child) if t.is_floating_point()}
    first = next((t for t in like if t.is_floating_point()), torch.empty(0))
    here = here or {(first.device, first.dtype)}
    if any((t.device, t.dtype) not in here for t in _tensors(module) if t.is_floating_point()):
        module.to(first.device, first.dtype)
