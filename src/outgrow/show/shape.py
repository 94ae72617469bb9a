"""The shape of a value: what has to stand under a key of a record, so that it can be shown."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard


class Shape(NamedTuple):
    """What a value may be.

    Args:
        what: That in words.
        fits: Whether a value is that.
        or_null: Whether it may also be unknown.
    """

    what: str
    fits: Callable[[Any], bool]
    or_null: bool = False


def misshapen(record: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Name the values of a record that are of another shape than their keys say.

    Args:
        record: A record, or an object within one.
        at: The keys on the way to it, with a dot behind.

    Yields:
        The key, what was expected, and what is there.

    >>> list(misshapen({"params": 12, "axes": {"fc1": 8}, "validation": None, "anything": "else"}))
    ['validation: expected an object of numbers, received None']
    >>> list(misshapen({"growths": [{"where": "fc1", "params": "many"}]}))
    ["growths[0].params: expected a whole number, received 'many'"]
    """
    for key, value in record.items():
        shape = (WITHIN if at else SHAPES).get(key) or (AMOUNT if key.endswith(ENDINGS) else None)
        if shape is None or (value is None and shape.or_null):
            continue
        if not shape.fits(value):
            yield f"{at}{key}: expected {shape.what}{' or null' if shape.or_null else ''}, received {value!r:.60}"
        elif shape.fits is is_objects:
            for index, inner in enumerate(value):
                yield from misshapen(inner, f"{at}{key}[{index}].")


def is_object(value: object) -> bool:
    """Say whether a value is an object."""
    return isinstance(value, dict)


def is_objects(value: object) -> bool:
    """Say whether a value is a list of objects."""
    return isinstance(value, list) and all(map(is_object, value))


def is_measures(value: object) -> bool:
    """Say whether a value is an object of numbers, some perhaps unknown."""
    return isinstance(value, dict) and all(inner is None or _is_known(inner) for inner in value.values())


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_number(value: object) -> bool:
    return _is_known(value) and abs(value) <= sys.float_info.max  # neither NaN nor infinity


def _is_known(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_axes(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_whole, value.values()))


def _is_energy(value: object) -> bool:
    return isinstance(value, dict) and _is_number(value.get("value")) and _is_text(value.get("how"))


WHOLE, NUMBER, TEXT = Shape("a whole number", _is_whole), Shape("a number", _is_number), Shape("a text", _is_text)
AMOUNT, OBJECTS = Shape("a number", _is_known, or_null=True), Shape("a list of objects", is_objects)
ENDINGS = ("flops", "seconds")
"""How the keys end under which an amount stands, if nothing else is said of them."""

SHAPES = {
    "params": Shape("a whole number from 1", lambda value: _is_whole(value) and value > 0),
    **dict.fromkeys(("step", "steps", "event", "number", "count", "epochs", "size_after", "seed"), WHOLE),
    **dict.fromkeys(("threads", "processes"), WHOLE),
    **dict.fromkeys(("size_before", "params_after", "units", "max_params"), WHOLE._replace(or_null=True)),
    **dict.fromkeys(("train_examples", "validation_examples", "test_examples"), WHOLE),
    **dict.fromkeys(("epoch", "best_epoch", "seconds"), NUMBER),
    **dict.fromkeys(("train_loss", "gain", "se", "realised", "moved", "max_latency"), AMOUNT),
    **dict.fromkeys(("data", "task", "metric", "model", "precision"), TEXT),
    **dict.fromkeys(("reason", "kind", "where", "name", "of", "start", "size"), TEXT),
    "axes": Shape("an object of whole numbers", _is_axes),
    "validation": Shape("an object of numbers", is_measures),
    "test": Shape("an object of numbers", is_measures, or_null=True),
    "joules": Shape("an object with a value and how it is known", _is_energy, or_null=True),
    **dict.fromkeys(("versions", "left_out", "frozen"), Shape("an object", is_object, or_null=True)),
    "widths": Shape("a list", lambda value: isinstance(value, list), or_null=True),
    "growths": OBJECTS,
    "candidates": OBJECTS._replace(or_null=True),
}
"""What has to stand under each key; other keys are shown as they are, or not at all."""

WITHIN = SHAPES | {"params": WHOLE}
"""The same within a growth or a candidate, which may take parameters away."""
