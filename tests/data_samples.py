"""Small data sets in the layouts that people have, written by the tests that read them."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


def real(*parts: str) -> Path:
    """A file of the real data that is kept beside the checkout; the test is skipped where it is not."""
    path = REAL.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the real data set {'/'.join(parts)} is not beside the checkout")
    return path


def pixels(n: int, channels: int = 1, height: int = 8, width: int = 8, seed: int = 0) -> np.ndarray:
    """Random images, uint8 `[n, channels, height, width]`."""
    return np.random.default_rng(seed).integers(0, 256, (n, channels, height, width), dtype=np.uint8)


def cyclic(n: int, classes: int) -> np.ndarray:
    """Labels 0, 1, 2, ... that start over, int64 `[n]`."""
    return np.arange(n) % classes


def write_idx(path: Path, values: np.ndarray) -> Path:
    """Write one idx file of bytes, gzipped if its name says so."""
    values = np.ascontiguousarray(values, dtype=np.uint8)
    content = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_idx_folder(folder: Path, n: int = 40, test: int = 20, end: str = "", classes: int = 4) -> Path:
    """Write images and labels of both parts as idx files; no test files if `test` is 0."""
    for prefix, count in (("train", n), ("t10k", test)):
        if count:
            write_idx(folder / f"{prefix}-images-idx3-ubyte{end}", pixels(count, seed=count)[:, 0])
            write_idx(folder / f"{prefix}-labels-idx1-ubyte{end}", cyclic(count, classes))
    return folder


def write_cifar_binary(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    """Write one batch of the binary version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.concatenate([y[:, None].astype(np.uint8), x.reshape(len(x), -1)], 1).tofile(path)
    return path


def write_cifar_python(path: Path, x: np.ndarray, y: np.ndarray, protocol: int = 2) -> Path:
    """Write one batch of the python version, as Python 3 does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = {b"batch_label": b"a batch", b"labels": y.tolist(), b"data": x.reshape(len(x), -1), b"filenames": []}
    path.write_bytes(pickle.dumps(batch, protocol=protocol))
    return path


def python2_pickle(x: np.ndarray, y: np.ndarray) -> bytes:
    """A batch as the official archive has it: protocol 2 of Python 2, where all strings are byte strings."""

    def string(content: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(content)) + content

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    rows = x.reshape(len(x), -1)
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + integer(0) + integer(1) + b"\x87R"
    dtype += b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integer(0) + b"\x85" + string(b"b") + b"\x87R"
    shape = integer(rows.shape[0]) + integer(rows.shape[1]) + b"\x86"
    array += b"(" + integer(1) + shape + dtype + b"\x89" + string(rows.tobytes()) + b"tb"
    labels = b"](" + b"".join(integer(int(label)) for label in y) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + labels + b"u."


def write_images(folder: Path, x: np.ndarray, y: np.ndarray, end: str = ".png") -> Path:
    """Write pictures into one folder a class, named after the labels."""
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        path = folder / f"class{label}" / f"{i:05d}{end}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(path)
    return folder


def write_csv(path: Path, *columns: list[object]) -> Path:
    """Write columns, each a name and then its cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True)))
    return path
