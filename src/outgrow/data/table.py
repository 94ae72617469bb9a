"""Tables in CSV files: `NAME.csv`, or `NAME_train.csv` with `NAME_test.csv` beside it, or a folder that holds them."""

import re
from pathlib import Path

import torch

from outgrow.data import columns as table_columns
from outgrow.data.dataset import Dataset, Split
from outgrow.data.found import parts
from outgrow.data.labels import listed
from outgrow.data.options import Options
from outgrow.data.rows import Rows, read_rows
from outgrow.data.split import divide
from outgrow.data.target import Target, recognise
from outgrow.errors import InputError

SUFFIXES = (".csv", ".tsv")
_TRAIN = re.compile(r"(^|[-_.])train$", re.IGNORECASE)


def is_table(path: Path) -> bool:
    """Whether a path is a CSV file, or a folder with at least one."""
    return bool(_tables(path)) if path.is_dir() else path.suffix.lower() in SUFFIXES


def has_training_table(path: Path) -> bool:
    """Whether a folder holds a CSV file that says it is for training."""
    return path.is_dir() and any(map(_is_train, _tables(path)))


def read_table(path: Path, options: Options) -> Dataset:
    """Read a table, divide its rows, and encode them as the training rows say.

    Args:
        path: A CSV file, or a folder that holds a training file.
        options: The target and the rest.

    Returns:
        The data set; its description has all that is needed to encode new rows.

    Raises:
        InputError: The file can't be read, or the target can't be predicted.
    """
    train_path, test_path = table_files(path)
    rows = read_rows(train_path)
    target = recognise(rows, options.target, options.task)
    test_rows = _test_rows(test_path, target)
    y = target.encode(rows)
    division = divide(
        y,
        target.task,
        seed=options.seed,
        validation=options.validation,
        where=train_path,
        test_given=test_rows is not None,
    )
    given = [rows] if test_rows is None else [rows, test_rows]
    train = rows.take(division.train.tolist())
    columns, dropped = table_columns.fit(train, given, leave_out=target.name)
    x = torch.from_numpy(table_columns.encode(columns, rows))
    test = None
    if test_rows is not None:
        test = Split(torch.from_numpy(table_columns.encode(columns, test_rows)), target.encode(test_rows))
    elif division.test is not None:
        test = Split(x[division.test], y[division.test])
    paths = {"train": train_path, "test": test_path if test_rows is not None else None}
    description = {
        "layout": "csv",
        "paths": {part: str(file) for part, file in paths.items() if file is not None},
        "target": target.name,
        "classes": list(target.classes),
        "columns": [column.describe() for column in columns],
        "features": [feature for column in columns for feature in column.features],
        "dropped": dropped,
        "parts": parts({"validation": False, "test": test_rows is not None}, options.validation),
    }
    train_part, validation = (Split(x[index], y[index]) for index in (division.train, division.validation))
    name = _name(train_path)
    return Dataset(name, target.task, train_part, validation, test, target.classes, False, description)


def table_files(path: Path) -> tuple[Path, Path | None]:
    """Find the training file and the test file.

    Args:
        path: A CSV file, or a folder that holds `train.csv`, one `NAME_train.csv`, or a single CSV file.

    Returns:
        The training file, and the test file if one is beside it under the name that goes with it.

    Raises:
        InputError: The folder holds several tables.
    """
    if path.is_dir():
        found = _tables(path)
        training = [file for file in found if _is_train(file)]
        chosen = training if training else found
        if len(chosen) != 1:
            names = listed([file.name for file in found])
            raise InputError(f"{path}: {len(found)} tables ({names}); name one of them, not the folder")
        path = chosen[0]
    wanted = path.stem[: -len("train")].casefold() + "test" if _is_train(path) else None
    tests = [file for file in _tables(path.parent) if file.stem.casefold() == wanted and file.suffix == path.suffix]
    return path, tests[0] if tests else None


def _test_rows(path: Path | None, target: Target) -> Rows | None:
    """The rows of the test file; None if it lacks the target, as the files of competitions do."""
    if path is None:
        return None
    rows = read_rows(path)
    return rows if target.name in rows.columns else None


def _tables(folder: Path) -> list[Path]:
    """The CSV files of a folder."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())


def _is_train(path: Path) -> bool:
    """Whether a file is the training part of a pair by its name."""
    return bool(_TRAIN.search(path.stem))


def _name(path: Path) -> str:
    """What to call a table: the name of its file, or of its folder if that is all there is."""
    short = _TRAIN.sub("", path.stem)
    return short or path.resolve().parent.name
