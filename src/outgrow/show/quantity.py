"""Quantities as people read them: counts, FLOPs, seconds, losses, metrics, widths."""

import math
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, TypeGuard

UNKNOWN = "n/a"
PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def count(number: int, noun: str = "") -> str:
    """Write a whole number with its noun, in the plural if it has to be.

    Args:
        number: How many.
        noun: Of what, in the singular; nothing is added if empty.

    Returns:
        The number with thousands separated, and the noun.

    >>> count(5432, "parameter"), count(1, "unit"), count(1000)
    ('5,432 parameters', '1 unit', '1,000')
    """
    if not noun:
        return f"{number:,}"
    return f"{number:,} {noun}" if abs(number) == 1 else f"{number:,} {noun}s"


def short(number: float | None, unit: str = "", digits: int = 3) -> str:
    """Write a number with three digits and an SI prefix.

    Args:
        number: Any number; None and NaN are unknown.
        unit: What to put behind the prefix, for example FLOPs.
        digits: How many digits instead.

    Returns:
        The short form.

    >>> short(999), short(12345), short(2.5e9, "FLOPs"), short(999_999), short(0.25, "J")
    ('999', '12.3k', '2.5 GFLOPs', '1M', '0.25 J')
    """
    if not known(number):
        return UNKNOWN
    power = 0
    while power < len(PREFIXES) - 1 and abs(float(f"{number / 1000**power:.{digits}g}")) >= 1000:
        power += 1
    return f"{number / 1000**power:.{digits}g}{' ' if unit else ''}{PREFIXES[power]}{unit}"


def tick(number: float) -> str:
    """Write a round number with all of its digits, and an SI prefix, so that numbers that differ are told apart.

    Args:
        number: A number of twelve digits at most.

    Returns:
        The number.

    >>> tick(60_150), tick(99.15), tick(0.5), tick(2_000_000)
    ('60.15k', '99.15', '0.5', '2M')
    """
    return short(number, digits=next(d for d in range(3, 18) if float(f"{number:.{d}g}") == number))


def duration(seconds: float | None) -> str:
    """Write a time in its two leading units.

    Args:
        seconds: The time; None and NaN are unknown.

    Returns:
        The time in words.

    >>> duration(0.42), duration(41.3), duration(125), duration(3 * 3600 + 60)
    ('0.4 s', '41 s', '2 min 5 s', '3 h 1 min')
    """
    if not known(seconds):
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def milliseconds(seconds: float) -> str:
    """Write a short time in milliseconds, with three digits.

    Args:
        seconds: The time.

    Returns:
        The time with its unit.

    >>> milliseconds(0.002), milliseconds(0.00012345), milliseconds(1.5)
    ('2 ms', '0.123 ms', '1,500 ms')
    """
    return f"{float(f'{1000 * seconds:.3g}'):,.6g} ms"


def left(seconds: float | None) -> str:
    """Write an estimate of the time left, no finer than it is known; empty if it is not.

    Args:
        seconds: The estimate.

    Returns:
        The time in words.

    >>> left(3), left(44), left(130), left(5400), left(None)
    ('a few s left', 'about 40 s left', 'about 2 min left', 'about 1.5 h left', '')
    """
    if not known(seconds) or seconds <= 0:
        return ""
    if seconds < 5:
        return "a few s left"
    if seconds < 55:
        return f"about {max(5, 5 * int(seconds / 5))} s left"
    return f"about {max(1, round(seconds / 60))} min left" if seconds < 5370 else f"about {seconds / 3600:.1f} h left"


def loss(value: float | None, digits: int = 4) -> str:
    """Write a loss or a gain.

    Args:
        value: The loss, in nats for classification; None and NaN are unknown.
        digits: How many decimals; a value too small for them is written with its power of ten.

    Returns:
        The number.

    >>> loss(0.021), loss(0.2134, 3), loss(0.0000213), loss(float("nan"))
    ('0.0210', '0.213', '2.1e-05', 'n/a')
    """
    if not known(value):
        return UNKNOWN
    return f"{value:.1e}" if value and abs(value) < 10.0 ** (1 - digits) else f"{value:.{digits}f}"


