"""Places: where a model can take another block without a change of what it computes."""

from torch import nn

from outgrow.errors import GrowthError
from outgrow.net.blocks import block_places, find_block_place
from outgrow.net.chains import chain_places, find_chain_place
from outgrow.net.inputs import Example
from outgrow.net.place import NoPlaceError
from outgrow.net.place import Place as Place
from outgrow.net.survey import Survey, survey


def places(model: nn.Module, example: Example) -> list[Place]:
    """Find every place of a model where a block can go.

    Residual places are the children of `nn.Sequential` and `nn.ModuleList` whose copy, with some weights at zero, hands
    its input on; which weights is found by trying, and the model is run with the copy in it. Chain places are behind
    activations that follow a linear layer or a convolution.

    Args:
        model: Any module; it is not changed.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments. A tensor of zeros tells
            nothing, so that noise stands in for it.

    Returns:
        The residual places, then the chain places, in the order of the model; and, not growable and with the reason,
        each container of repeated blocks where none can go.

    Raises:
        GrowthError: The model is scripted, compiled or wrapped, or does not run on this example.

    Examples:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> places(model, torch.zeros(1, 4))
        [1 (chain): Linear(3, 3) at the identity and ReLU]
    """
    with survey(model, example) as seen:
        return _every(seen)


def find_place(seen: Survey, name: str) -> Place:
    """Return the place with this name, or the last one of a container with this name.

    Args:
        seen: The model.
        name: As `places` lists it.

    Returns:
        A place where a block can go.

    Raises:
        GrowthError: There is none; the message says what places there are, or why none is here.
    """
    try:
        return find_block_place(seen, name)
    except NoPlaceError as error:
        reason = str(error) if name in seen.names.values() else "the model has no module of this name"
        if any(seen.names[module] == name for module in seen.forward.unlearned):
            reason = "it runs under no_grad(), where a new block would never learn"
    if place := find_chain_place(seen, name):
        return place
    found = _every(seen)
    known = ", ".join(place.name for place in found if place.growable) or "none"
    others = "".join(f"; none in {place.name}: {place.reason}" for place in found if not place.growable)
    raise GrowthError(f"no block can go behind '{name}': {reason}; one can go behind: {known}{others}")


def _every(seen: Survey) -> list[Place]:
    return [*block_places(seen), *chain_places(seen)]
