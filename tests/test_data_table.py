"""Tables are encoded by what the training rows say, as scikit-learn would, and the same way again from JSON."""

import json

import numpy as np
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from data_samples import real, write_csv
from outgrow.data import load
from outgrow.data.columns import MOST_CATEGORIES, column, encode
from outgrow.data.rows import read_rows
from outgrow.errors import InputError

N = 60


def table(path, **columns):
    """A CSV file of `N` rows with a regression target that depends on nothing."""
    columns.setdefault("target", [i * 0.7 for i in range(N)])
    return write_csv(path, *([name, *cells] for name, cells in columns.items()))


def loaded(path, **options):
    return load(str(path), **{"target": "target"} | options)


def features(data):
    return dict(zip(data.description["features"], data.train.x.T.tolist(), strict=True))


def test_numbers_are_numbers_however_they_are_written(tmp_path):
    cells = [f" {i} " if i % 3 else f"{i}e0" for i in range(N)]
    data = loaded(table(tmp_path / "t.csv", a=cells))
    assert features(data)["a"] == pytest.approx([y / 0.7 for y in data.train.y[:, 0].tolist()], rel=1e-5)
    assert list(features(data)) == ["a"]


@pytest.mark.parametrize("missing", ["", " ", "?", "NA", "nan", "NaN", "null"])
def test_missing_numbers_get_the_median_of_the_training_rows_and_an_indicator(tmp_path, missing):
    data = loaded(table(tmp_path / "t.csv", a=[missing if i % 3 == 0 else i for i in range(N)]))
    indices = (data.train.y[:, 0] / 0.7).round().int().tolist()
    given = [i for i in indices if i % 3]
    median = float(np.median(given))
    assert features(data)["a"] == [i if i % 3 else median for i in indices]
    assert features(data)["a=missing"] == [float(i % 3 == 0) for i in indices]


def test_nothing_but_the_training_rows_decides_the_encoding(tmp_path):
    """Whatever the test file holds, the training part is encoded in the same way."""
    kinds = ["red" if i % 2 else "blue" for i in range(N)]
    path = table(tmp_path / "t_train.csv", a=range(N), kind=kinds)
    alike = table(tmp_path / "t_test.csv", a=range(N), kind=kinds)
    first = loaded(path)
    table(alike, a=["NA"] * N, kind=["green"] * N)
    second = loaded(path)
    assert torch.equal(first.train.x, second.train.x)
    assert first.description["columns"] == second.description["columns"]
    assert second.test.x.unique(dim=0).tolist() == [[first.description["columns"][0]["fill"], 0.0, 0.0]]


