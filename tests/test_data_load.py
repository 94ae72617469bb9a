"""What `load` makes of names, paths, seeds and shares."""

import json
import subprocess
import sys

import pytest
import torch

from data_samples import cyclic, pixels, write_csv, write_idx_folder, write_images
from outgrow.data import load


def table(folder):
    return write_csv(folder / "t.csv", ["a", *range(20)], ["y", *[i * 0.5 for i in range(20)]])


def test_digits_are_the_real_digits_in_full_range():
    data = load("digits")
    assert (data.name, data.classes) == ("digits", tuple("0123456789"))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1294, 144, 359]
    assert (int(data.train.x.min()), int(data.train.x.max())) == (0, 255)
    assert data.train.x.unique().numel() == 17


def test_the_seed_decides_about_validation_only():
    first, again, other = (load("digits", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.validation.x, again.validation.x)
    assert torch.equal(first.test.x, other.test.x)
    assert not torch.equal(first.validation.x, other.validation.x)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_share_of_the_validation_part(share):
    data = load("digits", validation=share)
    assert len(data.validation) == round(share * (len(data.train) + len(data.validation)))


@pytest.mark.parametrize(
    "make",
    [write_idx_folder, lambda f: write_images(f, pixels(20), cyclic(20, 2)), table],
    ids=["idx", "images", "csv"],
)
def test_descriptions_are_json_and_name_the_source_as_given(tmp_path, monkeypatch, make):
    make(tmp_path / "some")
    monkeypatch.chdir(tmp_path)
    data = load("some", target="y" if make is table else None)
    described = json.loads(json.dumps(data.description))
    assert described["source"] == "some"
    assert str(tmp_path) not in json.dumps(described)
    assert described["classes"] == list(data.classes)


def test_a_path_wins_over_a_name_when_it_looks_like_one(tmp_path, monkeypatch):
    write_idx_folder(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(load("digits").test) == 359
    assert len(load("./digits").test) == 20


@pytest.mark.parametrize("wanted", [True, False])
def test_augmentation_can_be_chosen(tmp_path, wanted):
    assert load("digits", augment=wanted).augment is wanted
    photos = str(write_images(tmp_path, pixels(12, 3, 24, 24), cyclic(12, 2)))
    assert load(photos, augment=wanted).augment is wanted
    assert load(photos).augment


def test_the_largest_seed():
    assert len(load("digits", seed=2**63 - 1).validation) == 144


def test_loading_this_room_loads_no_reader_that_is_not_used():
    script = "import sys, outgrow.data; print([name for name in ('sklearn', 'PIL', 'pandas') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
