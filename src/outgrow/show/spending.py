"""Spending: what a run took in compute, time and energy, what of it went where, and the same beside a sweep."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from outgrow.show import quantity
from outgrow.show.record import Record
from outgrow.show.run import Run

WORDS = {"check": "checks", "branch": "branches", "save": "saving"}
"""What the parts of a total are called; other parts keep their names."""

WITHIN = ("train", "compile")
"""What is no part beside the others: what training took is the whole, and compiling is in training and branches."""


@dataclass(frozen=True)
class Bar:
    """One quantity, as a bar of parts.

    Args:
        name: What is spent.
        text: How much in all, in words.
        value: How much in all.
        share: How long the bar is, of the longest beside it, 0 to 1.
        parts: Name, share of the bar (0 to 1) and amount in words of each part.
    """

    name: str
    text: str
    value: float
    share: float
    parts: list[tuple[str, float, str]]


def spent(total: Record) -> list[Bar]:
    """List what a run spent.

    Args:
        total: The totals of the run.

    Returns:
        A bar of compute and of time with its parts, and one of energy where that is known. The time of compiling is in
        those of training and branches.
    """
    bars = [
        _bar(
            "compute", total.get("train_flops"), _parts(total, "_flops"), lambda value: quantity.short(value, "FLOPs")
        ),
        _bar("time", total.get("seconds"), _parts(total, "_seconds"), quantity.duration),
    ]
    joules = total.get("joules")
    if joules:
        bars.append(Bar("energy", quantity.energy(joules), joules["value"], 1.0, []))
    return [bar for bar in bars if bar is not None]


def beside_sweep(comparison: Mapping[str, Any] | None) -> list[tuple[str, str, Bar, Bar]]:
    """Put what the family took beside what its sizes took that were trained by themselves.

    Args:
        comparison: What compare.json holds, None if there is none.

    Returns:
        For each known quantity its name, the family's share of it in words, and both as bars.
    """
    rows = []
    for name, key, write in (
        ("compute", "train_flops", lambda value: quantity.short(value, "FLOPs")),
        ("time", "seconds", quantity.duration),
        ("energy", "joules", lambda value: quantity.short(value, "J")),
    ):
        family = _value(((comparison or {}).get("family") or {}).get(key))
        ratio = _value(((comparison or {}).get("ratio") or {}).get(key))
        if family and ratio:
            sweep = family / ratio
            longest = max(family, sweep)
            ours = Bar("the family", write(family), family, family / longest, [])
            theirs = Bar("by themselves", write(sweep), sweep, sweep / longest, [])
            rows.append((name, quantity.share(ratio), ours, theirs))
    return rows


def chosen_length(lengths: Collection[int], chosen: int) -> str:
    """Say what the length is that counts: one that is not the longest was found to be enough.

    Args:
        lengths: Those at which sizes were trained by themselves [epochs].
        chosen: The one that counts [epochs].

    Returns:
        Which of them it is.

    >>> chosen_length({1, 2, 4}, 2), chosen_length({4}, 4)
    ('the shortest length that is enough', 'the only length that was tried')
    >>> chosen_length({1, 2, 4}, 4)
    'the longest that was tried, since no shorter one is enough'
    """
    if len(lengths) == 1:
        return "the only length that was tried"
    longest = chosen == max(lengths, default=chosen)
    told = "the longest that was tried, since no shorter one is enough"
    return told if longest else "the shortest length that is enough"


def cost_words(run: Run) -> str:
    """Say in one clause what the run took.

    Args:
        run: The run.

    Returns:
        For example "149 GFLOPs and 13 s; 13.1 % of the time went into checks".
    """
    total = run.total
    amounts = [bar.text for bar in spent(total)]
    checks = {name: share for bar in spent(total) for name, share, _ in bar.parts if bar.name == "time"}
    words = " and ".join(filter(None, (", ".join(amounts[:-1]), *amounts[-1:])))
    return words + (f"; {quantity.share(checks['checks'])} of the time went into checks" if "checks" in checks else "")


def _bar(name: str, whole: float | None, parts: Mapping[str, float], write: Any) -> Bar | None:
    if not quantity.known(whole) or whole <= 0:
        return None
    rest = {"training": whole - sum(parts.values()), **parts}
    shares = [(part, max(0.0, value) / whole, write(max(0.0, value))) for part, value in rest.items()]
    return Bar(name, write(whole), whole, 1.0, shares)


def _parts(total: Record, ending: str) -> dict[str, float]:
    return dict(_named(total, ending))


def _named(total: Record, ending: str) -> Iterator[tuple[str, float]]:
    for key, value in total.items():
        word = key.removesuffix(ending)
        if key.endswith(ending) and word not in WITHIN and quantity.known(value):
            yield WORDS.get(word, word.replace("_", " ")), value


def _value(amount: Any) -> float | None:
    """Return the number of an amount, which for an energy stands beside how it is known."""
    number = amount.get("value") if isinstance(amount, Mapping) else amount
    return number if quantity.known(number) else None
