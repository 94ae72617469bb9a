"""What a Hugging Face configuration can describe: which of its fields set which axes, and whether they do now."""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from outgrow.integrations.conv1d import as_linear_
from outgrow.integrations.tied import pattern
from outgrow.net.axis import Axis
from outgrow.net.inputs import Example
from outgrow.net.place import Place
from outgrow.net.preserve import change, frozen_state, outputs, tolerance
from outgrow.net.surgery import tensors_of

ShapeOf = dict[str, torch.Size]


@dataclass(frozen=True)
class Field:
    """Fields of a configuration that set the size of axes, and nothing else.

    Args:
        start: What they are while the axes have their size, by name.
        per_unit: What one more unit of each axis adds to them, by name.
        size: Units of each axis.
        patterns: Patterns of the names of the axes.
    """

    start: Mapping[str, int]
    per_unit: Mapping[str, int]
    size: int
    patterns: frozenset[str]

    def __str__(self) -> str:
        return " and ".join(self.per_unit)

    def values(self, size: int) -> dict[str, int]:
        """Return what the fields are where the axes have a size."""
        return {name: self.start[name] + step * (size - self.size) for name, step in self.per_unit.items()}

    def takes(self, config: PreTrainedConfig, size: int) -> bool:
        """Return whether a configuration is valid where the axes have a size; heads may have to divide something."""
        return _is_valid(config, self.values(size))

    def write_(self, config: PreTrainedConfig, sizes: Mapping[str, int]) -> None:
        """Set the fields to what the axes are now; nothing happens where these differ.

        Args:
            config: Changed in place.
            sizes: Units of every axis, by name.
        """
        found = {size for axis, size in sizes.items() if pattern(axis) in self.patterns}
        if len(found) == 1:
            _set_(config, self.values(found.pop()))


def fields_of(model: PreTrainedModel, axes: Sequence[Axis]) -> list[Field]:
    """Find the fields that set axes, by building the model with larger ones, without memory for its weights.

    Args:
        model: A model that its configuration describes.
        axes: Its axes.

    Returns:
        The fields; of axes that can't grow there are none, and each axis has one.
    """
    found: list[Field] = []
    present = _shapes(model, {})
    for start, steps in _steps(model, axes, present):
        taken = {name for field in found for name in field.patterns}
        grown = _shapes(model, {name: start[name] + step for name, step in steps.items()})
        field = _field(axes, start, steps, _differences(present, grown)) if present and grown else None
        if field and not field.patterns & taken:
            found.append(field)
    return found


def is_counted(place: Place) -> bool:
    """Return whether a block at a place is counted by the configuration."""
    return place.kind == "residual" and any("config." in setting.attribute for setting in place.settings)


def width_fields(axes: Iterable[Axis]) -> set[str]:
    """Return the fields that an edit of some axis sets, also where no value of them describes all axes."""
    return {name for axis in axes for name in _hint(axis)}


def stays_valid(config: PreTrainedConfig, axis: Axis, size: int) -> bool:
    """Return whether a configuration can be saved once an edit, which sets fields of it, gives an axis a size."""
    numbers = dict(_numbers(config))
    present = {name: (numbers.get(name), step) for name, step in _hint(axis).items()}
    values = {name: value + step * (size - axis.size) for name, (value, step) in present.items() if value is not None}
    return not values or _is_valid(config, values)


def why_not(model: PreTrainedModel, example: Example) -> str:
    """Return why a model's configuration does not describe it, or an empty string.

    A second model is made of it, on the same weights, and both compute the same or not.

    Args:
        model: The model.
        example: One input.
    """
    try:
        with frozen_state(model), made_of(model.dtype), no_init_weights():
            fresh: nn.Module = type(model)(copy.deepcopy(model.config))
            fresh = nn.Module.to(fresh, model.device)
        if other := _other_shape(fresh, model):
            return other
        fresh.load_state_dict(model.state_dict(), assign=True)
        moved = change(outputs(model, example, False), outputs(fresh, example, False))
    except Exception as error:
        return str(error).strip().partition("\n")[0].rstrip(":")
    return "" if moved <= tolerance(model) else f"what it builds computes something else, by {moved:.1e} of its scale"