def test_categories_are_one_hot_and_empty_is_one_of_them(tmp_path):
    kinds = ["", "b", "a"] * (N // 3)
    data = loaded(table(tmp_path / "t.csv", kind=kinds))
    assert list(features(data)) == ["kind=", "kind=a", "kind=b"]
    indices = (data.train.y[:, 0] / 0.7).round().int().tolist()
    assert data.train.x.argmax(1).tolist() == [["", "a", "b"].index(kinds[i]) for i in indices]
    assert (data.train.x.sum(1) == 1).all()


def test_only_the_most_frequent_categories_are_kept(tmp_path):
    n = 3000
    cells = [f"c{i % 50}" if i % 2 else f"r{i % 1500}" for i in range(n)]
    data = loaded(table(tmp_path / "t.csv", kind=cells, target=[0.5 * i for i in range(n)]))
    kept = data.description["columns"][0]["categories"]
    assert len(kept) == MOST_CATEGORIES
    assert {f"c{i}" for i in range(1, 50, 2)} <= set(kept)
    assert set(data.train.x.sum(1).tolist()) == {0.0, 1.0}


def test_identities_and_empty_columns_are_dropped_and_the_description_says_so(tmp_path):
    data = loaded(
        table(tmp_path / "t.csv", **{"": range(N)}, a=range(N), ident=[f"id{i}" for i in range(N)], nothing=[""] * N)
    )
    assert list(features(data)) == ["a"]
    assert set(data.description["dropped"]) == {"", "ident", "nothing"}


@pytest.mark.parametrize(
    ("cells", "task", "classes"),
    [
        (["yes", "no"] * 30, "classification", ("no", "yes")),
        (["True", "False"] * 30, "classification", ("False", "True")),
        ([0, 1] * 30, "classification", ("0", "1")),
        ([-1, 1] * 30, "classification", ("-1", "1")),
        (["1", "2.0", " 3"] * 20, "classification", ("1", "2", "3")),
        ([1, 2, 3, 4] * 15, "regression", ()),  # 4 values are more than 5 % of 60 rows
        ([0.5, 1.5] * 30, "regression", ()),
        (range(N), "regression", ()),
    ],
)
def test_the_task_is_recognised_from_the_target(tmp_path, cells, task, classes):
    data = loaded(table(tmp_path / "t.csv", a=range(N), target=list(cells)))
    assert (data.task, data.classes) == (task, classes)
    assert data.train.y.dtype == (torch.int64 if classes else torch.float32)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_task_can_be_chosen(tmp_path, task):
    assert loaded(table(tmp_path / "t.csv", a=range(N), target=[1, 2, 3] * 20), task=task).task == task


@pytest.mark.parametrize(
    "names", ["train.csv test.csv", "data_train.csv data_test.csv", "data-train.tsv data-test.tsv"]
)
@pytest.mark.parametrize("by", ["file", "folder"])
def test_the_test_file_beside_is_the_test_part(tmp_path, names, by):
    train, test = names.split()
    path = table(tmp_path / "some" / train, a=range(N))
    table(path.with_name(test), a=[-1] * N)
    data = loaded(path if by == "file" else path.parent)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [54, 6, 60]
    assert (data.test.x == -1).all()
    assert data.name == ("some" if train == "train.csv" else "data")


def test_a_test_file_without_the_target_is_not_used(tmp_path):
    path = table(tmp_path / "train.csv", a=range(N))
    write_csv(tmp_path / "test.csv", ["a", 1, 2])
    data = loaded(path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [43, 5, 12]
    assert "test" not in data.description["paths"]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_quotes_and_blank_lines(tmp_path, delimiter):
    comma = table(tmp_path / "comma.csv", a=range(N), kind=["x", "y"] * 30)
    other = tmp_path / "other.csv"
    other.write_text("\ufeff" + comma.read_text().replace(",", delimiter).replace("x", '"x"') + "\n\n", "utf-8")
    assert torch.equal(loaded(comma).train.x, loaded(other).train.x)


def test_same_seed_same_parts_and_the_test_part_has_no_seed(tmp_path):
    path = table(tmp_path / "t.csv", a=range(N))
    first, again, other = (loaded(path, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.validation.y, again.validation.y)
    assert torch.equal(first.test.y, other.test.y)
    assert not torch.equal(first.validation.y, other.validation.y)


def test_a_description_encodes_rows_after_a_way_through_json(tmp_path):
    cells = {"a": ["" if i % 5 == 0 else i / 3 for i in range(N)], "kind": ["x", "", "z"] * 20}
    path = table(tmp_path / "t_train.csv", **cells)
    table(tmp_path / "t_test.csv", **cells)
    data = loaded(path)
    described = json.loads(json.dumps(data.description))
    again = encode([column(entry) for entry in described["columns"]], read_rows(tmp_path / "t_test.csv"))
    assert np.array_equal(again, data.test.x.numpy())


def california(path):
    """The real table as CSV: 8 columns of numbers, one with gaps, and one of categories."""
    stored = np.load(real("tabular", "california_housing.npz"))
    names = [str(name) for name in stored["feature_names"]]
    x = [["" if np.isnan(value) else value for value in values] for values in stored["X"].tolist()]
    ocean = stored["ocean_names"][stored["ocean"]].tolist()
    columns = [[name, *cells] for name, cells in zip(names, zip(*x, strict=True), strict=True)]
    return write_csv(path, *columns, ["ocean", *ocean], ["price", *stored["y"].tolist()]), stored


def test_a_real_table_is_encoded_as_scikit_learn_does(tmp_path):
    path, stored = california(tmp_path / "california.csv")
    data = load(str(path), target="price")
    assert (data.task, data.inputs, data.outputs) == ("regression", (14,), 1)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [14861, 1651, 4128]
    rows = {tuple(x): i for i, x in enumerate(np.c_[np.float32(stored["X"][:, :4]), np.float32(stored["y"])].tolist())}
    index = [rows[tuple(x)] for x in torch.cat([data.train.x[:, :4], data.train.y], 1).tolist()]
    imputed = SimpleImputer(strategy="median", add_indicator=True).fit_transform(stored["X"][index])
    kinds = stored["ocean_names"][stored["ocean"]][index, None]
    expected = np.concatenate([imputed, OneHotEncoder(sparse_output=False).fit_transform(kinds)], 1)
    ours = [i for i, name in enumerate(data.description["features"]) if name != "total_bedrooms=missing"]
    ours.insert(8, data.description["features"].index("total_bedrooms=missing"))
    assert np.array_equal(data.train.x[:, ours].numpy(), expected.astype(np.float32))


def test_a_real_table_of_categories(tmp_path):
    stored = np.load(real("tabular", "adult.npz"))
    for part in ("train", "test"):
        numbers, codes, y = (stored[f"{kind}_{part}"][:3000] for kind in ("num", "cat", "y"))
        words = [stored[f"categories_{name}"][codes[:, i]].tolist() for i, name in enumerate(stored["cat_names"])]
        header = [*map(str, stored["num_names"]), *map(str, stored["cat_names"])]
        columns = [[name, *cells] for name, cells in zip(header, [*numbers.T.tolist(), *words], strict=True)]
        write_csv(tmp_path / f"adult_{part}.csv", *columns, ["income", *y.tolist()])
    data = load(str(tmp_path), target="income")
    assert (data.name, data.task, data.classes) == ("adult", "classification", ("0", "1"))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [2700, 300, 3000]
    assert "workclass=?" in data.description["features"]
    one_hot = data.train.x[:, 6:]
    assert (one_hot.sum(1) == 8).all()


def test_what_is_the_same_in_every_training_row_is_left_out(tmp_path):
    data = loaded(table(tmp_path / "t.csv", a=range(N), same=["x"] * N, zero=[0.0] * N))
    assert data.description["features"] == ["a"]
    assert data.description["dropped"] == dict.fromkeys(("same", "zero"), "the same in every training row")


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_decimal_commas_are_points(tmp_path, delimiter):
    rows = [(0.5 * i, f"{i}e-1", "b" if i % 2 else "a", i * 0.7) for i in range(N)]
    text = "".join(delimiter.join(map(str, row)) + "\n" for row in [("a", "b", "c", "target"), *rows])
    (tmp_path / "points.csv").write_text(text)
    (tmp_path / "commas.csv").write_text(text.replace(".", ","))
    points, commas = (loaded(tmp_path / f"{name}.csv") for name in ("points", "commas"))
    assert points.description["features"] == commas.description["features"]
    assert torch.equal(points.train.x, commas.train.x)
    assert torch.equal(points.train.y, commas.train.y)


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ";"), ("t.tsv", "\t")])
def test_commas_in_the_header_are_no_delimiters(tmp_path, name, delimiter):
    header = ['"Weight (kg, dry)"', "Height (m, bare)" if name == "t.tsv" else '"Height (m, bare)"', "target"]
    lines = ["", delimiter.join(header), *(delimiter.join(map(str, (i, 2 * i, i * 0.7))) for i in range(N))]
    (tmp_path / name).write_text("\n".join(lines))
    assert loaded(tmp_path / name).description["features"] == ["Weight (kg, dry)", "Height (m, bare)"]


