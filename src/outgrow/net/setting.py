"""Settings: sizes that a module keeps in attributes beside its weights, such as the number of its heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Setting:
    """The value of an attribute of a module.

    Args:
        module: Path of the module; empty for the model itself.
        attribute: Name of the attribute, with dots where it sits in an object of the module ("config.num_heads").
        value: What it is to be: a number, or a list such as the kinds of a configuration's layers.
    """

    module: str
    attribute: str
    value: int | float | list[Any] | tuple[Any, ...]

    def owner(self, model: nn.Module) -> object:
        """Return the object that has the attribute."""
        holder, _, _ = self.attribute.rpartition(".")
        module = model.get_submodule(self.module)
        return attrgetter(holder)(module) if holder else module

    def read(self, model: nn.Module) -> Any:
        """Return the value that the attribute has now."""
        return getattr(self.owner(model), self.attribute.rpartition(".")[2])

    def write(self, model: nn.Module) -> None:
        """Set the attribute."""
        setattr(self.owner(model), self.attribute.rpartition(".")[2], self.value)


def apply_settings_(model: nn.Module, settings: Sequence[Setting]) -> Callable[[], None]:
    """Set attributes of a model's modules.

    Args:
        model: Changed in place.
        settings: What to set.

    Returns:
        A function that puts the old values back.
    """
    before = [Setting(s.module, s.attribute, s.read(model)) for s in settings]
    for setting in settings:
        setting.write(model)

    def put_back() -> None:
        for setting in reversed(before):
            setting.write(model)

    return put_back


@dataclass(frozen=True)
class Scaled:
    """An attribute that grows with an axis.

    Args:
        module: Path of the module; empty for the model itself.
        attribute: Name of the attribute, as for `Setting`.
        per_unit: What one more unit adds to it.
    """

    module: str
    attribute: str
    per_unit: int

    def after(self, model: nn.Module, units: int) -> Setting:
        """Return the setting after so many more units, negative for fewer, as seen from the model as it is now."""
        now = Setting(self.module, self.attribute, 0).read(model)
        return Setting(self.module, self.attribute, now + self.per_unit * units)
