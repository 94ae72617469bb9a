"""Values as the command line writes them: counts such as 100k or 2.5T, milliseconds, settings such as tau=1.0."""

import re
from decimal import Decimal

from outgrow.errors import InputError

THOUSANDS = {"": 0, "k": 3, "m": 6, "g": 9, "t": 12, "p": 15}
"""The power of ten of every prefix that a count may have."""

MOST = 10**24
"""Above every count that makes sense, and below those that no longer fit a float."""

COUNT = re.compile(r"([0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*)(\.[0-9]+)?\s*(?:([kmgtp]?)|e\+?([0-9]{1,2}))")
TIME = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:ms)?")


def count(text: str, option: str) -> int:
    """Read a count such as 50000, 50_000, 100k, 1.5M, 2G, 2.5T, 1P or 1.5e12.

    Args:
        text: The count.
        option: Name of the option, for the error.

    Returns:
        The whole number.

    Raises:
        InputError: It is no such number, or not a whole one.

    Examples:
        >>> count("100k", "--max-params"), count("1.5M", "--max-flops"), count("2.5T", "--max-train-flops")
        (100000, 1500000, 2500000000000)
    """
    match = COUNT.fullmatch(text.strip().lower())
    if not match:
        raise InputError(f"{option} {text}: expected a count such as 50000, 100k, 1.5M, 2G, 3T or 1P")
    whole, rest, prefix, exponent = match.groups(default="")
    power = int(exponent) if exponent else THOUSANDS[prefix]
    value = Decimal(re.sub("[_,]", "", whole) + rest) * 10**power
    if not 1 <= value < MOST or value != value.to_integral_value():
        raise InputError(f"{option} {text}: expected a whole number from 1 to {MOST:.0e}")
    return int(value)


def seconds(text: str, option: str) -> float:
    """Read a time in milliseconds.

    Args:
        text: The time, such as 2 or 0.5; with or without its unit, ms.
        option: Name of the option, for the error.

    Returns:
        The time in seconds.

    Raises:
        InputError: It is no positive number of milliseconds.

    Examples:
        >>> seconds("2", "--max-latency"), seconds("0.5ms", "--max-latency")
        (0.002, 0.0005)
    """
    match = TIME.fullmatch(text.strip().lower())
    value = float(match[1]) / 1000 if match else 0.0
    if not value:
        raise InputError(f"{option} {text}: expected milliseconds above zero, such as 2 or 0.5")
    return value


def settings(words: tuple[str, ...], option: str) -> dict[str, str]:
    """Read settings such as tau=1.0.

    Args:
        words: One setting each.
        option: Name of the option, for the error.

    Returns:
        The values as they were written, by name.

    Raises:
        InputError: A word has no name or no `=`, or a name comes twice.

    Examples:
        >>> settings(("tau=1.0", "alpha=1e-3"), "--policy-options")
        {'tau': '1.0', 'alpha': '1e-3'}
    """
    found: dict[str, str] = {}
    for word in words:
        name, sign, value = (part.strip() for part in word.partition("="))
        if not sign or not name.isidentifier():
            raise InputError(f"{option} {word}: expected KEY=VALUE, such as tau=1.0")
        if name in found:
            raise InputError(f"{option} {word}: expected each key once, {name} was {found[name]} before")
        found[name] = value
    return found
