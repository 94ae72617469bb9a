"""All layouts of the same images agree bit for bit, and a pickle can't run anything."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from data_samples import cyclic, pixels, python2_pickle, real, write_cifar_binary, write_cifar_python, write_images
from outgrow.data import load
from outgrow.data.cifar import CIFAR_CLASSES, read_batch
from outgrow.data.pickled import read_pickle
from outgrow.errors import InputError

X, Y = pixels(40, 3, 32, 32), cyclic(40, 10)


def write_all(folder, name, x, y):
    """One batch in each version."""
    write_cifar_binary(folder / "bin" / f"{name}.bin", x, y)
    write_cifar_python(folder / "py" / name, x, y)
    old = folder / "py2" / name
    old.parent.mkdir(parents=True, exist_ok=True)
    old.write_bytes(python2_pickle(x, y))


def test_all_layouts_of_the_same_images_agree(tmp_path):
    for i in range(2):
        write_all(tmp_path, f"data_batch_{i + 1}", X[20 * i : 20 * i + 20], Y[20 * i : 20 * i + 20])
    write_all(tmp_path, "test_batch", X[:10], Y[:10])
    first, *others = (load(str(tmp_path / version)) for version in ("bin", "py", "py2"))
    assert first.classes == CIFAR_CLASSES
    assert first.augment
    for other in others:
        for part in ("train", "validation", "test"):
            assert torch.equal(getattr(first, part).x, getattr(other, part).x)
            assert torch.equal(getattr(first, part).y, getattr(other, part).y)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    x, y = read_batch(write_cifar_python(tmp_path / "data_batch_1", X, Y, protocol))
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)


def test_batches_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 2):
        write_cifar_binary(tmp_path / f"data_batch_{number}.bin", np.full_like(X[:10], number), Y[:10])
    write_cifar_binary(tmp_path / "test_batch.bin", X, Y)
    data = load(str(tmp_path))
    assert data.train.x[:, 0, 0, 0].unique(sorted=False).numel() == 3
    assert (data.train.x[:, 0, 0, 0].diff() >= 0).all()


@pytest.mark.parametrize("version", ["bin", "py"])
def test_the_parent_of_the_official_folder_is_enough(tmp_path, version):
    write = {"bin": write_cifar_binary, "py": write_cifar_python}[version]
    end = {"bin": ".bin", "py": ""}[version]
    write(tmp_path / f"cifar-10-batches-{version}" / f"data_batch_1{end}", X, Y)
    assert load(str(tmp_path)).inputs == (3, 32, 32)


def test_the_same_images_as_pictures_agree(tmp_path):
    write_cifar_binary(tmp_path / "bin" / "data_batch_1.bin", X, Y)
    write_cifar_binary(tmp_path / "bin" / "test_batch.bin", X, Y)
    write_images(tmp_path / "pictures" / "train", X, Y)
    write_images(tmp_path / "pictures" / "test", X, Y)
    binary, pictures = load(str(tmp_path / "bin")).test, load(str(tmp_path / "pictures")).test
    order = torch.argsort(binary.y, stable=True)  # pictures come class by class
    assert torch.equal(binary.x[order], pictures.x)
    assert torch.equal(binary.y[order], pictures.y)


class Payload:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, eval, getattr, __import__, np.load, np.fromfile, pickle.loads])
def test_a_pickle_that_names_a_function_is_refused_and_nothing_runs(tmp_path, function, protocol):
    witness = tmp_path / "witness"
    argument = f"open({str(witness)!r}, 'w')" if function is eval else f"touch {witness}"
    content = pickle.dumps({b"data": Payload(function, argument), b"labels": [1]}, protocol=protocol)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match="which data has no use for") as caught:
        load(str(tmp_path))
    assert not witness.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x02}", b"garbage", b"\x80\x02]q\x00h\x00a.", pickle.dumps(X)[:500]])
def test_a_damaged_pickle_is_one_clear_error(tmp_path, content):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(InputError, match="data_batch_1: not a pickle of plain data") as caught:
        read_pickle(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [{"a": [1, (2.5, None)]}, [b"x", "y", True], {"nested": {b"k": []}}])
def test_plain_data_comes_back(tmp_path, value):
    path = tmp_path / "plain"
    path.write_bytes(pickle.dumps(value))
    assert read_pickle(path) == value


@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_numbers_come_back(tmp_path, dtype, order, protocol):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    path = tmp_path / "array"
    path.write_bytes(pickle.dumps([array], protocol=protocol))
    (back,) = read_pickle(path)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "objects"
    path.write_bytes(pickle.dumps(np.array([{}, []], dtype=object), protocol=2))
    with pytest.raises(InputError):
        read_pickle(path)


def test_real_batches_have_their_known_content(tmp_path: Path):
    stored = np.load(real("cifar10", "test.npz"))
    x = stored["residual"].cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)
    x[0] += x[1]
    x[2] += x[1]
    x, y = np.ascontiguousarray(x.transpose(1, 0, 2, 3)), stored["label"]
    for number in range(1, 3):
        write_all(tmp_path, f"data_batch_{number}", x, y)
    sets = [load(str(tmp_path / version)) for version in ("bin", "py", "py2")]
    assert [len(part) for part in (sets[0].train, sets[0].validation, sets[0].test)] == [14400, 1600, 4000]
    assert torch.bincount(sets[0].test.y).tolist() == [400] * 10
    assert all(torch.equal(data.train.x, sets[0].train.x) for data in sets)
    assert torch.equal(read_batch_first(tmp_path), torch.from_numpy(x[0]))


def read_batch_first(folder):
    """The first image of the binary batch."""
    return torch.from_numpy(read_batch(folder / "bin" / "data_batch_1.bin")[0][0])
