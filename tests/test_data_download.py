"""Named data sets come from the data folder; what is missing is fetched, checked and put in place whole."""

import hashlib
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_samples import cyclic, pixels, write_cifar_python, write_idx_folder
from outgrow.data import load, named
from outgrow.data.download import fetch
from outgrow.errors import InputError

X, Y = pixels(40, 3, 32, 32), cyclic(40, 10)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that the named data sets come from, with small sets in it."""
    folder = tmp_path / "server"
    write_idx_folder(folder, end=".gz")
    write_cifar_python(tmp_path / "cifar-10-batches-py" / "data_batch_1", X, Y)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    for name, entry in named.NAMED.items():
        sums = {file: md5(folder / file) for file in entry.md5}
        monkeypatch.setitem(named.NAMED, name, replace(entry, address=folder.as_uri() + "/", md5=sums))
    return folder


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_what_is_missing_is_downloaded_once(server, tmp_path, name):
    data_dir = tmp_path / "data"
    first = load(name, data_dir=str(data_dir))
    assert first.name == name
    assert first.augment is (name == "cifar10")
    for file in server.iterdir():
        file.unlink()
    assert torch.equal(load(name, data_dir=str(data_dir)).train.x, first.train.x)
    assert [file.name for file in data_dir.rglob(".*")] == []


def test_one_missing_file_is_fetched_alone(server, tmp_path):
    folder = write_idx_folder(tmp_path / "data" / "MNIST" / "raw")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert len(load("mnist", data_dir=str(tmp_path / "data")).test) == 20
    assert [file.name for file in folder.glob("*.gz")] == ["t10k-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("where", ["data_dir", "variable", "default"])
def test_the_data_folder(tmp_path, monkeypatch, where):
    folder = tmp_path / (".cache/outgrow" if where == "default" else "data")
    monkeypatch.delenv(named.VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if where == "variable":
        monkeypatch.setenv(named.VARIABLE, str(folder))
    write_idx_folder(folder / "MNIST" / "raw")
    assert len(load("mnist", data_dir=str(folder) if where == "data_dir" else None).test) == 20


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_a_failed_download_is_one_line_and_says_where_to_put_the_file(tmp_path, monkeypatch, name):
    def offline(*_, **__):
        raise OSError("Name or service\nnot known")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(InputError, match="can't download http") as caught:
        load(name, data_dir=str(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    assert "Name or service not known" in message
    assert f"put it in {tmp_path}" in message
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_the_wrong_content_is_not_kept(tmp_path):
    (tmp_path / "source").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"md5 .* of 14 bytes, expected 000"):
        fetch((tmp_path / "source").as_uri(), tmp_path / "data" / "file", "000")
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("there", ["data", "data/MNIST", "data/MNIST/raw"])
def test_a_failed_download_leaves_the_folders_that_were_there(tmp_path, there):
    (tmp_path / there).mkdir(parents=True)
    with pytest.raises(InputError, match="can't download"):
        fetch((tmp_path / "none").as_uri(), tmp_path / "data" / "MNIST" / "raw" / "file", "000")
    assert max(tmp_path.rglob("*")) == tmp_path / there


def test_an_archive_can_not_write_outside_of_its_folder(server, tmp_path, monkeypatch):
    archive = server / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "cifar-10-batches-py" / "data_batch_1", "../../escaped")
    monkeypatch.setitem(named.NAMED, "cifar10", replace(named.NAMED["cifar10"], md5={archive.name: md5(archive)}))
    with pytest.raises(InputError, match="can't be unpacked"):
        load("cifar10", data_dir=str(tmp_path / "deep" / "data"))
    assert list(tmp_path.rglob("escaped")) == []


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x1f\x8b\x08\x00"])
def test_a_damaged_archive_is_one_clear_error(tmp_path, content):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(content)
    with pytest.raises(InputError, match="can't be unpacked") as caught:
        load("cifar10", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_checksums_are_those_of_the_official_files():
    """As the providers publish them."""
    assert named.NAMED["mnist"].md5["train-images-idx3-ubyte.gz"] == "f68b3c2dcbeaaa9fbdd348bbdeb94873"
    assert named.NAMED["cifar10"].md5 == {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"}
    lengths = np.array([len(md5) for entry in named.NAMED.values() for md5 in entry.md5.values()])
    assert (lengths == 32).all()
