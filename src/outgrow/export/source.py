"""Python source as a small tree: calls that break into lines where they are too long, and sizes that may get names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Union

WIDTH = 88
"""Characters of a line, as formatters have it by default."""


class UnwritableError(Exception):
    """Something that has no source of this form."""


@dataclass(frozen=True)
class Size:
    """A whole number that another instance of a class may have differently.

    Args:
        value: The number.
        name: What it is, such as `out_channels`.
        owner: The attribute that it belongs to, such as `conv1`.
    """

    value: int
    name: str
    owner: str = ""


@dataclass(frozen=True)
class Inner:
    """A module whose class is not written yet.

    Args:
        path: Path of the module in the network.
    """

    path: str


@dataclass(frozen=True)
class Call:
    """A call, or a list or tuple with an empty name.

    Args:
        name: What stands before the bracket.
        args: Source of each argument.
        brackets: The opening and the closing one.
    """

    name: str
    args: tuple["Source", ...] = ()
    brackets: str = "()"


Source = Union[str, Size, Inner, "Keyword", Call]
"""Source that is ready, or a tree of it."""


@dataclass(frozen=True)
class Keyword:
    """A keyword argument.

    Args:
        name: The keyword.
        value: Source of what is passed.
    """

    name: str
    value: Source


def sizes(source: Source) -> Iterator[Size]:
    """Go over the sizes in a source, in order."""
    if isinstance(source, Size):
        yield source
    elif isinstance(source, Keyword):
        yield from sizes(source.value)
    elif isinstance(source, Call):
        for arg in source.args:
            yield from sizes(arg)


def mapped(source: Source, change: Callable[[Size | Inner], Source]) -> Source:
    """Return a source with something in place of each of its sizes and inner modules, in order."""
    if isinstance(source, (Size, Inner)):
        return change(source)
    if isinstance(source, Keyword):
        return Keyword(source.name, mapped(source.value, change))
    if isinstance(source, Call):
        return Call(source.name, tuple(mapped(arg, change) for arg in source.args), source.brackets)
    return source


def flat(source: Source) -> str:
    """Return a source on one line.

    Examples:
        >>> flat(Call("nn.Linear", (Size(3, "in_features"), Size(2, "out_features"), Keyword("bias", "False"))))
        'nn.Linear(3, 2, bias=False)'
    """
    if isinstance(source, Size):
        return str(source.value)
    if isinstance(source, Inner):
        return f"<{source.path}>"
    if isinstance(source, Keyword):
        return f"{source.name}={flat(source.value)}"
    if isinstance(source, Call):
        comma = "," if source.brackets == "()" and not source.name and len(source.args) == 1 else ""
        return f"{source.name}{source.brackets[0]}{', '.join(map(flat, source.args))}{comma}{source.brackets[1]}"
    return source


def lines(source: Source, indent: int, before: str = "", after: str = "") -> list[str]:
    """Return a source as lines that are not longer than `WIDTH`, as far as its names allow that.

    Args:
        source: What to write.
        indent: Spaces before the first line.
        before: What stands before the source, such as `x = `.
        after: What stands behind it, such as a comma.

    Examples:
        >>> for line in lines(Call("f", ("a" * 30, "b" * 30, "c" * 30)), 0, "x = "):
        ...     print(line)
        x = f(
            aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,
            bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb,
            cccccccccccccccccccccccccccccc,
        )
    """
    line = f"{' ' * indent}{before}{flat(source)}{after}"
    if len(line) <= WIDTH:
        return [line]
    if isinstance(source, Keyword):
        return lines(source.value, indent, f"{before}{source.name}=", after)
    if not isinstance(source, Call) or not source.args:
        return [f"{line}  # noqa: E501"]
    opening, closing = (
        f"{' ' * indent}{before}{source.name}{source.brackets[0]}",
        f"{' ' * indent}{source.brackets[1]}{after}",
    )
    together = f"{' ' * (indent + 4)}{', '.join(map(flat, source.args))}"
    if len(together) <= WIDTH and (source.name or len(source.args) > 1):
        return [opening, together, closing]
    return [opening, *(part for arg in source.args for part in lines(arg, indent + 4, "", ",")), closing]
