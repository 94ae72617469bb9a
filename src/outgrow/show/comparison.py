"""A comparison as tables: the family beside its sizes trained by themselves, and beside uniform widths."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console as Screen
from rich.table import Table

from outgrow.show import quantity
from outgrow.show.letters import held
from outgrow.show.record import higher_is_better

Entry = Mapping[str, Any]


def show(told: Mapping[str, Any], sizes: Mapping[str, Entry], metric: str, screen: Screen) -> None:
    """Print what a finished comparison found.

    Args:
        told: What compare.json holds.
        sizes: Entries of family.json by name.
        metric: What is compared.
        screen: Where to print; Markdown where it is no terminal.
    """
    part = "test" if all(entry.get("test") for entry in told["sweep"]) else "validation"
    title = f"{part} {quantity.metric_title(metric)}"
    screen.print(
        f"\n{title} of the family, and of its sizes trained by themselves; * is the length that counts\n",
        soft_wrap=True,
    )
    for number, table in enumerate(tables(told, sizes, metric, part, screen.is_terminal)):
        if number:
            screen.print()
        with screen.capture() as text:
            screen.print(table)
        for line in filter(str.strip, text.get().splitlines()):
            screen.out(held(line, screen.file), highlight=False)
    if joules := told["family"].get("joules"):
        screen.print(held(f"\nenergy of the family {joules['how']}", screen.file), soft_wrap=True)


def tables(
    told: Mapping[str, Any], sizes: Mapping[str, Entry], metric: str, part: str, terminal: bool
) -> Iterator[Table]:
    """Tabulate what a finished comparison found.

    Args:
        told: What compare.json holds.
        sizes: Entries of family.json by name.
        metric: What is compared.
        part: The part of the data that it is compared on.
        terminal: Whether for a terminal; Markdown otherwise.

    Yields:
        The sizes by themselves, uniform widths, and what all of it took.
    """
    style = box.SIMPLE_HEAD if terminal else box.MARKDOWN
    for written in (_alone(told, sizes, metric, part), _uniform(told, sizes, metric, part), _spent(told)):
        headings, *rows = written
        table = Table(box=style, pad_edge=not terminal)
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(quantity.clean, row))
        if rows:
            yield table


def difference(value: float | None, reference: float | None, metric: str) -> str:
    """Write by how much a value is better than a reference: an accuracy in points, an error in per cent of it.

    Args:
        value: The value.
        reference: What it is compared with.
        metric: Which metric it is.

    Returns:
        The difference, above zero where the value is better.

    >>> difference(0.953, 0.95, "accuracy"), difference(11.0, 10.0, "rmse")
    ('+0.30 points', '-10.0 %')
    """
    if not (quantity.known(value) and quantity.known(reference)):
        return quantity.UNKNOWN
    if metric == "accuracy":
        return f"{100 * (value - reference):+.2f} points"
    better = value - reference if higher_is_better(metric) else reference - value
    return f"{100 * better / reference:+.1f} %" if reference else quantity.UNKNOWN


def _alone(told: Mapping[str, Any], sizes: Mapping[str, Entry], metric: str, part: str) -> Iterator[Sequence[str]]:
    lengths, chosen = told["lengths"], told["chosen"]
    yield (
        "size",
        "parameters",
        "family",
        *(quantity.count(n, "epoch") + " *" * (n == chosen) for n in lengths),
        "family better by",
    )
    found = {(entry["size"], entry["epochs"]): entry for entry in told["sweep"]}
    for name in dict.fromkeys(entry["size"] for entry in told["sweep"]):
        ours = sizes[name][part].get(metric)
        values = {epochs: found[name, epochs][part].get(metric) for epochs in lengths}
        yield (
            name,
            quantity.count(sizes[name]["params"]),
            quantity.metric(metric, ours, 2),
            *(quantity.metric(metric, value, 2) for value in values.values()),
            difference(ours, values[chosen], metric),
        )


def _uniform(told: Mapping[str, Any], sizes: Mapping[str, Entry], metric: str, part: str) -> Iterator[Sequence[str]]:
    yield "uniform widths", "parameters", "beside size", "family", "uniform", "family better by"
    for entry in told["uniform"]:
        ours, theirs = sizes[entry["size"]][part].get(metric), entry[part].get(metric)
        yield (
            "-".join(map(str, entry["widths"])),
            quantity.count(entry["params"]),
            entry["size"],
            quantity.metric(metric, ours, 2),
            quantity.metric(metric, theirs, 2),
            difference(ours, theirs, metric),
        )


def _spent(told: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    yield "what it took", "FLOPs", "time", "energy"
    family, chosen = told["family"], told["chosen"]
    yield "the family", *_amounts(family)
    sweep = [entry for entry in told["sweep"] if entry["epochs"] == chosen]
    for name, entries, share in (
        (f"{len(sweep)} by themselves", sweep, told["ratio"]),
        (f"{len(told['uniform'])} of uniform widths", told["uniform"], told["ratio_uniform"]),
    ):
        if not share:
            continue
        joules = [entry["joules"]["value"] for entry in entries if entry.get("joules")]
        known = {"value": sum(joules)} if len(joules) == len(entries) else None
        sums = {key: quantity.total(entry[key] for entry in entries) for key in ("train_flops", "seconds")}
        yield name, *_amounts({**sums, "joules": known})
        yield "family / those", *(quantity.share(share[key], 0) if share[key] else quantity.UNKNOWN for key in share)


def _amounts(spent: Mapping[str, Any]) -> tuple[str, str, str]:
    joules = (spent.get("joules") or {}).get("value")
    return quantity.short(spent["train_flops"]), quantity.duration(spent["seconds"]), quantity.short(joules, "J")