def test_numbers_that_single_precision_can_not_tell_have_an_offset(tmp_path):
    near, far = (loaded(table(tmp_path / f"{at:.0f}.csv", a=[at + i / 8 for i in range(N)])) for at in (0.0, 2e9))
    apart = near.train.x - near.train.x.median()
    torch.testing.assert_close(far.train.x - far.train.x.median(), apart, rtol=0, atol=1e-6)
    columns = [column(one) for one in json.loads(json.dumps(far.description["columns"]))]
    rows = read_rows(tmp_path / "2000000000.csv")
    assert set(encode(columns, rows)[:, 0].tolist()) >= set(far.train.x[:, 0].tolist())
    with pytest.raises(InputError, match=r"column 'target' varies by 1.7.* around 1e.09, which single precision"):
        loaded(table(tmp_path / "t.csv", a=range(N), target=[1e9 + i / 10 for i in range(N)]))


def test_a_comma_that_may_divide_thousands_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;target\n" + "".join(f"{i + 1},250;{i}\n" for i in range(N)))
    with pytest.raises(InputError, match="column 'a': 1,250 may be thousands or have a decimal comma"):
        loaded(path)


def semicolons(path, *rows):
    path.write_text("\n".join(";".join(map(str, row)) for row in rows) + "\n")
    return path


