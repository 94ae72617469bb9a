"""Module classes as one would write them by hand: modules that differ in sizes alone share a class."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from outgrow.export.bodies import Body
from outgrow.export.source import WIDTH, Call, Inner, Size, Source, lines, mapped, sizes

_TAKEN = ("F", "Path", "build", "load", "math", "nn", "torch")
"""Names that a file with classes has for something else."""


def class_lines(made: Source, bodies: Mapping[str, Body]) -> tuple[Source, list[str]]:
    """Write the classes of a network, each behind those that it uses.

    Args:
        made: Source that makes the network, with modules whose classes are not written yet.
        bodies: What the class of each of those says, by the module's path.

    Returns:
        The source that makes the network, and the lines of the classes.
    """
    written: list[str] = []
    calls: dict[str, Call] = {}
    taken = set(_TAKEN)
    for depth in sorted({body.depth for body in bodies.values()}):
        for paths in _alike({path: body for path, body in bodies.items() if body.depth == depth}, calls):
            name = _unused(bodies[paths[0]].kind, taken)
            columns = [_sizes(bodies[path], calls) for path in paths]
            names = _parameters(columns)
            written += ["", "", *_class(name, bodies[paths[0]], calls, names)]
            for path, column in zip(paths, columns, strict=True):
                given = {word: column[at].value for at, word in names.items()}
                owner = path.rpartition(".")[2]
                calls[path] = Call(name, tuple(Size(value, word, owner) for word, value in given.items()))
    return _resolved(made, calls), written


def _resolved(source: Source, calls: Mapping[str, Call]) -> Source:
    """A source whose inner modules are made by the classes that are written by now."""
    return mapped(source, lambda leaf: calls[leaf.path] if isinstance(leaf, Inner) else leaf)


def _sizes(body: Body, calls: Mapping[str, Call]) -> list[Size]:
    return [size for _, source in body.made for size in sizes(_resolved(source, calls))]


def _alike(bodies: Mapping[str, Body], calls: Mapping[str, Call]) -> list[list[str]]:
    """The paths of modules that differ in sizes alone, group by group."""
    groups: dict[object, list[str]] = defaultdict(list)
    for path, body in bodies.items():
        made = [(before, mapped(_resolved(source, calls), lambda _: "#")) for before, source in body.made]
        groups[(body.kind, tuple(made), tuple(body.inputs), tuple(body.forward))].append(path)
    return list(groups.values())


def _parameters(columns: Sequence[Sequence[Size]]) -> dict[int, str]:
    """Names of the sizes that differ between modules, by their number; sizes that are always equal share one."""
    names: dict[tuple[int, ...], str] = {}
    found: dict[int, str] = {}
    for at, first in enumerate(columns[0]):
        values = tuple(column[at].value for column in columns)
        if len(set(values)) == 1:
            continue
        if values not in names:
            parts = (first.name, first.owner) if first.owner[:1].isdigit() else (first.owner, first.name)
            name = "_".join(filter(None, parts)) if first.name in names.values() else first.name
            names[values] = _unused(name, set(names.values()))
        found[at] = names[values]
    return found


def _unused(name: str, taken: set[str]) -> str:
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}{count}"
    taken.add(found)
    return found


def _class(name: str, body: Body, calls: Mapping[str, Call], names: Mapping[int, str]) -> list[str]:
    numbers = iter(range(len(_sizes(body, calls))))
    made: list[str] = []
    for before, source in body.made:
        words = mapped(_resolved(source, calls), lambda size: names.get(next(numbers), size))
        made += lines(words, 8, before)
    written = [f"class {name}(nn.Module):"]
    if body.summary and len(body.summary) + 10 <= WIDTH:
        written += [f'    """{body.summary}"""', ""]
    if made:
        parameters = Call("__init__", ("self", *dict.fromkeys(names.values())))
        written += [*lines(parameters, 4, "def ", ":"), "        super().__init__()", *made, ""]
    return [*written, *lines(Call("forward", ("self", *body.inputs)), 4, "def ", ":"), *body.forward]
