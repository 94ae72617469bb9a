"""The lock of a run folder: one process at a time writes to it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outgrow.errors import InputError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is not there; the system lets go of it when the process ends, however it does.

    The folder itself is locked, so that no file is left behind. Where the system or the disk has no such locks, nothing
    is.

    Args:
        path: The folder.

    Yields:
        Nothing.

    Raises:
        InputError: Another process holds the folder, or it can't be made.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY)
    except FileExistsError as error:
        raise InputError(f"--out {path} is a file: give a folder") from error
    except OSError as error:
        raise InputError(f"can't write to {path}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another outgrow is writing to {path}: wait for its end, or choose another --out"
            ) from error
        except OSError:
            pass  # a network's disk without locks
        yield
    finally:
        os.close(handle)