def gain(value: float | None, error: float | None, sign: str = "+-") -> str:
    """Write a gain with its standard error, both to the second digit of the error, four decimals at least.

    Args:
        value: The gain, in nats for classification.
        error: Its standard error.
        sign: What stands between them.

    Returns:
        Both numbers; with powers of ten where they are below 1e-5.

    >>> gain(0.021, 0.003), gain(0.0047, 0.00079, "±"), gain(0.01, None)
    ('0.0210 +- 0.0030', '0.00470 ± 0.00079', '0.0100 +- n/a')
    >>> gain(8e-4, 0.001), gain(2e-7, 1e-7)
    ('0.0008 +- 0.0010', '2.0e-07 +- 1.0e-07')
    """
    if not (known(value) and known(error) and error > 0):
        return f"{loss(value)} {sign} {loss(error)}"
    digits = max(4, 1 - math.floor(math.log10(error)))
    if digits > 6:
        return f"{value:.1e} {sign} {error:.1e}"
    return f"{value:z.{digits}f} {sign} {error:.{digits}f}"


def metric(name: str, value: float | None, digits: int = 1) -> str:
    """Write a metric: an accuracy in per cent, anything else with four digits.

    Args:
        name: Which metric it is.
        value: Its value; an accuracy is a fraction between 0 and 1.
        digits: Decimals of the per cent.

    Returns:
        The value with its unit.

    >>> metric("accuracy", 0.9423), metric("rmse", 0.48251), metric("accuracy", None)
    ('94.2 %', '0.4825', 'n/a')
    """
    if not known(value):
        return UNKNOWN
    return share(value, digits) if name == "accuracy" else f"{value:.4g}"


def share(fraction: float, digits: int = 1) -> str:
    """Write a fraction in per cent."""
    return f"{100 * fraction:.{digits}f} %"


def metric_title(name: str) -> str:
    """Write the name of a metric as a heading: RMSE and R² are no words."""
    return {"rmse": "RMSE", "r2": "R²"}.get(name, name)


def widths(axes: Mapping[str, int], most: int = 12) -> str:
    """Write the widths of a network in one word, repeated widths once.

    Args:
        axes: Size of each axis, in the network's order.
        most: How many runs of equal widths to write before the rest is left out.

    Returns:
        The widths between hyphens; a run of four or more equal ones as `8x4`.

    >>> widths({"a": 8, "b": 8, "c": 12, "d": 16}), widths({str(i): 8 for i in range(6)})
    ('8-8-12-16', '8x6')
    """
    words: list[str] = []
    for size, run in groupby(axes.values()):
        length = len(list(run))
        words += [f"{size}x{length}"] if length > 3 else [str(size)] * length
    return "-".join(words if len(words) <= most else [*words[: most - 1], "..."])


def energy(joules: Mapping[str, Any] | None) -> str:
    """Write an energy with how it is known.

    Args:
        joules: Value and way of knowing, or None.

    Returns:
        For example "1.2 kJ (modelled)".
    """
    return f"{short(joules['value'], 'J')} ({clean(joules['how'])})" if joules else UNKNOWN


def known(number: float | None) -> TypeGuard[float]:
    """Say whether there is a number to write: not None, not NaN, not infinite."""
    return number is not None and math.isfinite(number)


def clean(text: object) -> str:
    r"""Write a name on one line: what can't be printed, escape codes included, becomes a question mark.

    Args:
        text: Any object; its `str` is taken.

    Returns:
        The printable text.

    >>> clean("block\x1b[31m1")
    'block?[31m1'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def shorten(text: str, most: int) -> str:
    """Leave out the middle of a long name.

    Args:
        text: The name.
        most: How many characters there is room for.

    Returns:
        The name, or its two ends around an ellipsis.

    >>> shorten("encoder.layers.11.mlp.fc1", 15), shorten("stem", 15)
    ('encoder…mlp.fc1', 'stem')
    """
    if len(text) <= most:
        return text
    tail = most // 2
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def total(numbers: Iterable[float | None]) -> float:
    """Sum what is known.

    Args:
        numbers: Numbers, some perhaps unknown.

    Returns:
        The sum of the known ones.

    >>> total([1.0, None, float("nan"), 2.0])
    3.0
    """
    return float(sum(number for number in numbers if number is not None and known(number)))
