"""Counts and numbers of blocks: what has to be set in a model beside a new block, so that it is called."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from torch import nn

from outgrow.net.calls import Forward, observe
from outgrow.net.edit import Insertion
from outgrow.net.place import NoPlaceError
from outgrow.net.preserve import change, tolerance
from outgrow.net.setting import Setting, apply_settings_
from outgrow.net.surgery import insert_
from outgrow.net.survey import Survey

_COUNT = re.compile(r"(^|_)(n|num)_.*(layers?|blocks?)$|(^|_)(layers|blocks|depth)$")
_NUMBER = re.compile(r"(^|_)(idx|index|id|number|num|layer|block|depth|position|pos|i)(_|$)")


def settled(seen: Survey, insertion: Insertion) -> tuple[Forward, tuple[Setting, ...]]:
    """Find what has to be set beside a new block so that it is called and the outputs stay, by trying.

    Args:
        seen: The model.
        insertion: The new block, which hands its input on.

    Returns:
        The forward pass with the block in it, and the settings.

    Raises:
        NoPlaceError: Nothing helps; why, with as much set as seemed right.
    """
    errors = []
    for counts in _counts(seen.model, insertion):
        try:
            return _tried(seen, insertion, counts)
        except NoPlaceError as error:
            errors.append(error)
    raise errors[0]


def _tried(seen: Survey, insertion: Insertion, counts: Sequence[Setting]) -> tuple[Forward, tuple[Setting, ...]]:
    """Run the model with the new block in it; it is out again afterwards."""
    numbers = _numbers(seen.model.get_submodule(insertion.parent))
    try:
        with ExitStack() as undo:
            undo.callback(insert_(seen.model, insertion))
            settings = (*counts, *_renumbered(seen.model, insertion.parent, numbers))
            undo.callback(apply_settings_(seen.model, settings))
            blocks = [*seen.model.get_submodule(insertion.parent).children()]
            tried = observe(seen.model, seen.example, blocks)
            moved = change(seen.forward.outputs, tried.outputs)
    except Exception as error:
        raise NoPlaceError(f"the model fails with a block there: {error}") from error
    (block,) = insertion.modules
    if (calls := tried.counts[block]) != 1:
        raise NoPlaceError(f"a block there is called {calls} times in a forward pass, expected once")
    if any(tried.counts[other] != seen.forward.counts[other] for other in blocks if other is not block):
        raise NoPlaceError("with a block there another one is called more or less often")
    if not moved <= tolerance(seen.model):
        raise NoPlaceError(f"with a block there an output moves by {moved:.1e} of its scale")
    return tried, settings


# counts


def _counts(model: nn.Module, insertion: Insertion) -> Iterator[tuple[Setting, ...]]:
    """Attributes that may count the blocks of a container, to be tried in this order.

    Those whose names say so come first, even if the forward pass doesn't ask for them, so that a saved configuration
    builds the network as it is; not where another container has as many blocks. Then none; then each other by itself.

    Yields:
        What to set.
    """
    children = model.get_submodule(insertion.parent)._modules
    attributes = [*_attributes_above(model, insertion.parent)]
    size = len(children)
    counts = [Setting(path, name, size + 1) for path, name, value in attributes if type(value) is int and value == size]
    named = [count for count in counts if _names_blocks(count.attribute, insertion.parent)]
    lists = [*_longer_lists(attributes, size, [*children].index(insertion.child) + 1)]
    whole = [(*named, *lists)] if named or lists else []
    yield from [*whole, ()] if _is_only(model, insertion.parent) else [(), *whole]
    yield from ((count, *lists) for count in sorted(counts, key=lambda count: count not in named))


def _attributes_above(model: nn.Module, path: str) -> Iterator[tuple[str, str, object]]:
    """Every attribute of a module, of those that hold it and of their configurations, from the inside out."""
    parts = path.split(".") if path else []
    seen: set[int] = set()
    for end in range(len(parts), -1, -1):
        holder = ".".join(parts[:end])
        module = model.get_submodule(holder)
        for prefix, owner in (("", module), ("config.", getattr(module, "config", None))):
            if id(owner) not in seen and hasattr(owner, "__dict__"):
                seen.add(id(owner))
                yield from ((holder, prefix + name, v) for name, v in vars(owner).items() if not name.startswith("_"))


def _names_blocks(attribute: str, path: str) -> bool:
    """Whether an attribute counts blocks by its name, and those of a container as far as encoders and decoders go."""
    name = attribute.rpartition(".")[2]
    return bool(_COUNT.search(name)) and all(side in path for side in ("encoder", "decoder") if side in name)


def _longer_lists(attributes: Iterable[tuple[str, str, object]], size: int, at: int) -> Iterator[Setting]:
    """Lists with an entry for each block, such as the kinds of layers, with the entry before `at` once more."""
    for path, name, value in attributes:
        if isinstance(value, (list, tuple)) and len(value) == size and "layer" in name.rpartition(".")[2]:
            yield Setting(path, name, type(value)([*value[:at], *value[at - 1 :]]))


def _is_only(model: nn.Module, path: str) -> bool:
    """Whether a container, and no other, has so many blocks, all of one class."""
    container = model.get_submodule(path)
    alike = [
        module
        for module in model.modules()
        if isinstance(module, (nn.Sequential, nn.ModuleList))
        and len(module) == len(container._modules)
        and len({type(child) for child in module}) == 1
    ]
    return alike == [container]


# numbers


def _numbers(container: nn.Module) -> list[tuple[str, str]]:
    """The attributes, by path and name within each block, that number the blocks of a container."""
    blocks = [block for block in container._modules.values() if block is not None]
    found = set.intersection(*(_equal_to(position, block) for position, block in enumerate(blocks)))
    return sorted((path, name) for path, name in found if len(blocks) > 2 or _NUMBER.search(name))


def _equal_to(position: int, block: nn.Module) -> set[tuple[str, str]]:
    return {
        (path, name)
        for path, module in block.named_modules()
        for name, value in vars(module).items()
        if type(value) is int and value == position
    }


def _renumbered(model: nn.Module, parent: str, numbers: Sequence[tuple[str, str]]) -> list[Setting]:
    """The numbers that are others by now, as a block has come in."""
    made = [
        Setting(f"{parent}.{child}.{path}".strip("."), name, position)
        for position, child in enumerate(model.get_submodule(parent)._modules)
        for path, name in numbers
    ]
    return [setting for setting in made if setting.read(model) != setting.value]
