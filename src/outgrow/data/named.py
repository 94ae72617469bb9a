"""Public data sets that go by a name: where they are kept, and where they come from."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from outgrow.data.cifar import cifar_folder, find_cifar
from outgrow.data.download import fetch, unpack
from outgrow.data.found import Found
from outgrow.data.idx import find_idx, idx_folder

VARIABLE = "OUTGROW_DATA"
DEFAULT_FOLDER = "~/.cache/outgrow"


@dataclass(frozen=True)
class Named:
    """A public data set.

    Attributes:
        folder: Where its files are in the data folder; as torchvision has it.
        address: Where they come from; file names are appended.
        md5: Checksums by file name.
        there: Finds the files in a folder, None if they are not there.
        find: Reads them.
        archive_folder: What the only file unpacks to, if it is an archive.
    """

    folder: str
    address: str
    md5: dict[str, str]
    there: Callable[[Path], Path | None]
    find: Callable[[Path, str], Found]
    archive_folder: str = ""


NAMED = {
    "mnist": Named(
        "MNIST/raw",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        idx_folder,
        find_idx,
    ),
    "fashion-mnist": Named(
        "FashionMNIST/raw",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        idx_folder,
        find_idx,
    ),
    "cifar10": Named(
        "",
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        cifar_folder,
        find_cifar,
        "cifar-10-batches-py",
    ),
}


def data_folder(given: str | None) -> Path:
    """Where public data sets are kept.

    Args:
        given: What the user said, if anything.

    Returns:
        That, or the environment's `OUTGROW_DATA`, or the default.
    """
    return Path(os.path.expanduser(given or os.environ.get(VARIABLE) or DEFAULT_FOLDER))


def find_named(name: str, data_dir: str | None) -> Found:
    """Read a public data set, downloading what is missing.

    Args:
        name: A key of `NAMED`.
        data_dir: As for `data_folder`.

    Returns:
        Its examples.
    """
    named = NAMED[name]
    folder = data_folder(data_dir) / named.folder
    for file in missing(named, folder):
        fetch(named.address + file, folder / file, named.md5[file])
        if named.archive_folder:
            unpack(folder / file, named.archive_folder)
    return named.find(folder, name)


def missing(named: Named, folder: Path) -> list[str]:
    """Which files of a data set have to be downloaded.

    Args:
        named: The data set.
        folder: Where its files should be, as they were downloaded or unpacked.

    Returns:
        Names of files, as they are at the address.
    """
    if named.archive_folder:
        return [] if named.there(folder) else list(named.md5)
    return [
        file for file in named.md5 if not any((folder / name).is_file() for name in (file, file.removesuffix(".gz")))
    ]
