"""Files that are written aside and moved into place together, or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from outgrow.errors import InputError


@contextmanager
def aside(file: Path, overwrite: bool) -> Iterator[Path]:
    """Give a path to write to, in a folder of its own; all files in it are moved when the block ends well.

    Args:
        file: Where the file will be; its folder is made.
        overwrite: Replace files that are there.

    Yields:
        The path to write to, of the same name.

    Raises:
        InputError: The folder can't be written to, or a file is there already; nothing is changed then.
    """
    made: list[Path] = []
    try:
        made = [folder for folder in file.parents if not folder.exists()]
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
    except OSError as error:
        _remove(made)
        raise InputError(f"can't write to {file.parent}: {error.strerror or error}") from error
    try:
        yield folder / file.name
        _move(sorted(folder.iterdir()), file, overwrite)
        made = []
    except OSError as error:
        raise InputError(f"can't write {file}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove(made)


def _move(files: list[Path], file: Path, overwrite: bool) -> None:
    targets = [file.parent / part.name for part in files]
    for target in targets:
        check_target(target, overwrite)
    for part, target in zip(files, targets, strict=True):
        part.replace(target)


def check_target(target: Path, overwrite: bool) -> None:
    """Check that a file may be written.

    Args:
        target: Where to.
        overwrite: Whether it may be there already.

    Raises:
        InputError: It is a folder, or it is there and must not be replaced, or the system refuses to tell.
    """
    try:
        is_folder, is_there = target.is_dir(), target.exists()
    except OSError as error:  # no permission, or a name that is too long
        raise InputError(f"can't write {target}: {error.strerror or error}") from error
    if is_folder:
        raise InputError(f"{target} is a folder: give --out the name of a file in a folder where that name is free")
    if is_there and not overwrite:
        raise InputError(f"{target} is there already: choose another --out, or add --overwrite")


def _remove(folders: list[Path]) -> None:
    with suppress(OSError):  # not there yet, or used by somebody else by now
        for folder in folders:
            folder.rmdir()
