"""Insert a block at a place, by hand."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import GrowthError
from outgrow.models.rational import Rational
from outgrow.models.residual import identity_layer, residual_layer
from outgrow.net.edit import Edit, Insertion
from outgrow.net.follow import followed
from outgrow.net.inputs import Example, gpus_of, seed_
from outgrow.net.optimizers import Optimizers
from outgrow.net.place import BlockCopy, NewLayer, Place
from outgrow.net.places import find_place
from outgrow.net.preserve import verified
from outgrow.net.setting import apply_settings_
from outgrow.net.surgery import insert_, tensors_of
from outgrow.net.survey import survey
from outgrow.net.twin import own_parameters, redraw_, twin

INITS = ("copy", "fresh")


def deepen_(
    model: nn.Module,
    place: str | Place,
    *,
    example: Example,
    optimizer: Optimizers | None = None,
    averages: Sequence[AveragedModel] = (),
    init: str = "copy",
    generator: torch.Generator | None = None,
) -> Edit:
    """Insert a block, in place, without changing what the model computes.

    At a residual place it is a copy of the block before it with some weights at zero, in a chain a layer that starts as
    the identity. The place is looked at anew, so that one found before some training is as good as its name.

    Args:
        model: Any module.
        place: A place, or its name as `outgrow.places` lists it, or the path of a container, for its last place.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments.
        optimizer: One or several: gets the new parameters.
        averages: Averaged weights of the model.
        init: Weights of a copied block that are not zero: `copy` takes those of the block, `fresh` draws them anew.
        generator: Random source of what is drawn; torch's global one by default.

    Returns:
        The edit: `moved` is the largest change of an output relative to its scale, `undo()` takes the edit back. Its
        `axes` are empty, since the graph is another one.

    Raises:
        GrowthError: There is no such place, or the model can't be called on the example; everything is as before.
        EditError: The function would have changed; everything is as before.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> edit = deepen_(model, "1", example=torch.zeros(1, 4))
        >>> [type(layer).__name__ for layer in model]
        ['Linear', 'ReLU', 'Linear', 'ReLU', 'Linear']
    """
    if not isinstance(place, (str, Place)):
        raise GrowthError(f"expected a place or its name, got {place!r}")
    if init not in INITS:
        raise GrowthError(f"expected init to be one of {', '.join(INITS)}, got '{init}'")
    with survey(model, example) as seen:
        found = find_place(seen, place.name if isinstance(place, Place) else place)
    insertion = prepared(model, found, init, generator)
    return _inserted(model, seen.example, found, insertion, optimizer, averages)


def insert_block_(
    model: nn.Module,
    insertion: Insertion,
    *,
    example: Example,
    optimizer: Optimizers | None = None,
    averages: Sequence[AveragedModel] = (),
) -> Edit:
    """Insert a block that was prepared for this very model, in place, verified like any other.

    What has to be set beside it is looked for anew, so that several blocks can go in one after the other, in the order
    that `late_first` gives: a block in front of them would give the modules behind it other names.

    Args:
        model: Any module.
        insertion: What `prepared` made; its weights are taken as they are.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments.
        optimizer: One or several: gets the new parameters.
        averages: Averaged weights of the model.

    Returns:
        The edit, as `deepen_` returns it.

    Raises:
        GrowthError: The place is no longer there; everything is as before.
        EditError: The function would have changed; everything is as before.
    """
    name = f"{insertion.parent}.{insertion.child}".strip(".")
    with survey(model, example) as seen:
        found = find_place(seen, name)
    if (found.parent, found.child) != (insertion.parent, insertion.child):
        raise GrowthError(f"expected a place behind '{name}' for the prepared block, found one behind '{found.name}'")
    return _inserted(model, seen.example, found, insertion, optimizer, averages)


def prepared(model: nn.Module, place: Place, init: str = "copy", generator: torch.Generator | None = None) -> Insertion:
    """Make the modules that go to a place of the model as it is; they are not put into it.

    Args:
        model: Not changed.
        place: One that `places` has found in the model as it is.
        init: As for `deepen_`.
        generator: As for `deepen_`.

    Returns:
        The modules, which hand their input on.

    Raises:
        GrowthError: No block can go there.
    """
    if place.recipe is None:
        raise GrowthError(f"no block can go behind '{place.name}': {place.reason}")
    with _drawn_from(generator, model):
        if isinstance(place.recipe, BlockCopy):
            return _copied(model, place, place.recipe, init)
        return _layered(model, place, place.recipe)


def late_first(model: nn.Module, found: Iterable[Place]) -> list[Place]:
    """Return places in the order in which blocks can go in one by one: the last of the model first."""
    order = {path: at for at, (path, _) in enumerate(model.named_modules())}
    return sorted(found, key=lambda place: order[place.name], reverse=True)


def _inserted(
    model: nn.Module,
    example: Example,
    place: Place,
    insertion: Insertion,
    optimizer: Optimizers | None,
    averages: Sequence[AveragedModel],
) -> Edit:
    def edited() -> Edit:
        return verified(model, example, lambda: _apply(model, place, insertion))

    return followed(model, edited, optimizer, averages)


def _apply(model: nn.Module, place: Place, insertion: Insertion) -> Edit:
    edit = Edit(f"a block behind {place.name}", insertions=(insertion,), settings=place.settings)
    edit.on_undo(insert_(model, insertion))
    edit.on_undo(apply_settings_(model, place.settings))
    parent = model.get_submodule(insertion.parent)
    there = _held(parent, insertion)
    edit.undo_while(lambda: _held(parent, insertion) == there)
    return edit


def _held(parent: nn.Module, insertion: Insertion) -> list[tuple[str, int]]:
    """The children of the module that blocks went into, and the tensors of the blocks, as they are."""
    tensors = tensors_of(nn.ModuleList(insertion.modules))
    return [(name, id(held)) for name, held in [*parent._modules.items(), *tensors.items()]]


def _copied(model: nn.Module, place: Place, recipe: BlockCopy, init: str) -> Insertion:
    block = model.get_submodule(place.name)
    copied = twin(model, block)
    mine = own_parameters(model, block)
    if init == "fresh":
        redraw_(copied, mine)
    with torch.no_grad():
        for name in recipe.zeros:
            copied.get_parameter(name).zero_()
    first = {parameter: name for name, parameter in model.named_parameters()}
    like = {f"0.{name}": first[parameter] for name, parameter in mine.items()}
    return Insertion(place.parent, place.child, (copied,), like)


def _layered(model: nn.Module, place: Place, recipe: NewLayer) -> Insertion:
    activation = copy.deepcopy(model.get_submodule(place.name)) if recipe.repeats else Rational()
    like = model.get_submodule(recipe.like)
    weight = max(like.parameters(), key=lambda parameter: parameter.ndim)
    bias = like._parameters.get("bias")
    new = nn.ModuleList([_new_layer(model, recipe), activation]).to(weight.device, weight.dtype)
    first = {parameter: name for name, parameter in model.named_parameters()}
    options = {name: first[weight if p.ndim > 1 or bias is None else bias] for name, p in new.named_parameters()}
    return Insertion(place.parent, place.child, tuple(new), options)


def _new_layer(model: nn.Module, recipe: NewLayer) -> nn.Module:
    if not recipe.norm:
        return identity_layer(recipe.channels, recipe.kernel)
    norm = model.get_submodule(recipe.norm)
    assert isinstance(norm, _BatchNorm)  # as the place says
    return residual_layer(recipe.channels, recipe.kernel, norm)


@contextmanager
def _drawn_from(generator: torch.Generator | None, model: nn.Module) -> Iterator[None]:
    """Draw from a generator in place of torch's global random state."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=gpus_of(model)):
        seed_(model, seed)
        yield
