"""Folders of pictures, one subfolder a class: `train/CLASS/*.png` with `test/` or `val/`, or just `CLASS/*.png`."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from outgrow.data.found import Found, labelled
from outgrow.data.labels import listed
from outgrow.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
SMALLEST_PHOTO = 24  # pixels; crops and flips make no sense on smaller pictures
_DEPTHS = ("*/*", "*/*/*")  # where to look for pictures before a folder is taken for something else
_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VALIDATION = ("val", "valid", "validation")
_DEEP = re.compile(r"'\w+;16[BLN]'")  # what Pillow calls 16 bits a channel, which it cuts to 8 for RGB
Pictures = list[tuple[Path, str]]  # files with the names of their classes


def is_image_folder(path: Path) -> bool:
    """Whether a folder has subfolders of pictures, or says that it means to.

    Args:
        path: Any folder.

    Returns:
        True if there are pictures one or two folders below, or a folder `train` to look for them in.
    """
    if not path.is_dir():
        return False
    return _subfolder(path, _TRAIN) is not None or any(
        _is_picture(file) for depth in _DEPTHS for file in path.glob(depth)
    )


def find_images(path: Path) -> Found:
    """Read a folder of pictures in class folders.

    Args:
        path: The folder that holds `train` (and perhaps `test` and `val`), or the class folders themselves.

    Returns:
        Images `[n, channels, height, width]`, one channel if all are grey, else three. The test part is `test/`, or
        `val/` if there is no `test/`; with both, `val/` is the validation part.

    Raises:
        InputError: There are no pictures, they differ in size, one can't be read, or all of them don't fit into memory.
    """
    folders = _part_folders(path)
    pictures = {part: _pictures(folder) for part, folder in folders.items()}
    for part, folder in folders.items():
        if not pictures[part]:
            raise InputError(
                f"{folder}: no images in class folders; expected {folder}/CLASS/NAME.png (or .jpg and others); if its "
                f"images have no classes, move the folder away"
            )
    everything = [file for part in pictures.values() for file, _ in part]
    width, height = _common_size(path, everything)
    try:
        x = _stack(everything, width, height)
    except MemoryError:
        size = len(everything) * 3 * height * width / 1e9
        raise InputError(
            f"{path}: {len(everything):,} images of {width} x {height} take {size:.3g} GB, more memory than there is. "
            f"On a copy of the folder, ImageMagick makes them smaller: {_mogrify(path, '64x64')}"
        ) from None
    ends = np.cumsum([len(part) for part in pictures.values()])[:-1]
    blocks = dict(zip(pictures, np.split(x, ends), strict=True))
    pairs = {part: (blocks[part], np.array([name for _, name in pictures[part]])) for part in pictures}
    classes, splits = labelled(path, **pairs)
    description = {
        "layout": "images",
        "paths": {part: str(folder) for part, folder in folders.items()},
        "classes": list(classes),
        "size": [height, width],
        "channels": x.shape[1],
    }
    photos = x.shape[1] == 3 and min(height, width) >= SMALLEST_PHOTO
    rest = {part: splits.get(part) for part in ("validation", "test")}
    return Found(path.resolve().name, path, "classification", splits["train"], classes, photos, description, **rest)


def read_picture(path: Path) -> np.ndarray:
    """Read one picture.

    Args:
        path: A file that Pillow can read, with 8 bits a channel.

    Returns:
        Its pixels in RGB, uint8 `[3, height, width]`, on white where it is transparent.

    Raises:
        InputError: The file is damaged or not an 8-bit picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")) or _DEEP.search(str(image.tile)):
                raise InputError(f"{path}: a picture with more than 8 bits a channel ({image.mode}); save it with 8")
            if not image.has_transparency_data:
                return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            page = Image.new("RGBA", image.size, "white")
            page.alpha_composite(image.convert("RGBA"))
            return np.asarray(page.convert("RGB")).transpose(2, 0, 1)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(_unreadable(path, error)) from None


