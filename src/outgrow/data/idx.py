"""The idx files of MNIST and its relatives: `train-images-idx3-ubyte` and so on, gzipped or not.

An idx file is two zero bytes, a type byte, the number of dimensions, each dimension as a big-endian 32-bit integer,
and then the values. Format: http://yann.lecun.com/exdb/mnist/ (bottom of the page).
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from outgrow.data.found import Found, labelled
from outgrow.errors import InputError

_BYTES = 0x08  # the type byte of uint8, the only type these sets use
_PREFIXES = {"train": "train", "test": "t10k"}
FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def idx_folder(path: Path) -> Path | None:
    """Where the idx files of a folder are.

    Args:
        path: The folder with the files, or its parent if they are in `raw`, as torchvision leaves them.

    Returns:
        The folder with the training images; None if there is no such file.
    """
    return next((folder for folder in (path, path / "raw") if _idx_file(folder, "train", "images", 3)), None)


def find_idx(path: Path, name: str | None = None) -> Found:
    """Read a folder of idx files.

    Args:
        path: As for `idx_folder`.
        name: What to call the data set; the name of the folder if None.

    Returns:
        Grey images `[n, 1, height, width]` with their labels; a test part if the `t10k` files are there.

    Raises:
        InputError: A file is missing, damaged, or does not fit the others.
    """
    folder = idx_folder(path)
    if folder is None:
        raise InputError(f"{path}: no train-images-idx3-ubyte (or .gz) in it")
    name = name or (folder.resolve().parent if folder.resolve().name == "raw" else folder.resolve()).name
    files = {part: _pair(folder, prefix) for part, prefix in _PREFIXES.items()}
    pairs = {part: (read_idx(x, 3)[:, None], read_idx(y, 1)) for part, (x, y) in files.items() if x and y}
    classes, splits = labelled(folder, **pairs)
    if "test" in splits and splits["test"].x.shape[1:] != splits["train"].x.shape[1:]:
        sizes = [" x ".join(map(str, splits[part].x.shape[2:])) for part in ("train", "test")]
        raise InputError(f"{folder}: training images are {sizes[0]}, test images {sizes[1]}; expected the same size")
    if "fashion" in name.lower() and classes == tuple(map(str, range(10))):
        classes = FASHION_CLASSES
    description = {
        "layout": "idx",
        "paths": {part: [str(file) for file in pair] for part, pair in files.items() if part in splits},
        "classes": list(classes),
    }
    return Found(name, folder, "classification", splits["train"], classes, False, description, test=splits.get("test"))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read one idx file of bytes.

    Args:
        path: The file; gzipped if it ends in `.gz`.
        dimensions: How many there should be: 3 for images, 1 for labels.

    Returns:
        A uint8 array that owns its memory.

    Raises:
        InputError: The file is damaged, or is something else.
    """
    content = _content(path)
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise InputError(f"{path}: {len(content)} bytes, less than the {start} of an idx header; fetch it again")
    if content[:4] != bytes([0, 0, _BYTES, dimensions]):
        wanted = f"0000{_BYTES:02x}{dimensions:02x}"
        raise InputError(f"{path}: not an idx{dimensions} file of bytes: it begins {content[:4].hex()}, not {wanted}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        size = " x ".join(map(str, shape))
        raise InputError(
            f"{path}: damaged: {size} values need {math.prod(shape)} bytes, found {len(content) - start}; "
            f"fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is gzipped."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        size = path.stat().st_size
        raise InputError(f"{path}: damaged gzip file of {size} bytes ({error}); fetch it again") from None


def _pair(folder: Path, prefix: str) -> tuple[Path | None, Path | None]:
    """The image and label files of a part: both or neither."""
    images, labels = _idx_file(folder, prefix, "images", 3), _idx_file(folder, prefix, "labels", 1)
    if bool(images) != bool(labels):
        missing = f"{prefix}-labels-idx1-ubyte" if images else f"{prefix}-images-idx3-ubyte"
        raise InputError(f"{folder}: {(images or labels or folder).name} is there, but {missing} (or .gz) is not")
    return images, labels


def _idx_file(folder: Path, prefix: str, what: str, dimensions: int) -> Path | None:
    """The file of one role, under any of the names it goes by."""
    names = (f"{prefix}-{what}{dot}idx{dimensions}-ubyte{end}" for dot in "-." for end in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)
