"""What is written as idx files is read as it was, gzipped or not, and the real sets have their known content."""

import itertools

import numpy as np
import pytest
import torch

from data_samples import real, write_idx, write_idx_folder
from outgrow.data import load
from outgrow.data.idx import FASHION_CLASSES, read_idx


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (0, 2, 2)])
def test_written_then_read_is_equal(tmp_path, shape, end):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(read_idx(write_idx(tmp_path / f"values{end}", values), len(shape)), values)


def test_gzipped_plain_and_raw_folders_are_the_same_data(tmp_path):
    folders = [
        write_idx_folder(tmp_path / "plain"),
        write_idx_folder(tmp_path / "zipped", end=".gz"),
        write_idx_folder(tmp_path / "MNIST" / "raw").parent,
    ]
    sets = [load(str(folder)) for folder in folders]
    for one, two in itertools.pairwise(sets):
        for part in ("train", "validation", "test"):
            assert torch.equal(getattr(one, part).x, getattr(two, part).x)
            assert torch.equal(getattr(one, part).y, getattr(two, part).y)
    assert sets[0].test.x.shape == (20, 1, 8, 8)
    assert [data.name for data in sets] == ["plain", "zipped", "MNIST"]


def test_without_test_files_a_fifth_is_the_test_part(tmp_path):
    data = load(str(write_idx_folder(tmp_path, n=40, test=0)))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [29, 3, 8]


@pytest.mark.parametrize(("folder", "classes"), [("mnist", tuple("0123456789")), ("fashion-mnist", FASHION_CLASSES)])
def test_real_sets_have_their_known_content(folder, classes):
    data = load(str(real(folder)))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [54000, 6000, 10000]
    assert data.inputs == (1, 28, 28)
    assert data.classes == classes
    assert not data.augment
    if folder == "mnist":
        assert torch.bincount(data.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert data.test.y[:5].tolist() == [7, 2, 1, 0, 4]
