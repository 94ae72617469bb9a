"""`.npz` files of numpy: `x` and `y`, or `x_train`, `y_train`, `x_test`, `y_test`; a capital X is as good."""

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from outgrow.data.dataset import Split, Task
from outgrow.data.found import Found, labelled
from outgrow.data.labels import listed, looks_like_classes
from outgrow.data.statistics import demand_apart
from outgrow.errors import InputError

_PARTS = {"train": ("_train", ""), "validation": ("_val", "_validation"), "test": ("_test",)}
MOST_CHANNELS = 4  # what tells [n, channels, height, width] from [n, height, width, channels]
Arrays = tuple[np.ndarray, np.ndarray]


class _Key(NamedTuple):
    """The names of the two arrays of a part."""

    x: str
    y: str


def find_npz(path: Path, task: Task | None = None) -> Found:
    """Read an `.npz` file; nothing in it is run.

    Args:
        path: The file.
        task: What to treat the targets as. If None, integers, booleans and strings are classes, and so are floats that
            look like it (`outgrow.data.labels.looks_like_classes`); other floats are real numbers.

    Returns:
        Images if `x` is uint8 with three or four dimensions, a table if it has two.

    Raises:
        InputError: The file is damaged or its arrays don't fit together.
    """
    arrays = read_arrays(path)
    keys = _part_keys(path, arrays)
    pairs = {part: (_inputs(path, key.x, arrays[key.x]), arrays[key.y]) for part, key in keys.items()}
    for part, (x, y) in pairs.items():
        if x.shape[1:] != pairs["train"][0].shape[1:]:
            shapes = f"{pairs['train'][0].shape[1:]} in train, {x.shape[1:]} in {part}"
            raise InputError(f"{path}: examples differ in shape: {shapes}")
        if y.ndim == 0 or len(x) != len(y):
            sizes = f"{len(x)} examples in {keys[part].x} but {y.size} in {keys[part].y}"
            raise InputError(f"{path}: {sizes}; give one target for each example")
    task = task or _task(pairs["train"][1])
    if task == "classification":
        labels = {part: (x, _labels(path, keys[part].y, y)) for part, (x, y) in pairs.items()}
        classes, splits = labelled(path, **labels)
    else:
        classes, splits = (), _regression(path, keys, pairs)
    description = {
        "layout": "npz",
        "paths": {"train": str(path)},
        "arrays": {part: list(key) for part, key in keys.items()},
        "classes": list(classes),
    }
    rest = {part: splits.get(part) for part in ("validation", "test")}
    return Found(path.stem, path, task, splits["train"], classes, False, description, **rest)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an `.npz` file.

    Args:
        path: The file.

    Returns:
        The arrays by name.

    Raises:
        InputError: The file is damaged, or holds Python objects.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            if isinstance(stored, np.ndarray):
                raise InputError(f"{path}: a single array; expected an .npz archive: np.savez(path, x=x, y=y)")
            return {name: stored[name] for name in stored.files}
    except InputError:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        # zipfile raises NotImplementedError for a compression that it does not know
        if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
            raise InputError(f"{path}: holds Python objects; save strings as np.array(names, dtype=str)") from None
        size = path.stat().st_size
        raise InputError(f"{path}: damaged, or no .npz file ({size} bytes); save it again with np.savez") from None


def _part_keys(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, _Key]:
    """Which arrays are the inputs and targets of which part."""
    keys = {}
    for part, ends in _PARTS.items():
        found = [_Key(x + end, "y" + end) for end in ends for x in "xX" if x + end in arrays and "y" + end in arrays]
        if found:
            keys[part] = found[0]
    if "train" not in keys:
        names = listed(sorted(arrays)) or "nothing"
        raise InputError(f"{path}: expected arrays x and y, or x_train, y_train, x_test and y_test; found {names}")
    return keys