def test_categories_with_commas_are_the_same_in_every_file(tmp_path):
    sizes = ["36,5", "38,5", "XL"]
    rows = [(i, sizes[i % 3], i * 7) for i in range(N)]
    path = semicolons(tmp_path / "t_train.csv", ("a", "size", "target"), *rows)
    semicolons(tmp_path / "t_test.csv", ("a", "size", "target"), *[row for row in rows if row[1] != "XL"])
    data = loaded(path)
    assert data.description["features"] == ["a", "size=36,5", "size=38,5", "size=XL"]
    assert (data.test.x[:, 1:3].sum(1) == 1).all()


def test_training_rows_tell_what_commas_are(tmp_path):
    rows = [(f"{i / 1000 + 0.001:.3f}".replace(".", ","), i * 7) for i in range(N)]
    path = semicolons(tmp_path / "t_train.csv", ("a", "target"), *rows)
    semicolons(tmp_path / "t_test.csv", ("a", "target"), ("1,294", 7), ("2,300", 14))
    data = loaded(path)
    assert data.test.x[:, 0].tolist() == pytest.approx([1.294, 2.3])
    columns = [column(one) for one in json.loads(json.dumps(data.description["columns"]))]
    assert encode(columns, read_rows(tmp_path / "t_test.csv")).tolist() == data.test.x.tolist()


def test_a_word_in_another_file_is_named(tmp_path):
    count = 2 * MOST_CATEGORIES
    path = write_csv(tmp_path / "t_train.csv", ["a", *range(count)], ["target", *[i * 0.7 for i in range(count)]])
    write_csv(tmp_path / "t_test.csv", ["a", 1, "many", "more"], ["target", 1, 2, 3])
    with pytest.raises(
        InputError, match=r"t_test.csv: column 'a' has numbers in 201 of 203 rows, but 'many' on line 3"
    ):
        loaded(path)


def test_long_numbers_are_classes_of_their_own(tmp_path):
    data = loaded(table(tmp_path / "t.csv", a=range(N), target=[2**53 + i % 2 for i in range(N)]))
    assert data.classes == ("9007199254740992", "9007199254740993")
    assert data.train.y.unique().tolist() == [0, 1]


def test_names_of_parts_may_have_any_case(tmp_path):
    table(tmp_path / "Train.csv", a=range(N))
    table(tmp_path / "TEST.csv", a=[7 * N] * N)
    assert (loaded(tmp_path).test.x == 7 * N).all()
