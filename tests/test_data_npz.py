"""Arrays come back in one layout whatever their order, names and types."""

import numpy as np
import pytest
import torch

from data_samples import cyclic, pixels, real, write_csv
from outgrow.data import load
from outgrow.errors import InputError

X, Y = pixels(30, 3, 8, 9), cyclic(30, 3)


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return load(str(tmp_path / "data.npz"))


@pytest.mark.parametrize("names", ["x y", "X y", "x_train y_train", "X_train y_train"])
def test_the_names_people_use(tmp_path, names):
    x, y = names.split()
    data = saved(tmp_path, **{x: X, y: Y}, unrelated=np.zeros(3))
    assert data.inputs == (3, 8, 9)
    assert sum(map(len, (data.train, data.validation, data.test))) == 30


def test_the_orders_of_images_agree(tmp_path):
    first = saved(tmp_path, x=X, y=Y)
    last = saved(tmp_path, x=X.transpose(0, 2, 3, 1), y=Y)
    wide = saved(tmp_path, x=X.astype(np.int64), y=Y)
    assert torch.equal(first.train.x, last.train.x)
    assert torch.equal(first.train.x, wide.train.x)
    assert torch.equal(saved(tmp_path, x=X[:, 0], y=Y).train.x, first.train.x[:, :1])
    assert not first.augment


def test_parts_that_are_given_are_kept(tmp_path):
    data = saved(tmp_path, x_train=X, y_train=Y, x_test=X[:6], y_test=Y[:6], x_val=X[:3], y_val=Y[:3])
    assert torch.equal(data.train.x, torch.from_numpy(X))
    assert torch.equal(data.validation.x, torch.from_numpy(X[:3]))
    assert torch.equal(data.test.y, torch.from_numpy(Y[:6]))


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (Y, ("0", "1", "2")),
        (Y.astype(np.uint8)[:, None] * 100, ("0", "100", "200")),
        (np.array(["cat", "dog", "ant"])[Y], ("ant", "cat", "dog")),
        (np.array([b"cat", b"dog", b"ant"])[Y], ("ant", "cat", "dog")),
        (Y == 1, ("False", "True")),
        (Y * 9 + 1, ("1", "10", "19")),
    ],
)
def test_labels_of_every_type(tmp_path, y, classes):
    data = saved(tmp_path, x_train=X, y_train=y, x_test=X, y_test=y)
    assert data.classes == classes
    names = [value.decode() if isinstance(value, bytes) else str(value) for value in y.reshape(-1)]
    assert [classes[i] for i in data.test.y.tolist()] == names


@pytest.mark.parametrize("targets", [1, 3])
def test_real_targets_are_regression(tmp_path, targets):
    x, y = np.random.default_rng(0).normal(size=(2, 40, targets))
    data = saved(tmp_path, x=x, y=y if targets > 1 else y[:, 0])
    assert (data.task, data.outputs, data.classes) == ("regression", targets, ())
    assert data.train.y.dtype == data.train.x.dtype == torch.float32
    both = torch.cat([data.train.y, data.validation.y, data.test.y]).sort(0).values
    assert torch.equal(both, torch.from_numpy(np.sort(y, 0)).float())


@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize(
    ("values", "task"),
    [([0, 1], "classification"), ([-1, 1], "classification"), ([0, 1, 2], "classification"), ([0, 0.5], "regression"),
     (range(11), "regression")],
)  # fmt: skip
def test_floats_are_recognised_like_the_target_of_a_table(tmp_path, values, task, column):
    y = np.array([*values] * 100, dtype=float)[:200]
    x = np.random.default_rng(0).normal(size=(200, 2))
    data = saved(tmp_path, x=x, y=y[:, None] if column else y)
    table = write_csv(tmp_path / "t.csv", ["a", *x[:, 0]], ["b", *x[:, 1]], ["y", *y])
    table = load(str(table), target="y")
    assert (data.task, data.classes) == (table.task, table.classes)
    assert data.task == task
    assert torch.equal(data.test.y, table.test.y)


def test_several_whole_targets_are_regression(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 2))
    assert saved(tmp_path, x=x, y=np.eye(3)[Y]).task == "regression"


def test_the_task_can_be_chosen(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 2))
    np.savez(tmp_path / "data.npz", x=x, y=Y.astype(float))
    assert load(str(tmp_path / "data.npz")).task == "regression"
    assert load(str(tmp_path / "data.npz"), task="classification").classes == ("0", "1", "2")


def test_a_real_table():
    data = load(str(real("tabular", "power_plant.npz")))
    assert (data.inputs, data.outputs, data.task) == ((4,), 1, "regression")
    assert sum(map(len, (data.train, data.validation, data.test))) == 9568
    assert load(str(real("tabular", "higgs_7k.npz"))).test.x.shape == (500, 28)


@pytest.mark.parametrize("part", ["val", "test"])
def test_an_empty_part_is_told(tmp_path, part):
    given = {f"x_{part}": X[:0], f"y_{part}": Y[:0]}
    with pytest.raises(InputError, match=r"the (validation|test) part is empty; leave it out"):
        saved(tmp_path, x_train=X, y_train=Y, **given)


def test_bytes_that_are_no_text_stay_apart(tmp_path):
    assert len(saved(tmp_path, x=X, y=np.array([b"caf\xe9", b"caf\xe8"])[Y % 2]).classes) == 2


def test_numbers_that_single_precision_can_not_tell_are_told(tmp_path):
    with pytest.raises(InputError, match="column 1 of x varies by"):
        saved(tmp_path, x=np.stack([np.arange(30.0), 1e9 + np.arange(30.0)], 1), y=Y)
