"""Options of a policy as text: their names, types and defaults, read off a dataclass or a signature."""

import inspect
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from outgrow.errors import InputError

EMPTY = inspect.Parameter.empty
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        name: Its name.
        kind: Its type: int, float, bool, str, a Literal, a tuple of such, or one of them or None.
        default: What it is where it is not given; `EMPTY` where it has to be.

    Examples:
        >>> Option("tau", float, 1.0).name
        'tau'
    """

    name: str
    kind: Any
    default: Any = EMPTY


def options_in(made: object) -> dict[str, Option]:
    """Return the options of a policy that is made, by name: a dataclass's fields with their values, none of another."""
    if not is_dataclass(made):
        return {}
    hints, values = _hints(type(made)), {f.name: getattr(made, f.name) for f in fields(made) if f.init}
    return {name: Option(name, hints.get(name, _kind(value)), value) for name, value in values.items()}


def options_taken(call: Callable[..., object], timed: bool) -> dict[str, Option]:
    """Return the options that a function or class takes as keywords, by name.

    Args:
        call: The function or class.
        timed: Whether its first argument is a timetable, and no option.

    Returns:
        The options, with the types of their annotations, else of their defaults, else text.
    """
    try:
        parameters = [*inspect.signature(call).parameters.values()][timed:]
    except (TypeError, ValueError):  # what is built in may not tell
        return {}
    hints = _hints(getattr(call, "__init__", call) if isinstance(call, type) else call)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: Option(p.name, hints.get(p.name, _kind(p.default)), p.default) for p in named}


def values_of(who: str, texts: Mapping[str, str], offered: Mapping[str, Option]) -> dict[str, Any]:
    """Convert options from text by their types.

    Args:
        who: Whose options these are, for errors.
        texts: The text of each option that is given, by name.
        offered: The options that there are, by name.

    Returns:
        Their values, by name.

    Raises:
        InputError: An option is unknown, or its text is no value of its type, or no text is.

    Examples:
        >>> bounds = Option("bounds", tuple[float, float], (0.6, 1.5))
        >>> values_of("outgrow", {"bounds": "0.5,2"}, {"bounds": bounds})
        {'bounds': (0.5, 2.0)}
    """
    for name in texts:
        if name not in offered:
            there = f"choose from {', '.join(offered)}" if offered else "it has none"
            raise InputError(f"policy {who} has no option '{name}': {there}")
    values = {}
    for name, text in texts.items():
        try:
            values[name] = parsed(text, offered[name].kind)
        except ValueError as error:
            expected = described(offered[name].kind)
            raise InputError(f"policy {who}, option {name}: expected {expected}, received '{text}'") from error
        except TypeError as error:
            raise InputError(f"policy {who}, option {name}: {error}; set it in code") from error
    return values


def parsed(text: str, kind: Any) -> Any:
    """Return the value of some type that a text stands for; `str` of a value gives a text that does.

    Args:
        text: The text.
        kind: The type, see `Option`.

    Returns:
        The value.

    Raises:
        TypeError: No text stands for a value of the type.
        ValueError: The text stands for no value of the type.

    Examples:
        >>> parsed("2e-3", float), parsed("none", int | None), parsed("(1, 2)", tuple[int, ...])
        (0.002, None, (1, 2))
    """
    text, inner = text.strip(), get_args(kind)
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in inner}[text] if text in map(str, inner) else _refused(text)
    if get_origin(kind) in (Union, types.UnionType) and len(inner) == 2 and type(None) in inner:
        return None if text.lower() == "none" else parsed(text, next(one for one in inner if one is not type(None)))
    if get_origin(kind) is tuple:
        parts = [part for part in text.strip("()").split(",") if part.strip()]
        kinds = [inner[0]] * len(parts) if inner[-1] is Ellipsis else inner
        return tuple(parsed(part, one) for part, one in zip(parts, kinds, strict=True))
    if kind is bool:
        return FLAGS[text.lower()] if text.lower() in FLAGS else _refused(text)
    if kind is float:
        return float(text) if not math.isnan(float(text)) else _refused(text)
    if kind in (int, str):
        return kind(text)
    raise TypeError(f"its type {inspect.formatannotation(kind)} can't be read from text")


def described(kind: Any) -> str:
    """Return what values of a type look like, in words."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if get_origin(kind) in (Union, types.UnionType) and len(inner) == 2 and type(None) in inner:
        return f"{described(next(one for one in inner if one is not type(None)))}, or none"
    if get_origin(kind) is tuple:
        several = "any number" if inner[-1] is Ellipsis else str(len(inner))
        return f"{several} of these, with commas between: {described(inner[0])}"
    return WORDS.get(kind, inspect.formatannotation(kind))


def _hints(thing: Any) -> dict[str, Any]:
    """The types that annotations name, as far as they can be known."""
    try:
        return get_type_hints(thing)
    except Exception:  # of a type that only a type checker imports, or that the installed Python can't write so
        return {}


def _kind(default: Any) -> Any:
    """The type of an option that says none."""
    return str if default is EMPTY or default is None else type(default)


def _refused(text: str) -> Any:
    raise ValueError(text)
