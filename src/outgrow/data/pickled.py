"""Pickles that can hold data but can't run code.

A pickle is a program: it may name any function and call it. The unpickler here knows five names, those that arrays
of bytes and integers need, and gives each a stand-in of our own, so that not even numpy's own constructors are
called with what the file says. Every other name ends the reading.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from outgrow.errors import InputError


class _DType:
    """Stands for `numpy.dtype`: the type of an array's elements, booleans and numbers only."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code
        self.order = "="

    def __setstate__(self, state: tuple[object, ...]) -> None:
        order = state[1]
        self.order = order.decode() if isinstance(order, bytes) else str(order)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type itself."""
        dtype = np.dtype(self.code)
        if dtype.kind not in "buif":
            raise pickle.UnpicklingError(f"an array of {dtype}")
        return dtype.newbyteorder(">" if self.order == ">" else "<" if self.order == "<" else "=")


class _Array:
    """Stands for `numpy.ndarray` while its pickle is read; `value` is the array, an owner of its memory."""

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray = np.zeros(0, dtype=np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _DType, bool, bytes]) -> None:
        _, shape, dtype, columns_first, content = state
        self.value = _filled(content, dtype, shape, "F" if columns_first else "C").value


def _filled(content: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> _Array:
    """An array from its bytes; protocol 5 writes arrays like this."""
    array = _Array()
    array.value = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if order == "F" else "C").copy()
    return array


def _bytes(text: str = "", encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes: as text, to be encoded."""
    return text.encode("latin1" if encoding == "latin1" else "ascii")


_ADMITTED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _bytes,
    ("builtins", "bytes"): _bytes,
    ("__builtin__", "bytes"): _bytes,
}
for _core in ("numpy.core", "numpy._core"):  # the old name is in every file from before numpy 2
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _filled


class _DataUnpickler(pickle.Unpickler):
    """Reads containers, numbers, text, bytes and arrays; refuses every other name."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:  # what pickle calls for each name
        if admitted := _ADMITTED.get((module, name)):
            return lambda *arguments: admitted(*arguments)  # a new function each time: pickles can set attributes
        raise pickle.UnpicklingError(f"it names {module}.{name}, which data has no use for")


def read_pickle(path: Path) -> object:
    """Read a pickle of plain data, without running anything it names.

    Args:
        path: A pickle of any protocol, written by Python 2 or 3.

    Returns:
        Dicts, lists, tuples, numbers, text, bytes and arrays. Strings of Python 2 come back as bytes.

    Raises:
        InputError: The file is damaged, or asks for anything that is not data.
    """
    content = path.read_bytes()
    try:
        return _arrays(_DataUnpickler(io.BytesIO(content), encoding="bytes").load())
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: not a pickle of plain data ({reason}); fetch the file again from its source"
        ) from None


def _arrays(value: object) -> object:
    """The same containers with arrays in place of their stand-ins."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_arrays(item) for item in value)
    return value