def _other_shape(fresh: nn.Module, model: nn.Module) -> str:
    """The first tensor that is another one in the new model, in words; empty where none is."""
    built, now = ({name: [*tensor.shape] for name, tensor in one.state_dict().items()} for one in (fresh, model))
    for name in {**now, **built}:
        if built.get(name) != now.get(name):
            return f"{name} has the shape {now.get(name)}, where it builds {built.get(name)}"
    return ""


@contextmanager
def made_of(dtype: torch.dtype) -> Iterator[None]:
    """Let new models have weights of a type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _steps(
    model: PreTrainedModel, axes: Sequence[Axis], present: ShapeOf | None
) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    """Present values of fields that may set an axis, and steps of them, to be tried in this order."""
    growable = [axis for axis in axes if axis.growable]
    numbers = dict(_numbers(model.config))
    ints = {name: value for name, value in numbers.items() if type(value) is int}
    for steps in {tuple(hint.items()): hint for hint in map(_hint, growable) if hint.keys() <= ints.keys()}.values():
        if steps:
            yield ints, steps
    yield from ((ints, {name: 1}) for name in ints)
    for size in sorted({axis.size for axis in growable}):
        unset = [name for name, value in numbers.items() if value is None]
        yield from (({name: size}, {name: 1}) for name in unset if _shapes(model, {name: size}) == present)


def _hint(axis: Axis) -> dict[str, int]:
    """The fields that an edit of the axis sets."""
    settings = [s for s in axis.settings if not s.module and s.attribute.startswith("config.")]
    return {setting.attribute.removeprefix("config."): setting.per_unit for setting in settings}


def _field(
    axes: Sequence[Axis], start: Mapping[str, int], steps: Mapping[str, int], differences: Counter[tuple[str, int]]
) -> Field | None:
    """The fields, if a step adds one unit on some axes that can grow, and changes nothing else."""
    tied = [axis for axis in axes if differences and _entries(axis).keys() <= differences.keys()]
    adds: Counter[tuple[str, int]] = sum(map(_entries, tied), Counter())
    alike = len({axis.size for axis in tied}) == 1
    if adds != differences or not alike or not all(axis.growable and not axis.gains for axis in tied):
        return None
    patterns = frozenset(pattern(axis.name) for axis in tied)
    return Field({name: start[name] for name in steps}, dict(steps), tied[0].size, patterns)


def _entries(axis: Axis) -> Counter[tuple[str, int]]:
    """Entries of one unit, by tensor and dimension."""
    found: Counter[tuple[str, int]] = Counter()
    for member in axis.members:
        found[member.tensor, member.dim] += member.index.shape[1]
    return found


def _differences(before: ShapeOf, after: ShapeOf) -> Counter[tuple[str, int]]:
    """By how much dimensions are longer; nothing where tensors, or numbers of dimensions, differ."""
    if before.keys() != after.keys() or any(len(before[name]) != len(after[name]) for name in before):
        return Counter()
    longer = {(name, dim): after[name][dim] - size for name, shape in before.items() for dim, size in enumerate(shape)}
    return Counter({place: more for place, more in longer.items() if more})


def _shapes(model: PreTrainedModel, values: Mapping[str, int]) -> ShapeOf | None:
    """The shapes of what a model's configuration builds with other values; None where it builds nothing."""
    config = copy.deepcopy(model.config)
    try:
        _set_(config, values)
        with torch.random.fork_rng(), torch.device("meta"), no_init_weights():
            fresh = type(model)(config)
            as_linear_(fresh)
    except Exception:
        return None
    return {name: tensor.shape for name, tensor in tensors_of(fresh).items()}


def _numbers(config: PreTrainedConfig, prefix: str = "") -> Iterator[tuple[str, int | None]]:
    """The whole numbers of a configuration and of those in it, and what is not set, by name."""
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _numbers(value, f"{prefix}{name}.")
        elif not name.startswith("_") and (type(value) is int or value is None):
            yield prefix + name, value


def _is_valid(config: PreTrainedConfig, values: Mapping[str, int]) -> bool:
    config = copy.deepcopy(config)
    try:
        _set_(config, values)
        config.validate()
    except (StrictDataclassError, ValueError, TypeError):
        return False
    return True


def _set_(config: PreTrainedConfig, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        *path, last = name.split(".")
        owner = config
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, value)
