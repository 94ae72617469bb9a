"""A seed network of the user's own: what a factory of their code returns."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.factory import first_line, imported
from outgrow.models.seed_network import SeedNetwork, units_of
from outgrow.stored import Stored

Factory = str | nn.Module | Callable[..., nn.Module]
"""Where a network comes from: `package.module:factory`, a function or class, or a network that is made already."""


SHOWN = 4  # differences that an error tells


@dataclass(frozen=True)
class ImportedSeed(SeedNetwork):
    """A network of the user's own, with the constants that let it take raw inputs and give raw outputs.

    Args:
        model: The name of the factory, `package.module:factory`.
        make: The factory. It is called with nothing, or with those of `inputs=` and `outputs=` that its signature has.
        inputs: Shape of one example, [features] or [channels, height, width].
        outputs: Number of classes or targets.
        input_mean: Mean of each channel or feature; empty for 0.
        input_std: Standard deviation of each channel or feature; empty for 1.
        output_mean: Mean of each target (regression); empty for 0.
        output_std: Standard deviation of each target (regression); empty for 1.
        shapes: Shapes of the core's parameters by name, which every core has to have; empty for any.

    Examples:
        >>> def small(inputs, outputs):
        ...     return nn.Linear(inputs[0], outputs)
        >>> ImportedSeed("mynets:small", small, (4,), 3).build()(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    model: str
    make: Callable[..., nn.Module] = field(repr=False, compare=False)
    inputs: tuple[int, ...]
    outputs: int
    input_mean: tuple[float, ...] = ()
    input_std: tuple[float, ...] = ()
    output_mean: tuple[float, ...] = ()
    output_std: tuple[float, ...] = ()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def core_name(self) -> str:
        """What the core is called in the network."""
        return "model"

    @property
    def smaller(self) -> str:
        """What to do where the network is too large."""
        return f"start with a smaller network than {self.model} makes"

    def core(self) -> nn.Module:
        """Return a new core.

        Returns:
            What the factory makes.

        Raises:
            InputError: The factory fails, or makes no module, or one of other shapes than before.
        """
        try:
            made = self.make(**_arguments(self.make, {"inputs": self.inputs, "outputs": self.outputs}))
        except (Exception, SystemExit) as error:  # whatever the user's code does
            raise InputError(
                f"{self.model}: expected a function or class to call with nothing, or with inputs={self.inputs} and "
                f"outputs={self.outputs}; it raised {type(error).__name__}: {first_line(error)}"
            ) from error
        if not isinstance(made, nn.Module):
            raise InputError(f"{self.model}: expected it to return a torch.nn.Module, got {type(made).__name__}")
        if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in made.parameters()):
            raise InputError(f"{self.model}: expected weights that have shapes, got a lazy layer: give it its sizes")
        if self.shapes and (changes := _changes(self.shapes, _shapes(made))):
            raise InputError(
                f"the code of {self.model} has changed since this run, or another one is given: "
                f"{'; '.join(changes[:SHOWN])}{f'; and {len(changes) - SHOWN} more' if len(changes) > SHOWN else ''}"
            )
        return made

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values but the factory, which is named."""
        values = {key: value for key, value in vars(self).items() if key not in ("model", "make")}
        return {"factory": self.model, **values}

    @classmethod
    def from_json(cls, stored: Stored, factory: Factory) -> "ImportedSeed":
        """Build a seed from what `to_json` gave.

        Args:
            stored: The values.
            factory: What makes the network; a name is imported.

        Returns:
            The seed.
        """
        name = stored.text("factory")
        shapes = stored.wholes_of_each("shapes")
        return cls(name, maker_of(factory), shapes=shapes, **units_of(stored))


def imported_seed(name: str, inputs: tuple[int, ...], outputs: int, **statistics: Any) -> ImportedSeed:
    """Import a factory for a run, and try it.

    Args:
        name: `package.module:factory`, also found in the current folder.
        inputs: Shape of one example.
        outputs: Number of classes or targets.
        **statistics: Any of the other fields of `ImportedSeed` but `shapes`, which are those of the first network.

    Returns:
        The seed.

    Raises:
        InputError: There is no such factory, or its network does not run on two examples, or gives something else than
            [2, outputs], or the factory gives networks that share weights or are of different shapes.
    """
    with torch.random.fork_rng(devices=[]):  # whatever the user's code draws
        make = imported(name, "factory", "mymodels.nets:small")
        if isinstance(make, nn.Module) or not callable(make):
            raise InputError(f"{name}: expected a function or class that makes a network, got {type(make).__name__}")
        seed = ImportedSeed(name, make, inputs, outputs, **statistics)
        first, second = seed.core(), seed.core()
        if _shared(first, second):
            raise InputError(f"{name}: expected a new network at every call, got one that shares weights with the last")
        if changes := _changes(_shapes(first), _shapes(second)):
            raise InputError(f"{name}: expected a network of the same shapes at every call; {changes[0]}")
        _demand_outputs(seed, first)
    return ImportedSeed(name, make, inputs, outputs, **statistics, shapes=_shapes(second))


def maker_of(factory: Factory) -> Callable[..., nn.Module]:
    """Return what makes a network when it is called.

    Args:
        factory: A name, which is imported, a function or class, or a network, which is copied.

    Returns:
        The function.

    Raises:
        InputError: It is none of these.
    """
    found = imported(factory, "factory", "mymodels.nets:small") if isinstance(factory, str) else factory
    if isinstance(found, nn.Module):
        return lambda: copy.deepcopy(found)
    if not callable(found):
        raise InputError(f"expected a function or class that makes a network, its name or a network, got {found!r}")
    return found


def _arguments(make: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Those of the offered keywords that a signature has."""
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):  # what is built in may not tell
        return {}
    named = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    return {key: value for key, value in offered.items() if key in parameters and parameters[key].kind in named}


def _demand_outputs(seed: ImportedSeed, core: nn.Module) -> None:
    """Check that a core runs on two random examples and gives [2, outputs]."""
    x = torch.randn(2, *seed.inputs)
    try:
        with torch.no_grad():
            answer: Any = core(x)
    except Exception as error:  # whatever the user's code does
        raise InputError(
            f"{seed.model}: expected a network that reads {list(x.shape)}, [examples, *inputs]; it raised "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    shape = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if shape != [2, seed.outputs]:
        raise InputError(
            f"{seed.model}: expected a network that gives [2, {seed.outputs}], [examples, outputs], for two examples; "
            f"got {shape}"
        )


def _shared(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks have the memory of a parameter in common."""
    weights = [{p.untyped_storage().data_ptr() for p in net.parameters() if p.numel()} for net in (first, second)]
    return not weights[0].isdisjoint(weights[1])


def _shapes(core: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in core.named_parameters()}


def _changes(before: dict[str, tuple[int, ...]], now: dict[str, tuple[int, ...]]) -> list[str]:
    """Say which shapes differ."""
    return [
        f"{name} was {_written(before.get(name))} and is {_written(now.get(name))}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _written(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
