"""Folders of CIFAR-10 batches: the binary version and the python version, all batches or a subset.

A binary batch is rows of one label byte and 3,072 pixel bytes (red, green, blue; each 32 rows of 32). A python batch
is a pickled dict with the same rows as `data` and a list of `labels`; it is read without running what it names
(`outgrow.data.pickled`). https://www.cs.toronto.edu/~kriz/cifar.html
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from outgrow.data.found import Found, labelled
from outgrow.data.pickled import read_pickle
from outgrow.errors import InputError

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin")


def cifar_folder(path: Path) -> Path | None:
    """Where the CIFAR-10 batches of a folder are.

    Args:
        path: The folder with the batches, or its parent if they keep their official folder.

    Returns:
        The folder with the batches; None if there are none.
    """
    return next((folder for folder in (path, *(path / name for name in _FOLDERS)) if _batches(folder)), None)


def find_cifar(path: Path, name: str | None = None) -> Found:
    """Read a folder of CIFAR-10 batches.

    Args:
        path: As for `cifar_folder`.
        name: What to call the data set; the name of the folder if None.

    Returns:
        Colour images `[n, 3, 32, 32]` with their labels; a test part if `test_batch` is there.

    Raises:
        InputError: A batch is damaged, or there is none.
    """
    folder = cifar_folder(path)
    if folder is None:
        raise InputError(f"{path}: no data_batch_1 or data_batch_1.bin in it")
    files = _batches(folder)
    batches = [read_batch(file) for file in files]
    tests = [file for file in (folder / "test_batch", folder / "test_batch.bin") if file.is_file()][:1]
    pairs = {"train": (np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches]))}
    if tests:
        pairs["test"] = read_batch(tests[0])
    present, splits = labelled(folder, **pairs)
    classes = tuple(CIFAR_CLASSES[int(label)] for label in present)
    description = {
        "layout": "cifar",
        "paths": {"train": [str(file) for file in files], "test": [str(file) for file in tests]},
        "classes": list(classes),
    }
    name = name or folder.resolve().name
    return Found(name, folder, "classification", splits["train"], classes, True, description, test=splits.get("test"))


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one batch of either version.

    Args:
        path: A binary batch if it ends in `.bin`, else a pickled one.

    Returns:
        Pixels, uint8 `[n, 3, 32, 32]`, and labels in 0..9, int64 `[n]`.

    Raises:
        InputError: The batch is damaged, or is something else.
    """
    rows, labels = _binary(path) if path.suffix == ".bin" else _python(path)
    if len(rows) != len(labels):
        raise InputError(f"{path}: {len(rows)} images but {len(labels)} labels; fetch it again")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CIFAR_CLASSES):
        worst = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"{path}: label {worst}; CIFAR-10 has classes 0 to 9; is it another set or damaged?")
    return rows.reshape(-1, *_SHAPE), labels


def _binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `[n, 3072]` and labels of a binary batch."""
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % (1 + _PIXELS):
        raise InputError(
            f"{path}: damaged: expected a multiple of {1 + _PIXELS} bytes (a label and 3 x 32 x 32 pixels each), "
            f"found {len(content)}; fetch it again"
        )
    rows = content.reshape(-1, 1 + _PIXELS)
    return np.ascontiguousarray(rows[:, 1:]), rows[:, 0].astype(np.int64)


def _python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `[n, 3072]` and labels of a pickled batch."""
    batch = read_pickle(path)
    if not isinstance(batch, Mapping):
        raise InputError(f"{path}: expected a pickled dict with 'data' and 'labels', found a {type(batch).__name__}")
    named = {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in batch.items()}
    if "data" not in named or "labels" not in named:
        raise InputError(f"{path}: expected 'data' and 'labels', found {', '.join(sorted(named)) or 'nothing'}")
    rows, labels = named["data"], np.asarray(named["labels"])
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != _PIXELS:
        shape = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise InputError(f"{path}: expected 'data' of bytes (n, {_PIXELS}), found {shape}")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{path}: expected 'labels' to be a list of whole numbers")
    return rows, labels.astype(np.int64)


def _batches(folder: Path) -> list[Path]:
    """The training batches of a folder in order, of the binary version if both are there."""
    for pattern in (r"data_batch_(\d+)\.bin", r"data_batch_(\d+)"):
        found = [(int(match[1]), file) for file in _files(folder) if (match := re.fullmatch(pattern, file.name))]
        if found:
            return [file for _, file in sorted(found)]
    return []


def _files(folder: Path) -> list[Path]:
    """The files of a folder; none if it is no folder."""
    return [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
