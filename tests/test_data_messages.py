"""What `load` says when it can't: one line that names the thing."""

import gzip
import pickle

import numpy as np
import pytest
from PIL import Image

from data_samples import (
    cyclic,
    pixels,
    write_cifar_binary,
    write_cifar_python,
    write_csv,
    write_idx,
    write_idx_folder,
    write_images,
)
from outgrow.data import load
from outgrow.errors import InputError


def numbers(folder, name="t.csv", n=20, **columns):
    """A CSV file with columns `a` and `y`, unless given others."""
    columns = {"a": range(n), "y": [i * 0.5 for i in range(n)]} | columns
    return write_csv(folder / name, *([key, *cells] for key, cells in columns.items()))


def arrays(folder, **named):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "t.npz", **named)
    return folder / "t.npz"


def truncated(path, size):
    path.write_bytes(path.read_bytes()[:size])
    return path


def idx_with(folder, name, values):
    write_idx_folder(folder)
    write_idx(folder / name, values)
    return folder


def idx_cut(folder, name, size, end=""):
    write_idx_folder(folder, end=end)
    truncated(folder / (name + end), size)
    return folder


def idx_without(folder, name):
    (write_idx_folder(folder) / name).unlink()
    return folder


def cifar_cut(folder):
    return truncated(
        write_cifar_binary(folder / "data_batch_1.bin", pixels(20, 3, 32, 32), cyclic(20, 10)), 9999
    ).parent


def cifar_python(folder, **batch):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch))
    return folder


def images_with(folder, name, content):
    write_images(folder, pixels(20), cyclic(20, 2))
    (folder / "class0" / name).write_bytes(content)
    return folder


def images_deep(folder):
    write_images(folder, pixels(20), cyclic(20, 2))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "class0" / "deep.png")
    return folder


def images_mixed(folder):
    write_images(folder, pixels(20), cyclic(20, 2))
    return write_images(folder, pixels(5, height=9), cyclic(5, 1) + 3)


def images_parts(folder, train=(20, 2), test=(20, 3)):
    write_images(folder / "train", pixels(train[0]), cyclic(*train))
    write_images(folder / "test", pixels(test[0]), cyclic(*test))
    return folder


def cifar_rows(n):
    return pixels(n, 3, 32, 32).reshape(n, -1)


def cifar_labels(folder, labels):
    return write_cifar_python(folder / "data_batch_1", pixels(20, 3, 32, 32), labels).parent


def image_cut(folder):
    content = truncated(images_flat(folder / "other") / "one.png", 60).read_bytes()
    return images_with(folder, "x.png", content)


def images_flat(folder):
    folder.mkdir(parents=True)
    Image.fromarray(pixels(1)[0, 0]).save(folder / "one.png")
    return folder


