"""Fetching the files of a public data set: to a temporary file, checked, then put in place."""

import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from outgrow.errors import InputError

_CHUNK = 1 << 20  # bytes read at a time
_TIMEOUT = 60  # seconds without an answer


def fetch(url: str, path: Path, md5: str) -> None:
    """Download a file, unless it is there already.

    Args:
        url: Where it is.
        path: Where to put it; nothing appears there before it is complete and checked.
        md5: What its content must have.

    Raises:
        InputError: It can't be downloaded, or is not what it should be.
    """
    if path.is_file():
        return
    with _temporary(path) as temporary:
        found = _download(url, temporary, path)
        if found != md5:
            size = temporary.stat().st_size
            raise InputError(_failed(url, path, f"md5 {found} of {size} bytes, expected {md5}"))
        os.replace(temporary, path)


def unpack(archive: Path, folder: str) -> None:
    """Unpack a tar archive beside itself; members that would land elsewhere are refused.

    Args:
        archive: The archive.
        folder: The folder in it; it appears only when it is complete.

    Raises:
        InputError: The archive is damaged, dangerous, or lacks the folder.
    """
    target = archive.with_name(folder)
    try:
        with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
            os.replace(Path(temporary) / folder, target)
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{archive}: can't be unpacked to {target} ({reason}); remove it and try again") from None


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """An empty file beside `path`; gone at the end unless it was moved, and so are folders made for it in vain."""
    made = [folder for folder in path.parents if not folder.exists()]  # the deepest first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # a folder that holds something stays
            for folder in made:
                folder.rmdir()


def _download(url: str, temporary: Path, path: Path) -> str:
    """Write what is at `url`, meant for `path`, to a temporary file; its md5."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as source, open(temporary, "wb") as file:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__
        raise InputError(_failed(url, path, reason)) from None
    return digest.hexdigest()


def _failed(url: str, path: Path, reason: str) -> str:
    """What to say of a download that went wrong: also how to do without it."""
    return f"can't download {url} ({reason}); fetch {path.name} by other means and put it in {path.parent}"
