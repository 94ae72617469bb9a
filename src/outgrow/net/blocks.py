"""Blocks of a model behind which a copy can go, with some weights at zero."""

from collections import Counter
from collections.abc import Sequence

from torch import nn

from outgrow.net.candidate import Candidate
from outgrow.net.counts import settled
from outgrow.net.edit import Insertion
from outgrow.net.place import BlockCopy, NoPlaceError, Place
from outgrow.net.survey import Survey, is_block


def block_places(seen: Survey) -> list[Place]:
    """Find every residual place.

    Args:
        seen: The model.

    Returns:
        The places in the order of the model, and each container that looks as if it had some but has none.
    """
    found: list[Place] = []
    for path, blocks in _containers(seen).items():
        here, reasons = _tried(seen, path, blocks)
        within = any(path.startswith(f"{place.parent}.") for place in found)
        if not here and not within and any(_repeats(seen, path, child) for child in blocks):
            here = [Place(path, "residual", path, "", growable=False, reason=reasons[-1])]
        found += here
    return [place for place in found if not _holds_another(place, found)]


def find_block_place(seen: Survey, name: str) -> Place:
    """Find the place behind a block, or the last one of a container.

    Args:
        seen: The model.
        name: Path of the block or of the container.

    Returns:
        A place where a copy can go.

    Raises:
        NoPlaceError: There is none.
    """
    containers = _containers(seen)
    parent, _, child = name.rpartition(".")
    if name in containers:
        parent, blocks = name, containers[name]
    else:
        blocks = [block for block in containers.get(parent, ()) if block == child]
    reasons = [] if blocks else [f"{name} is no block that keeps the shape of what it gets"]
    for block in reversed(blocks):
        try:
            return _block_place(seen, parent, block)
        except NoPlaceError as error:
            reasons.append(str(error))
    raise NoPlaceError(reasons[0])


def _containers(seen: Survey) -> dict[str, list[str]]:
    """The children of each container that are blocks and keep the shape of what they get, by the container's path."""
    found = {
        path: [name for name, child in module.named_children() if is_block(child) and _keeps_shape(seen, child)]
        for module, path in seen.names.items()
        if isinstance(module, (nn.Sequential, nn.ModuleList))
    }
    return {path: blocks for path, blocks in found.items() if blocks}


def _keeps_shape(seen: Survey, module: nn.Module) -> bool:
    call = seen.forward.calls.get(module)
    return call is not None and call.keeps_shape


def _tried(seen: Survey, parent: str, blocks: Sequence[str]) -> tuple[list[Place], list[str]]:
    """Places behind the blocks of a container, and why there is none behind the others."""
    found, reasons = [], []
    for child in blocks:
        try:
            found.append(_block_place(seen, parent, child))
        except NoPlaceError as error:
            reasons.append(str(error))
    return found, reasons


def _block_place(seen: Survey, parent: str, child: str) -> Place:
    """Try a copy of a block behind it."""
    name = f"{parent}.{child}".lstrip(".")
    block = seen.model.get_submodule(name)
    if seen.forward.counts[block] != 1:
        raise NoPlaceError(f"{name} is called {seen.forward.counts[block]} times in a forward pass, expected once")
    if block in seen.forward.unlearned:
        raise NoPlaceError(f"{name} runs under no_grad(), where a copy of it would never learn")
    try:
        candidate = Candidate(seen, block)
    except Exception as error:
        raise NoPlaceError(f"{name} can't be copied: {error}") from error
    zeros = candidate.silence_()
    tried, settings = settled(seen, Insertion(parent, child, (candidate.copied,)))
    candidate.check_learning(zeros, tried.calls[candidate.copied])
    what = f"a copy of it ({type(block).__name__}), {', '.join(zeros)} at zero"
    return Place(name, "residual", parent, child, what, recipe=BlockCopy(zeros), settings=settings)


def _repeats(seen: Survey, path: str, child: str) -> bool:
    """Whether a container looks as if it were made to hold any number of blocks like this child."""
    container = seen.model.get_submodule(path)
    kinds = Counter(type(block) for block in container.children())
    same = kinds[type(container.get_submodule(child))]
    return isinstance(container, nn.ModuleList) or same > 1 or len(kinds) == 1


def _holds_another(place: Place, found: Sequence[Place]) -> bool:
    """Whether a place is behind a whole stage that has places of its own, the only one of its container."""
    within = any(other.growable and other.name.startswith(f"{place.name}.") for other in found)
    return within and place.growable and [other.parent for other in found].count(place.parent) == 1