def folder_of(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")
    folder.mkdir(exist_ok=True)
    return folder


def text(folder, content, name="t.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def pair(folder, test):
    numbers(folder, "t_test.csv", **test)
    return numbers(folder, "t_train.csv", y=["u", "v"] * 10)


def drop(folder):
    """Take column `a` out of the test file."""
    rows = (folder / "t_test.csv").read_text().splitlines()
    (folder / "t_test.csv").write_text("\n".join(row.split(",", 1)[1] for row in rows) + "\n")
    return folder / "t_train.csv"


X, Y = np.arange(40.0).reshape(20, 2), cyclic(20, 2)
WITH_NAN = np.where(X == 3, np.nan, X)

# what it is, how it comes about, options, and words that the message has to have
BAD = [
    ("a name that is none", lambda f: "imagenet", {}, ["'imagenet'", "digits, mnist, fashion-mnist, cifar10", ".npz"]),
    ("a name that is nearly one", lambda f: "fashionmnist", {}, ["did you mean fashion-mnist"]),
    ("no such file", lambda f: f / "none.csv", {}, ["none.csv: no such file or folder"]),
    ("an empty folder", lambda f: folder_of(f),
     {}, ["nothing that can be read", "idx files", "CLASS/NAME.png", ".npz"]),
    ("a folder of something else", lambda f: folder_of(f, "a.txt", "b/c.txt"), {}, ["nothing that can be read"]),
    ("a file of something else", lambda f: folder_of(f, "a.txt") / "a.txt",
     {}, ["a file of no known kind", "give the folder"]),
    ("task of no kind", lambda f: "digits", {"task": "ranking"}, ["'ranking'", "'classification' or 'regression'"]),
    ("validation of everything", lambda f: "digits", {"validation": 1.0}, ["validation 1.0", "between 0 and 1"]),
    ("a negative seed", lambda f: "digits", {"seed": -1}, ["seed -1"]),
    ("a seed of 64 bits", lambda f: "digits", {"seed": 2**63}, [f"seed {2**63}", "2^63 - 1"]),
    ("data folder of digits", lambda f: "digits", {"data_dir": "d"}, ["--data-dir is for mnist, fashion-mnist, cif"]),
    ("data folder of a path", numbers, {"data_dir": "d"}, ["t.csv: --data-dir", "this is a path"]),
    ("data folder of no path", lambda f: f / "none.csv", {"data_dir": "d"}, ["no such file"]),
    ("augmented table", numbers, {"augment": True}, ["t.csv: --augment is for images"]),
    ("augmented arrays", lambda f: arrays(f, x=X, y=Y), {"augment": False}, ["t.npz: --augment is for images"]),
    ("target of images", lambda f: "digits", {"target": "y"}, ["'y'", "CSV"]),
    ("target of arrays", lambda f: arrays(f, x=X, y=Y), {"target": "y"}, ["t.npz", "'y'", "CSV"]),
    ("regression on digits", lambda f: "digits",
     {"task": "regression"}, ["digits", "'regression'", "0, 1, 2, 3 and 6"]),
    # idx
    ("idx cut short", lambda f: idx_cut(f, "train-images-idx3-ubyte", 100), {},
     ["train-images-idx3-ubyte", "40 x 8 x 8 values need 2560 bytes, found 84"]),
    ("idx without a header", lambda f: idx_cut(f, "t10k-labels-idx1-ubyte", 3),
     {}, ["t10k-labels-idx1-ubyte", "3 bytes"]),
    ("gzip cut short", lambda f: idx_cut(f, "train-images-idx3-ubyte", 99, ".gz"), {}, ["idx3-ubyte.gz", "99 bytes"]),
    ("no gzip at all", lambda f: text(idx_cut(f, "train-images-idx3-ubyte", 0, ".gz"), "x" * 9,
     "train-images-idx3-ubyte.gz").parent, {}, ["idx3-ubyte.gz", "damaged gzip"]),
    ("gzip with a wrong end", lambda f: text(write_idx_folder(f, end=".gz"), gzip.compress(b"abc")[:-1] + b"\0\0",
     "train-images-idx3-ubyte.gz").parent, {}, ["idx3-ubyte.gz"]),
    ("labels for images", lambda f: idx_with(f, "train-images-idx3-ubyte", cyclic(40, 4)), {}, ["begins 00000801"]),
    ("fewer labels", lambda f: idx_with(f, "train-labels-idx1-ubyte", cyclic(39, 4)),
     {}, ["40 examples but 39 labels"]),
    ("no labels", lambda f: idx_without(f, "train-labels-idx1-ubyte"), {}, ["train-labels-idx1-ubyte (or .gz) is not"]),
    ("other size in test", lambda f: idx_with(f, "t10k-images-idx3-ubyte", pixels(20)[:, 0, :7]),
     {}, ["8 x 8", "7 x 8"]),
    ("a new class in test", lambda f: idx_with(f, "t10k-labels-idx1-ubyte", cyclic(20, 5)),
     {}, ["test part", "lacks: 4"]),
    ("one class", lambda f: idx_with(f, "train-labels-idx1-ubyte", cyclic(40, 1)), {}, ["every label is 0"]),
    ("few images", lambda f: write_idx_folder(f, n=9), {}, ["9 examples", "at least 10"]),
    # cifar
    ("binary batch cut short", cifar_cut, {}, ["data_batch_1.bin", "multiple of 3073", "found 9999"]),
    ("label out of range", lambda f: cifar_labels(f, cyclic(20, 11)),
     {}, ["data_batch_1", "label 10"]),
    ("negative label", lambda f: cifar_labels(f, cyclic(20, 2) - 1),
     {}, ["data_batch_1", "label -1"]),
    ("batch without labels", lambda f: cifar_python(f, data=pixels(20)), {}, ["'data' and 'labels'", "found data"]),
    ("batch of small images", lambda f: cifar_python(f, data=pixels(2)[:, 0, 0], labels=[0, 1]),
     {}, ["(2, 8)", "3072"]),
    ("batch with fewer labels", lambda f: cifar_python(f, data=cifar_rows(2), labels=[0]), {},
     ["2 images but 1 labels"]),
    ("batch with named labels", lambda f: cifar_python(f, data=cifar_rows(2), labels=["a", "b"]), {},
     ["whole numbers"]),
    ("batch that is a list", lambda f: text(f, pickle.dumps([1]), "data_batch_1").parent, {}, ["dict", "found a list"]),
    # images
    ("no images", lambda f: folder_of(f, "train/a/b.txt"), {}, ["train: no images in class folders", "CLASS/NAME.png"]),
    ("no class folders", images_flat, {}, ["nothing that can be read", "train/CLASS/NAME.png"]),
    ("no images in test", lambda f: folder_of(images_parts(f, test=(0, 1)), "test/a.txt"), {}, ["test: no images"]),
    ("mixed sizes", images_mixed, {}, ["8 x 8 (20 files)", "8 x 9 (5 files)", "mogrify"]),
    ("a broken image", lambda f: images_with(f, "x.png", b"no image"), {}, ["x.png", "8 bytes", "not an image"]),
    ("an image cut short", image_cut, {}, ["x.png", "60 bytes"]),
    ("16-bit images", images_deep, {}, ["deep.png", "more than 8 bits"]),
    ("one class of images", lambda f: write_images(f, pixels(20), cyclic(20, 1)), {}, ["class0", "at least 2 classes"]),
    ("few images", lambda f: write_images(f, pixels(6), cyclic(6, 2)), {}, ["6 examples"]),
    ("a class that only test has", images_parts, {}, ["test part", "class2"]),
    ("images, regression", lambda f: images_parts(f, test=(20, 2)),
     {"task": "regression"}, ["'regression'", "(class0, class1)"]),
    # npz
    ("npz cut short", lambda f: truncated(arrays(f, x=X, y=Y), 100), {}, ["t.npz", "damaged", "100 bytes"]),
    ("npz of text", lambda f: text(f, "hello", "t.npz"), {}, ["t.npz", "5 bytes"]),
    ("npz of objects", lambda f: arrays(f, x=X, y=np.array([object()] * 20)), {}, ["Python objects", "dtype=str"]),
    ("npz of other arrays", lambda f: arrays(f, images=X, labels=Y), {}, ["expected arrays x and y", "images, labels"]),
    ("npz of one number", lambda f: arrays(f, x=X, y=np.array(3)), {}, ["20 examples in x but 1 in y"]),
    ("npz with fewer labels", lambda f: arrays(f, x=X, y=Y[:19]), {}, ["20 examples in x but 19 in y"]),
    ("npz with NaN", lambda f: arrays(f, x=WITH_NAN, y=Y), {}, ["values in x: 1 (columns 1)"]),
    ("npz with infinity", lambda f: arrays(f, x=X * 1e300, y=Y), {}, ["values in x: 39 (columns 0, 1)"]),
    ("npz with NaN targets", lambda f: arrays(f, x=X, y=WITH_NAN[:, 1]), {}, ["NaN or infinite values in y"]),
    ("npz of float images", lambda f: arrays(f, x=pixels(20) / 255, y=Y), {}, ["float64", "uint8", "* 255"]),
    ("npz of large values", lambda f: arrays(f, x=pixels(20) * np.int64(2), y=Y), {}, ["int64", "0 to 255"]),
    ("npz of vectors", lambda f: arrays(f, x=X[:, 0], y=Y), {}, ["(20,)", "[n, features]"]),
    ("npz of text inputs", lambda f: arrays(f, x=X.astype(str), y=Y), {}, ["<U", "expected numbers"]),
    ("npz of many channels", lambda f: arrays(f, x=pixels(20, 9, 9, 9), y=Y), {}, ["(20, 9, 9, 9)", "channels"]),
    ("npz, one-hot", lambda f: arrays(f, x=X, y=np.eye(2, dtype=int)[Y]), {}, ["(20, 2)", "one-hot"]),
    ("npz, negative labels", lambda f: arrays(f, x=X, y=Y - 1), {}, ["negative labels: 10", "-1"]),
    ("npz, one class", lambda f: arrays(f, x=X, y=Y * 0), {}, ["every label is 0"]),
    ("npz, one class of floats", lambda f: arrays(f, x=X, y=Y * 0.0), {}, ["every label is 0"]),
    ("npz, one target", lambda f: arrays(f, x=X, y=Y * 0 + 0.5), {}, ["y is [0.5] everywhere"]),
    ("npz, words as numbers", lambda f: arrays(f, x=X, y=Y.astype(str)),
     {"task": "regression"}, ["'regression'", "<U"]),
    ("npz, real classes", lambda f: arrays(f, x=X, y=Y / 3), {"task": "classification"}, ["'classification'", "real"]),
    ("npz, few rows", lambda f: arrays(f, x=X[:5], y=Y[:5]), {}, ["5 examples"]),
    ("npz, no two alike", lambda f: arrays(f, x=X, y=np.arange(20)), {}, ["no class has two examples"]),
    ("npz, other width in test", lambda f: arrays(f, x_train=X, y_train=Y, x_test=X[:, :1], y_test=Y),
     {}, ["(1,) in test"]),
    ("npz, new class in test", lambda f: arrays(f, x_train=X, y_train=Y, x_test=X, y_test=Y + 1), {}, ["lacks: 2"]),
    ("npz, targets in test", lambda f: arrays(f, x_train=X, y_train=X, x_test=X, y_test=X[:, 0]),
     {}, ["y_test has 1 "]),
    # csv
    ("no target", numbers, {"target": None}, ["t.csv", "--target", "a, y"]),
    ("a target that is not there", numbers, {"target": "price"}, ["'price'", "it has a, y"]),
    ("a target misspelt", lambda f: numbers(f, Price=range(20)), {"target": "pirce"}, ["did you mean Price?"]),
    ("one value", lambda f: numbers(f, y=["no"] * 20), {}, ["column 'y'", "'no' in every row"]),
    ("one number", lambda f: numbers(f, y=[3, "3.0"] * 10), {}, ["column 'y'", "'3' in every row"]),
    ("targets missing", lambda f: numbers(f, y=[1.5, "", "NA", 2.5] * 5),
     {}, ["the target: 10 ", "lines 3, 4, 7, 8, 11 and 5 more"]),
    ("a target missing", lambda f: numbers(f, y=["u", "v"] * 9 + ["u", ""]), {}, ["the target: 1 (line 21)"]),
    ("an infinite target", lambda f: numbers(f, y=[*range(19), "inf"]), {}, ["infinite targets: 1"]),
    ("words, regression", lambda f: numbers(f, y=["u", "v"] * 10), {"task": "regression"}, ["20 of 20 values"]),
    ("too many classes", numbers, {"task": "classification"}, ["20 classes in 20 rows", "regression"]),
    ("every name another", lambda f: numbers(f, y=[f"n{i}" for i in range(20)]), {}, ["20 classes", "right column"]),
    ("ragged", lambda f: text(f, "a,y\n1,2\n3\n4,5\n1,2,3\n"),
     {}, ["line 3 has 1 cells", "header has 2", "2 such lines"]),
    ("names that occur twice", lambda f: text(f, "a,a,y\n1,2,3\n"), {}, ["occur twice: a"]),
    ("no name", lambda f: text(f, "a,,y\n1,x,3\n"), {}, ["column 2 of 3 has no name"]),
    ("no header", lambda f: text(f, "1,2\n3,4\n"), {}, ["only numbers (1, 2)"]),
    ("empty file", lambda f: text(f, ""), {}, ["t.csv: empty"]),
    ("no rows", lambda f: text(f, "a,y\n"), {}, ["no rows below the header"]),
    ("an open quote", lambda f: text(f, 'a,y\n1,"2\n3,4\n'), {}, ["t.csv: after line 1", "quote"]),
    ("no text", lambda f: text(f, b"a,y\n\xff\xfe\x00,1\n"), {}, ["t.csv: not UTF-8"]),
    ("few rows", lambda f: numbers(f, n=6), {}, ["6 examples"]),
    ("nothing to learn from", lambda f: text(f, "y\n" + "1.5\n2.5\n" * 10), {}, ["no column to learn from"]),
    ("identities only", lambda f: numbers(f, a=[f"id{i}" for i in range(20)]), {}, ["no column to learn from", "'a'"]),
    ("infinite features", lambda f: numbers(f, a=["inf", "1e300", *range(18)]),
     {}, ["column 'a': 2", "line 2"]),
    ("a slip among numbers", lambda f: numbers(f, n=200, a=["1;5", *range(199)]),
     {}, ["'1;5' on line 2"]),
    ("test lacks a column", lambda f: pair(f, {"a": ["u"] * 20, "y": ["u"] * 20}) and drop(f), {}, ["no column a"]),
    ("a new class in the test file", lambda f: pair(f, {"y": ["u", "w"] * 10}), {}, ["t_test.csv", "lacks: w"]),
    ("no target in rows of the test file", lambda f: pair(f, {"y": ["u", ""] * 10}),
     {}, ["t_test.csv: rows without 'y', the target: 10"]),
    ("many tables", lambda f: numbers(f, "b.csv") and numbers(f).parent, {}, ["2 tables (b.csv, t.csv)", "name one"]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "options", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_input_is_one_line_that_names_it(tmp_path, request, make, options, words):
    source = make(tmp_path / "bad")
    if str(source).endswith(".csv") or "tables" in request.node.name:
        options = {"target": "y"} | options
    with pytest.raises(InputError) as caught:
        load(str(source), **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    path = numbers(tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"t\.csv: Permission denied"):
        load(str(path), target="y")
