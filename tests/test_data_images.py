"""Pictures in class folders come back pixel by pixel, in the parts that the folders say."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from data_samples import cyclic, pixels, write_images
from outgrow.data import load
from outgrow.errors import InputError


def everything(data):
    """All images of the parts that were drawn from one folder, in an order of their own."""
    x = torch.cat([data.train.x, data.validation.x, data.test.x]).flatten(1)
    return sorted(map(tuple, x.tolist()))


@pytest.mark.parametrize("end", [".png", ".bmp", ".PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_come_back(tmp_path, channels, end):
    x = pixels(24, channels, 5, 7)
    data = load(str(write_images(tmp_path, x, cyclic(24, 3), end)))
    assert data.inputs == (channels, 5, 7)
    assert data.classes == ("class0", "class1", "class2")
    assert everything(data) == sorted(map(tuple, x.reshape(24, -1).tolist()))


@pytest.mark.parametrize("grey", ["L", "RGB", "1", "P", "RGBA"])
def test_grey_is_one_channel_however_it_is_stored(tmp_path, grey):
    write_images(tmp_path, pixels(20) // 128 * 255, cyclic(20, 2))
    for file in tmp_path.rglob("*.png"):
        Image.open(file).convert(grey).save(file)
    assert load(str(tmp_path)).inputs == (1, 8, 8)


def test_one_picture_in_colour_makes_all_of_them_colour(tmp_path):
    write_images(tmp_path, pixels(20), cyclic(20, 2))
    Image.fromarray(pixels(1, 3)[0].transpose(1, 2, 0)).save(tmp_path / "class0" / "colour.png")
    assert load(str(tmp_path)).inputs == (3, 8, 8)


@pytest.mark.parametrize(("channels", "size", "sensible"), [(3, 24, True), (3, 23, False), (1, 24, False)])
def test_photos_are_augmented(tmp_path, channels, size, sensible):
    data = load(str(write_images(tmp_path, pixels(12, channels, size, size), cyclic(12, 2))))
    assert data.augment is sensible


@pytest.mark.parametrize("name", ["test", "val"])
def test_the_second_folder_is_the_test_part(tmp_path, name):
    write_images(tmp_path / "train", pixels(20), cyclic(20, 2))
    write_images(tmp_path / name, np.zeros((6, 1, 8, 8), np.uint8), cyclic(6, 2))
    data = load(str(tmp_path))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [18, 2, 6]
    assert data.test.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert not data.test.x.any()


def test_with_both_folders_val_is_the_validation_part(tmp_path):
    for part, n, value in (("train", 20, 1), ("val", 6, 2), ("test", 4, 3)):
        write_images(tmp_path / part, np.full((n, 1, 8, 8), value, np.uint8), cyclic(n, 2))
    data = load(str(tmp_path))
    for part, n, value in ((data.train, 20, 1), (data.validation, 6, 2), (data.test, 4, 3)):
        assert len(part) == n
        assert (part.x == value).all()


def test_other_files_and_empty_folders_are_passed_over(tmp_path):
    write_images(tmp_path, pixels(20), cyclic(20, 2))
    (tmp_path / "class0" / "notes.txt").write_text("not a picture")
    (tmp_path / "class0" / ".hidden.png").write_text("not a picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".cache").mkdir()
    assert load(str(tmp_path)).classes == ("class0", "class1")


def test_the_message_about_sizes_names_them_and_the_command(tmp_path):
    write_images(tmp_path, pixels(20), cyclic(20, 2))
    write_images(tmp_path, pixels(3, height=9), cyclic(3, 1) + 7)
    with pytest.raises(InputError) as caught:
        load(str(tmp_path))
    for words in ("8 x 8 (20 files)", "8 x 9 (3 files)", "mogrify -resize '8x8!'"):
        assert words in str(caught.value)


def test_images_that_are_too_many_for_the_memory_are_one_line(tmp_path, monkeypatch):
    write_images(tmp_path, pixels(20), cyclic(20, 2))

    def full(*_):
        raise MemoryError

    monkeypatch.setattr("outgrow.data.images.np.empty", full)
    with pytest.raises(InputError) as caught:
        load(str(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    for words in (str(tmp_path), "20 images of 8 x 8", "3.84e-06 GB", "mogrify -resize"):
        assert words in message


def test_pictures_below_a_class_folder_belong_to_it(tmp_path):
    write_images(tmp_path / "train" / "a", pixels(10), cyclic(10, 2))
    write_images(tmp_path / "train" / "b", pixels(10), cyclic(10, 2))
    assert load(str(tmp_path)).classes == ("a", "b")


def test_a_stray_table_among_pictures_is_passed_over(tmp_path):
    write_images(tmp_path, pixels(20), cyclic(20, 2))
    (tmp_path / "labels.csv").write_text("file,label\na,b\n")
    assert load(str(tmp_path)).kind == "image"


@pytest.mark.parametrize(("train", "test"), [("training", "testing"), ("Train", "Test"), ("TRAIN", "Val")])
def test_parts_are_known_under_their_other_names(tmp_path, train, test):
    write_images(tmp_path / train, pixels(20), cyclic(20, 2))
    write_images(tmp_path / test, np.zeros((6, 1, 8, 8), np.uint8), cyclic(6, 2))
    data = load(str(tmp_path))
    assert data.classes == ("class0", "class1")
    assert not data.test.x.any()


def test_folders_that_look_like_parts_are_no_classes(tmp_path):
    for part in ("seg_train", "seg_test"):
        write_images(tmp_path / part, pixels(20), cyclic(20, 2))
    with pytest.raises(InputError, match="the folders seg_test, seg_train look like parts of the data, not like class"):
        load(str(tmp_path))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode):
    seen = pixels(20) // 128 * 255
    write_images(tmp_path, seen, cyclic(20, 2))
    for file in tmp_path.rglob("*.png"):
        shape = Image.open(file).convert("L")
        drawn = Image.new("LA", shape.size, 0)
        drawn.putalpha(shape.point(lambda value: 255 - value))
        drawn.convert("RGBA").convert(mode).save(file)
    assert everything(load(str(tmp_path))) == sorted(map(tuple, seen.reshape(20, -1).tolist()))


def test_sixteen_bits_of_colour_are_refused(tmp_path):
    write_images(tmp_path, pixels(20, 3), cyclic(20, 2))
    rows = b"".join(b"\0" + bytes(48) for _ in range(8))
    parts = (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    (tmp_path / "class0" / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(InputError, match=r"deep.png: a picture with more than 8 bits a channel"):
        load(str(tmp_path))


@pytest.mark.parametrize("classes", [("Train", "Bus"), ("training", "match"), ("train set", "test tube")])
def test_classes_may_have_the_names_of_parts(tmp_path, classes):
    for name in classes:
        write_images(tmp_path / "all", pixels(10), cyclic(10, 1))
        (tmp_path / "all" / "class0").rename(tmp_path / name)
        (tmp_path / "all").rmdir()
    assert load(str(tmp_path)).classes == tuple(sorted(classes))
