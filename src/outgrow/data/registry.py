"""From what the user wrote to a data set: the names, the layouts, and how each is recognised."""

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from outgrow.data.cifar import cifar_folder, find_cifar
from outgrow.data.dataset import Dataset
from outgrow.data.digits import find_digits
from outgrow.data.found import dataset
from outgrow.data.idx import find_idx, idx_folder
from outgrow.data.images import find_images, is_image_folder
from outgrow.data.named import NAMED, find_named
from outgrow.data.npz import find_npz
from outgrow.data.options import Options, options
from outgrow.data.table import has_training_table, is_table, read_table
from outgrow.errors import InputError

NAMES = ("digits", *NAMED)


class Layout(NamedTuple):
    """One way in which people keep data.

    Attributes:
        looks: What it looks like, in the words of messages.
        recognises: Whether a path is one.
        read: Reads it.
    """

    looks: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Options], Dataset]


LAYOUTS = (
    Layout(
        "idx files (train-images-idx3-ubyte, .gz or not)",
        lambda path: idx_folder(path) is not None,
        lambda path, wanted: dataset(find_idx(path), wanted),
    ),
    Layout(
        "CIFAR-10 batches (data_batch_1 or data_batch_1.bin)",
        lambda path: cifar_folder(path) is not None,
        lambda path, wanted: dataset(find_cifar(path), wanted),
    ),
    Layout(
        "a table (NAME.csv, or a folder with train.csv)",
        # a stray CSV file among pictures makes no table, one that is called train.csv does
        lambda path: has_training_table(path) or (is_table(path) and not is_image_folder(path)),
        read_table,
    ),
    Layout(
        "images in class folders (train/CLASS/NAME.png or CLASS/NAME.png)",
        is_image_folder,
        lambda path, wanted: dataset(find_images(path), wanted),
    ),
    Layout(
        "an .npz file with x and y",
        lambda path: path.suffix.lower() == ".npz" and path.is_file(),
        lambda path, wanted: dataset(find_npz(path, wanted.task), wanted),
    ),
)


def load(
    source: str,
    *,
    data_dir: str | None = None,
    target: str | None = None,
    task: str | None = None,
    seed: int = 0,
    validation: float = 0.1,
    augment: bool | None = None,
) -> Dataset:
    """Load a data set by name or from files of the user's own.

    Args:
        source: `digits`, `mnist`, `fashion-mnist`, `cifar10`, or a path; `./mnist` is a path.
        data_dir: Where mnist, fashion-mnist and cifar10 are kept; `$OUTGROW_DATA` or `~/.cache/outgrow` if None.
        target: The column of a CSV file to predict.
        task: "classification" or "regression"; recognised from the targets if None.
        seed: Decides which examples validate; the test part is the same for every seed.
        validation: The share of examples outside of the test part that validate.
        augment: Whether random crops and flips are wanted, for images; what suits the layout if None.

    Returns:
        The data set, in memory.

    Raises:
        InputError: There is no such data, it is damaged, or the options don't fit it; one line that says what to do.

    Example:
        >>> digits = load("digits")
        >>> digits.inputs, digits.outputs, len(digits.train), len(digits.validation), len(digits.test)
        ((1, 8, 8), 10, 1294, 144, 359)
    """
    wanted = options(target, task, seed, validation)
    path = Path(os.path.expanduser(source))
    try:
        if source in NAMES:
            _check_target(source, wanted)
            if source == "digits":
                _check_data_dir(source, data_dir, "digits come with scikit-learn")
            loaded = dataset(find_digits() if source == "digits" else find_named(source, data_dir), wanted)
        else:
            layout = _layout(source, path, wanted)
            _check_data_dir(source, data_dir, "this is a path")
            loaded = layout.read(path, wanted)
    except OSError as error:
        raise InputError(f"{error.filename or source}: {error.strerror or error}") from None
    if augment is not None and loaded.kind != "image":
        raise InputError(f"{source}: --augment is for images, and this is a table; leave it out")
    return replace(
        loaded,
        augment=loaded.augment if augment is None else augment,
        description={"source": source, **loaded.description},
    )


def _layout(source: str, path: Path, wanted: Options) -> Layout:
    """The layout of a path."""
    if not source or not path.exists():
        raise _unknown(source)
    found = next((layout for layout in LAYOUTS if layout.recognises(path)), None)
    if found is None:
        known = "; ".join(layout.looks for layout in LAYOUTS)
        what = "nothing that can be read in it"
        if path.is_file():
            what = f"a file of no known kind (give the folder, {path.parent}, if it is part of a set)"
        raise InputError(f"{source}: {what}; expected one of: {known}")
    if found.read is not read_table:
        _check_target(source, wanted)
    return found


def _unknown(source: str) -> InputError:
    """What to say when there is no such name and no such path."""
    if close := difflib.get_close_matches(source.lower(), NAMES, 1):
        return InputError(f"no data set or path {source!r}; did you mean {close[0]}?")
    if os.sep in source or Path(source).suffix:
        return InputError(f"{source}: no such file or folder")
    known = "; ".join(layout.looks for layout in LAYOUTS)
    return InputError(f"no data set or path {source!r}; names: {', '.join(NAMES)}; layouts of a path: {known}")


def _check_target(source: str, wanted: Options) -> None:
    """Only tables have columns to choose from."""
    if wanted.target is not None:
        raise InputError(f"{source}: target {wanted.target!r} is for CSV files; leave it out, labels are given here")


def _check_data_dir(source: str, data_dir: str | None, reason: str) -> None:
    """Only data sets that are downloaded are kept in the data folder."""
    if data_dir is not None:
        raise InputError(f"{source}: --data-dir is for {', '.join(NAMED)}, and {reason}; leave it out")
