"""A JSON object that someone wrote, read key by key: what is missing or of another kind is named with its place."""

import sys
from collections.abc import Mapping
from typing import Any

from outgrow.errors import InputError


class Stored:
    """The values of a JSON object, each checked when it is read.

    Args:
        value: What should be an object.
        file: Where it comes from, for errors.
        at: The keys on the way to it, for errors; empty for the whole file.

    Raises:
        InputError: It is no object.

    Attributes:
        values: The values as they are.

    Examples:
        >>> size = Stored({"name": "1-62", "params": "many"}, "family.json", at="sizes[0]")
        >>> size.text("name")
        '1-62'
        >>> size.whole("params")
        Traceback (most recent call last):
        ...
        outgrow.errors.InputError: family.json: sizes[0].params: expected a whole number from 0, received 'many'
    """

    def __init__(self, value: object, file: str, at: str = "") -> None:
        self._file, self._at = file, at
        if not isinstance(value, Mapping):
            raise InputError(f"{self._where}: expected an object, received {shown(value)}")
        self.values: Mapping[str, Any] = value

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def text(self, key: str, empty: bool = False) -> str:
        """Return a text that can be printed, not an empty one unless that is allowed."""
        value = self._demanded(key)
        fine = isinstance(value, str) and value.isprintable() and (value or empty)
        return str(value) if fine else self._refuse(key, "a text")

    def whole(self, key: str, least: int = 0) -> int:
        """Return a whole number of at least `least`."""
        value = self._demanded(key)
        return value if _is_whole(value, least) else self._refuse(key, f"a whole number from {least}")

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self._demanded(key)
        return value if isinstance(value, bool) else self._refuse(key, "true or false")

    def number(self, key: str) -> float:
        """Return a finite number that is not below zero."""
        value = self._demanded(key)
        return value if _is_number(value) and value >= 0 else self._refuse(key, "a number from 0")

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return a list of finite numbers."""
        values = self._list(key, "a list of numbers")
        return tuple(values) if all(map(_is_number, values)) else self._refuse(key, "a list of numbers")

    def wholes(self, key: str, least: int = 0) -> tuple[int, ...]:
        """Return a list of whole numbers of at least `least`."""
        what = f"a list of whole numbers from {least}"
        values = self._list(key, what)
        return tuple(values) if all(_is_whole(value, least) for value in values) else self._refuse(key, what)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        values = self._list(key, "a list of texts")
        return tuple(values) if all(isinstance(v, str) for v in values) else self._refuse(key, "a list of texts")

    def within(self, key: str) -> "Stored":
        """Return an object."""
        return Stored(self._demanded(key), self._file, self._path(key))

    def each(self, key: str) -> list["Stored"]:
        """Return a list of objects."""
        values = self._list(key, "a list of objects")
        return [Stored(value, self._file, f"{self._path(key)}[{i}]") for i, value in enumerate(values)]

    def whole_of_each(self, key: str, least: int = 0) -> dict[str, int]:
        """Return an object of whole numbers of at least `least`."""
        inner = self.within(key)
        return {name: inner.whole(name, least) for name in inner.values}

    def wholes_of_each(self, key: str) -> dict[str, tuple[int, ...]]:
        """Return an object of lists of whole numbers."""
        inner = self.within(key)
        return {name: inner.wholes(name) for name in inner.values}

    def number_of_each(self, key: str) -> dict[str, float | None]:
        """Return an object of finite numbers, or null where one was not finite."""
        inner = self.within(key)
        for name, value in inner.values.items():
            if value is not None and not _is_number(value):
                inner._refuse(name, "a number or null")
        return dict(inner.values)

    def one_of(self, key: str, *choices: str) -> str:
        """Return a text that is one of several."""
        value = self.text(key)
        return value if value in choices else self._refuse(key, f"one of {', '.join(choices)}")

    def scalar(self, key: str) -> int | float:
        """Return a finite number, whole or not, of any sign."""
        value = self._demanded(key)
        return value if _is_number(value) else self._refuse(key, "a number")

    def demand_format(self, known: int) -> None:
        """Check that the object is of a format that this version reads.

        Args:
            known: The newest format that is known.

        Raises:
            InputError: It is newer, or no number.
        """
        if (found := self.whole("format", least=1)) > known:
            raise InputError(
                f"{self._file} was written by a newer outgrow: it has format {found}, and this version reads {known}; "
                f"update outgrow"
            )

    def _list(self, key: str, what: str) -> list[Any]:
        value = self._demanded(key)
        return list(value) if isinstance(value, list | tuple) else self._refuse(key, what)

    def _demanded(self, key: str) -> Any:
        if key not in self.values:
            raise InputError(f"{self._where}: expected a key '{key}', but there is none")
        return self.values[key]

    def _refuse(self, key: str, what: str) -> Any:
        raise InputError(f"{self._file}: {self._path(key)}: expected {what}, received {shown(self.values[key])}")

    def _path(self, key: str) -> str:
        return f"{self._at}.{key}" if self._at else key

    @property
    def _where(self) -> str:
        return f"{self._file}: {self._at}" if self._at else self._file


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def shown(value: object) -> str:
    """Write a value in at most 60 letters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