def _inputs(path: Path, name: str, x: np.ndarray) -> np.ndarray:
    """Images, uint8 `[n, channels, height, width]`, or a table, float32 `[n, features]`."""
    if x.dtype.kind not in "buif":
        raise InputError(f"{path}: {name} has type {x.dtype}; expected numbers")
    if x.ndim == 2:
        return _table(path, name, x)
    if x.ndim not in (3, 4):
        raise InputError(
            f"{path}: {name} has shape {x.shape}; expected a table [n, features] or images [n, height, width], "
            f"[n, height, width, channels] or [n, channels, height, width]"
        )
    if x.dtype.kind == "f" or (x.size and not 0 <= x.min() <= x.max() <= 255):
        hint = (
            "if they are in 0 to 1, save (x * 255).round().astype('uint8')" if x.dtype.kind == "f" else "rescale them"
        )
        raise InputError(f"{path}: images in {name} are {x.dtype}; expected whole numbers from 0 to 255; {hint}")
    return _channels_first(path, name, x.astype(np.uint8))


def _channels_first(path: Path, name: str, x: np.ndarray) -> np.ndarray:
    """Images of any of the three orders as `[n, channels, height, width]`."""
    if x.ndim == 3:
        return x[:, None]
    if x.shape[1] <= MOST_CHANNELS:
        return x
    if x.shape[3] <= MOST_CHANNELS:
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    raise InputError(f"{path}: {name} has shape {x.shape}; expected at most {MOST_CHANNELS} channels, second or last")


def _table(path: Path, name: str, x: np.ndarray) -> np.ndarray:
    """Rows in single precision, all finite."""
    if not x.shape[1]:
        raise InputError(f"{path}: {name} has shape {x.shape}, no column; expected at least one")
    given = x
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    if count := int((~np.isfinite(x)).sum()):
        columns = [str(column) for column in np.flatnonzero(~np.isfinite(x).all(0))]
        raise InputError(
            f"{path}: NaN or infinite values in {name}: {count} (columns {listed(columns)}); fill or drop them"
        )
    if not np.can_cast(given.dtype, x.dtype):
        for at, column in enumerate(given.T):
            demand_apart(column.astype(np.float64), f"{path}: column {at} of {name}")
    return x


def _task(y: np.ndarray) -> Task:
    """What targets hold by their type and values."""
    if y.dtype.kind != "f":
        return "classification"
    one_each = y.size == len(y)
    return "classification" if one_each and looks_like_classes(np.unique(y), len(y)) else "regression"


def _labels(path: Path, name: str, y: np.ndarray) -> np.ndarray:
    """Labels `[n]`."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or y.dtype.kind not in "buifUS":
        raise InputError(
            f"{path}: {name} is {y.dtype} {y.shape}; expected one class for each example, not one-hot rows"
        )
    if y.dtype.kind == "f" and not np.array_equal(y, np.rint(y)):
        raise InputError(
            f"{path}: task 'classification', but {name} holds real numbers; expected whole numbers or text"
        )
    return y


def _regression(path: Path, keys: dict[str, _Key], pairs: dict[str, Arrays]) -> dict[str, Split]:
    """Parts with real targets, float32 `[n, targets]`."""
    splits = {}
    for part, (x, y) in pairs.items():
        name = keys[part].y
        if y.dtype.kind not in "buif" or y.ndim > 2:
            raise InputError(
                f"{path}: task 'regression', but {name} is {y.dtype} {y.shape}; expected numbers [n, targets]"
            )
        splits[part] = Split(torch.from_numpy(x), torch.from_numpy(_table(path, name, y.reshape(len(y), -1))))
        if splits[part].y.shape[1] != splits["train"].y.shape[1]:
            raise InputError(
                f"{path}: {name} has {splits[part].y.shape[1]} targets a row, "
                f"{keys['train'].y} has {splits['train'].y.shape[1]}; give both the same targets"
            )
    targets = splits["train"].y
    if len(targets) and bool((targets == targets[:1]).all()):
        raise InputError(f"{path}: {keys['train'].y} is {targets[0].tolist()} everywhere; there is nothing to learn")
    return splits