def _common_size(path: Path, files: Sequence[Path]) -> tuple[int, int]:
    """Width and height of all pictures, from their headers alone."""
    from PIL import Image

    sizes: Counter[tuple[int, int]] = Counter()
    for file in files:
        try:
            with Image.open(file) as image:
                sizes[image.size] += 1
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise InputError(_unreadable(file, error)) from None
    if len(sizes) > 1:
        counted = [f"{width} x {height} ({count} files)" for (width, height), count in sizes.most_common()]
        raise InputError(
            f"{path}: images of {len(sizes)} sizes: {listed(counted, 4)}; expected one size. On a copy of the folder, "
            f"ImageMagick resizes them: {_mogrify(path, _resize(sizes))}"
        )
    return next(iter(sizes))


def _stack(files: Sequence[Path], width: int, height: int) -> np.ndarray:
    """All pictures, uint8 `[n, channels, height, width]`, with one channel if all are grey."""
    x = np.empty((len(files), 3, height, width), np.uint8)
    for i, file in enumerate(files):
        x[i] = read_picture(file)
    return x[:, :1].copy() if (x == x[:, :1]).all() else x


def _mogrify(path: Path, size: str) -> str:
    """The command that resizes all pictures in a folder."""
    return f"find {path} -type f -exec mogrify -resize '{size}!' {{}} +"


def _resize(sizes: Counter[tuple[int, int]]) -> str:
    """The most frequent size, as ImageMagick writes it."""
    (width, height), _ = sizes.most_common(1)[0]
    return f"{width}x{height}"


def _unreadable(path: Path, error: Exception) -> str:
    """What to say of a picture that Pillow gave up on."""
    reason = "not an image" if type(error).__name__ == "UnidentifiedImageError" else " ".join(str(error).split())
    return f"{path}: can't be read as a picture ({path.stat().st_size} bytes; {reason}); replace or remove it"


def _part_folders(path: Path) -> dict[str, Path]:
    """The folders of the parts: train, and what there is of validation and test."""
    train, validation, test = (_subfolder(path, names) for names in (_TRAIN, _VALIDATION, _TEST))
    if train is None:
        _demand_classes(path)
        return {"train": path}
    if test is None:
        test, validation = validation, None
    found = {"train": train, "validation": validation, "test": test}
    return {part: folder for part, folder in found.items() if folder is not None}


def _subfolder(path: Path, names: Sequence[str]) -> Path | None:
    """The folder of a part, under the first of its names that there is; in upper case with class folders in it."""
    found = {child.name.casefold(): child for child in sorted(path.iterdir()) if _may_be_part(child)}
    return next((found[name] for name in names if name in found), None)


def _may_be_part(folder: Path) -> bool:
    """Whether a folder may be one of a part by its name, or by the pictures in its subfolders."""
    plain = folder.name in ("train", *_TEST, *_VALIDATION)
    return folder.is_dir() and (plain or any(map(_is_picture, folder.glob("*/*"))))


def _demand_classes(path: Path) -> None:
    """Check that folders are not named like parts: `seg_train` and `seg_test`."""
    folders = [child for child in path.iterdir() if child.is_dir() and not any(map(_is_picture, child.iterdir()))]
    words = {child.name: {*re.split(r"[\W_]+", child.name.casefold())} for child in folders}
    train = [name for name, found in words.items() if not found.isdisjoint(_TRAIN)]
    others = [name for name, found in words.items() if not found.isdisjoint((*_TEST, *_VALIDATION))]
    if train and others:
        raise InputError(
            f"{path}: the folders {listed(sorted({*train, *others}))} look like parts of the data, not like classes; "
            f"expected {path}/train/CLASS/NAME.png and {path}/test/CLASS/NAME.png: rename or move them"
        )


def _pictures(folder: Path) -> Pictures:
    """The pictures in the class folders of a folder, class by class in alphabetic order."""
    classes = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    return [(file, child.name) for child in classes for file in sorted(child.rglob("*")) if _is_picture(file)]


def _is_picture(file: Path) -> bool:
    """Whether a file is a picture by its name; hidden files are not."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
