"""The estimators: scikit-learn's own checks, rows that say the same, tables with categories and gaps, sizes."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from outgrow.errors import InputError
from outgrow.integrations.encoding import as_numbers, merged
from outgrow.sklearn import GrowingClassifier, GrowingRegressor
from outgrow.train.finish import spaced
from outgrow.train.trainer import Trainer

QUICK = {"epochs": 20, "random_state": 0}


@parametrize_with_checks([GrowingClassifier(epochs=15), GrowingRegressor(epochs=15)])
def test_it_is_an_estimator_as_scikit_learn_checks_it(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def moons():
    rows, labels = make_moons(400, noise=0.1, random_state=0)
    return rows, np.array(["left", "right"])[labels]


@pytest.fixture(scope="module")
def fitted(moons):
    return GrowingClassifier(epochs=60, random_state=0).fit(*moons)


@given(st.data())
def test_rows_that_say_the_same_are_merged_whatever_their_order(data):
    n = data.draw(st.integers(1, 12))
    X = np.array(data.draw(st.lists(st.tuples(*[st.sampled_from([-1.0, -0.0, 0.0, 2.5])] * 2), min_size=n, max_size=n)))
    y = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    times = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    if not times.any():
        return
    weighted = merged(X, y, times.astype(float))
    order = np.random.default_rng(0).permutation(times.sum())
    repeated = merged(X.repeat(times, 0)[order], y.repeat(times)[order], np.ones(times.sum()))
    for one, other in zip(weighted, repeated, strict=True):
        assert np.array_equal(one, other)
    assert weighted[2].sum() == times.sum()
    assert len({(*row, label) for row, label in zip((weighted[0] + 0.0).tolist(), weighted[1], strict=True)}) == len(
        weighted[0]
    )


def test_it_finds_a_size_and_keeps_good_ones_on_the_way(fitted, moons):
    rows, labels = moons
    assert fitted.score(rows, labels) > 0.97
    assert len(fitted.sizes_) > 2
    assert fitted.sizes_ == sorted(fitted.sizes_)
    assert fitted.size_.validation["accuracy"] == max(size.validation["accuracy"] for size in fitted.family_)
    before = fitted.size_.params
    small = fitted.at(max_params=fitted.sizes_[0])
    assert small.size_.params == fitted.sizes_[0]
    assert fitted.size_.params == before
    assert small.score(rows, labels) > 0.8
    assert not np.allclose(small.predict_proba(rows), fitted.predict_proba(rows))
    assert fitted.at(min_accuracy=0.5).size_.params == fitted.sizes_[0]
    assert fitted.size_.name in fitted.family_.table()
    with pytest.raises(InputError, match="no size"):
        fitted.at(max_params=10)


def test_probabilities_sum_to_one_and_say_what_is_predicted(fitted, moons):
    found = fitted.predict_proba(moons[0])
    assert np.allclose(found.sum(1), 1)
    assert (fitted.classes_[found.argmax(1)] == fitted.predict(moons[0])).all()
    assert np.allclose(np.log(found), fitted.predict_log_proba(moons[0]))


def test_it_travels_and_repeats(fitted, moons):
    rows, labels = moons
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(rows), fitted.predict_proba(rows))
    assert again.at(max_params=fitted.sizes_[0]).size_.params == fitted.sizes_[0]
    state = torch.get_rng_state()
    other = clone(fitted).fit(rows, labels)
    assert torch.equal(torch.get_rng_state(), state)  # torch's own chance is left alone
    assert np.array_equal(other.predict_proba(rows), fitted.predict_proba(rows))
    assert [one["record"] for one in other.history_ if "record" in one] == [
        one["record"] for one in fitted.history_ if "record" in one
    ]


def test_a_budget_is_kept(moons):
    model = GrowingClassifier(max_params=90, widths=(4,), **QUICK).fit(*moons)
    assert max(model.sizes_) <= 90
    with pytest.raises(InputError, match="below the seed's"):
        GrowingClassifier(max_params=5, **QUICK).fit(*moons)
    without = GrowingClassifier(finish=False, policy="schedule", policy_options={"events": 2}, **QUICK).fit(*moons)
    assert {size.quality for size in without.family_} == {"average"}


@pytest.mark.parametrize(
    ("arguments", "same"),
    [
        ({"max_params": np.int64(150), "max_flops": np.int32(900)}, {"max_params": 150, "max_flops": 900}),
        ({"widths": np.array([4, 4])}, {"widths": (4, 4)}),
        ({"widths": 8, "batch_size": np.uint8(16)}, {"widths": (8,), "batch_size": 16}),
        ({"rate": np.float32(0.5**8), "weight_decay": np.float64(0.1)}, {"rate": 0.5**8, "weight_decay": 0.1}),
        ({"max_train_flops": np.int64(10**10), "max_latency": np.float32(1)}, {"max_train_flops": 1e10}),
        ({"policy_options": {"bounds": [np.float32(0.5), 2]}}, {"policy_options": {"bounds": (0.5, 2.0)}}),
    ],
    ids=str,
)
def test_numbers_of_numpy_and_lists_are_taken_as_those_of_python_and_kept_as_given(arguments, same, moons):
    rows, labels = moons
    kind = {"epochs": np.int64(2), "finish": False, "random_state": 0}
    one, other = (GrowingClassifier(**{**kind, **given}).fit(rows, labels) for given in (arguments, same))
    assert np.array_equal(one.predict_proba(rows), other.predict_proba(rows))
    assert all(getattr(one, name) is value for name, value in {**kind, **arguments}.items())
    assert one.at(max_params=np.int64(one.sizes_[0]), min_accuracy=np.float32(0)).size_.params == one.sizes_[0]


def test_it_fits_into_pipelines_and_searches(moons):
    rows, labels = moons
    pipe = make_pipeline(StandardScaler(), GrowingClassifier(epochs=2, finish=False))
    search = GridSearchCV(pipe, {"growingclassifier__max_params": np.arange(120, 241, 120)}, cv=2).fit(rows, labels)
    assert set(search.best_params_) == {"growingclassifier__max_params"}


def test_a_table_with_categories_text_and_gaps(capsys):
    rng = np.random.default_rng(0)
    n = 400
    table = pd.DataFrame(
        {
            "size": rng.normal(size=n),
            "kind": pd.Categorical(rng.choice(["a", "b", "c"], n)),
            "place": rng.choice(["north", "south"], n),
            "new": rng.random(n) < 0.5,
        }
    )
    price = table["size"] + 3 * (table["kind"] == "b") - 2 * (table["place"] == "north") + table["new"]
    gone = rng.random(n) < 0.1
    table.loc[gone, "size"] = np.nan
    model = GrowingRegressor(missing="median", epochs=60, random_state=0, verbose=1).fit(table, price)
    assert "epoch" in capsys.readouterr().out
    assert model.score(table, price) > 0.85
    assert list(model.feature_names_in_) == list(table.columns)
    unknown = table.assign(place="west")
    assert np.isfinite(model.predict(unknown)).all()
    with pytest.raises(ValueError, match="NaN"):
        GrowingRegressor(**QUICK).fit(table, price)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table.drop(columns="new"))


@pytest.mark.parametrize("labels", [[3, 1, 2], [2, 0, 1]], ids=str)
def test_columns_whose_labels_are_numbers_are_told_by_their_types(labels):
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=80), rng.choice(["a", "b", "c"], 80), rng.normal(size=80)]
    named = pd.DataFrame(dict(zip("xyz", columns, strict=True)))
    numbered = named.set_axis(labels, axis=1)
    one, other = (as_numbers().fit(table) for table in (named, numbered))
    assert np.array_equal(one.transform(named), other.transform(numbered))
    model = GrowingClassifier(epochs=1, finish=False, random_state=0).fit(numbered, columns[1])
    assert model.predict(numbered).shape == (80,)


@pytest.mark.parametrize("kind", [object, "category", "string", "boolean"])
def test_a_missing_category_is_an_error_or_one_of_its_own(kind):
    rng = np.random.default_rng(0)
    values = rng.random(60) < 0.5 if kind == "boolean" else rng.choice(["a", "b"], 60)
    whole = pd.DataFrame({"size": rng.normal(size=60), "kind": pd.Series(values).astype(kind)})
    table = whole.copy()
    table.loc[:20, "kind"] = pd.NA if kind in ("string", "boolean") else None
    quick = {"epochs": 1, "finish": False, "random_state": 0}
    with pytest.raises(InputError, match="column 'kind': expected a value in each row, received NaN"):
        GrowingRegressor(**quick).fit(table, table["size"])
    with pytest.raises(InputError, match="column 'kind'"):
        GrowingRegressor(**quick).fit(whole, table["size"]).predict(table)
    model = GrowingRegressor(missing="median", **quick).fit(table, table["size"])
    assert model.family_.inputs == (4,)  # the number, two values, and none
    assert np.isfinite(model.predict(table)).all()


@pytest.mark.parametrize("others", [{}, {"place": ["north", "south"] * 30}], ids=str)
@pytest.mark.parametrize("kind", ["datetime64[ns]", "timedelta64[ns]", "datetime64[ns, UTC]"])
def test_dates_and_durations_are_refused_by_name(kind, others):
    table = pd.DataFrame({"size": np.arange(60.0), **others})
    timed = table.assign(when=pd.Series(np.arange(60) * 10**9).astype(kind))
    with pytest.raises(InputError, match=r"column 'when': .* received (datetime|timedelta)64.*; make numbers of it"):
        GrowingRegressor(**QUICK).fit(timed, table["size"])
    fitted = GrowingRegressor(epochs=1, finish=False).fit(table, table["size"])
    with pytest.raises(InputError, match="column 'when'"):
        fitted.predict(timed)


def test_several_targets_and_far_away_ones():
    rows, target = load_diabetes(return_X_y=True)
    both = np.column_stack([target * 1e6, 1 - target])
    model = GrowingRegressor(epochs=40, random_state=0).fit(rows, both)
    assert model.predict(rows).shape == both.shape
    assert model.score(rows, both) > 0.3
    assert model.size_.validation["rmse"] < 1  # in standard deviations
    standardized = torch.from_numpy(StandardScaler().fit_transform(rows)).float()
    assert np.allclose(model.size_.load()(standardized).detach().numpy(), model.predict(rows), rtol=1e-4)
    assert GrowingRegressor(**QUICK).fit(rows + 1e5, target).predict(rows + 1e5).shape == target.shape
    linear = LinearRegression().fit(rows, target).score(rows, target)
    assert GrowingRegressor(epochs=60, random_state=0).fit(rows, target).score(rows, target) > linear - 0.05


def test_errors_and_answers_are_in_the_unit_of_the_target():
    quick = {"policy": "schedule", "epochs": 6, "finish": False, "random_state": 0}
    rng = np.random.default_rng(0)
    rows = StandardScaler().fit_transform(rng.normal(size=(100, 2)))
    target = rows[:, 0] + 0.1 * rng.normal(size=100)
    one, other = (GrowingRegressor(**quick).fit(rows, y) for y in (target, 100 * target + 5000))
    assert other.size_.validation["rmse"] == pytest.approx(100 * one.size_.validation["rmse"], rel=1e-3)
    assert f"{other.size_.validation['rmse']:.5g}" in other.family_.table()
    told = [[record["validation"] for record in model.history_ if "validation" in record] for model in (one, other)]
    for less, more in zip(*told, strict=True):
        assert more["rmse"] == pytest.approx(100 * less["rmse"], rel=1e-3)
        assert more["loss"] == pytest.approx(less["loss"], rel=1e-3)
    found = other.predict(rows)
    assert np.allclose(found, 100 * one.predict(rows) + 5000, atol=0.01)
    with torch.no_grad():
        answers = other.size_.load()(torch.from_numpy(rows).float())[:, 0].numpy()
    assert np.allclose(answers, found, atol=0.01)
    shifted = GrowingRegressor(**quick).fit(rows, target + 2.0**30)  # where single precision has steps of 64
    assert np.allclose(shifted.predict(rows) - 2.0**30, one.predict(rows), atol=1e-3)
    other.set_params(warm_start=True).fit(rows, 100 * target + 5000)
    assert other.size_.validation["rmse"] < 1.1 * min(record["rmse"] for record in told[1])


def test_it_ends_where_it_overfits_unless_epochs_are_given():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 20))
    target = rows[:, 0] + rng.normal(size=300)
    early, whole = (GrowingRegressor(epochs=epochs, random_state=0).fit(rows, target) for epochs in (None, 143))
    assert early.n_iter_ == sum(record.get("record") == "epoch" for record in early.history_) < whole.n_iter_ == 143
    assert any(record.get("record") == "overfitted" for record in early.history_)


def test_weights_tell_what_counts():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 2))
    labels = rng.integers(0, 2, 300)  # only weights tell which ones to trust
    trusted = labels == (rows[:, 0] > 0)
    model = GrowingClassifier(epochs=40, random_state=0).fit(rows, labels, np.where(trusted, 20.0, 1.0))
    assert model.score(rows[trusted], labels[trusted]) > 0.9


def test_a_warm_start_goes_on_with_the_network_that_there_is(moons):
    rows, labels = moons
    model = GrowingClassifier(warm_start=True, epochs=40, random_state=0).fit(rows, labels)
    before = model.size_
    model.set_params(epochs=3).fit(rows, labels)
    assert min(model.sizes_) == before.params
    assert model.score(rows, labels) > 0.95
    one = GrowingClassifier(warm_start=True, widths=(4,), **QUICK)  # one layer
    assert len(one.fit(rows, labels).fit(rows, labels).size_.axes) == 1
    with pytest.raises(InputError, match="warm_start"):
        model.fit(rows, np.where(labels == "left", "up", "down"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("warm_start", [False, True])
def test_a_fit_that_is_interrupted_or_fails_leaves_what_there_was(error, warm_start, moons, monkeypatch):
    rows, labels = moons
    model = GrowingClassifier(epochs=2, finish=False, warm_start=warm_start, random_state=0).fit(rows, labels)
    before, fitted = model.predict(rows), dict(vars(model))
    monkeypatch.setattr(Trainer, "run", lambda self: (_ for _ in ()).throw(error))
    new = (pd.DataFrame(5 * rows, columns=["x", "y"]), np.where(labels == "left", "cat", "dog"))
    with pytest.raises(error):
        model.fit(*(new if not warm_start else (5 * rows, labels)))
    assert vars(model) == fitted
    assert np.array_equal(model.predict(rows), before)
    fresh = GrowingRegressor(**QUICK)
    with pytest.raises(error):
        fresh.fit(rows, rows[:, 0])
    with pytest.raises(NotFittedError):
        fresh.predict(rows)


def test_a_fit_on_the_cpu_leaves_the_chance_of_gpus_alone(moons, monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    GrowingClassifier(epochs=1, random_state=0).fit(*moons)
    assert seeds == [7]
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_of_any_kind_and_many_classes():
    rows, labels = load_digits(return_X_y=True)
    rows, labels = rows[:600], labels[:600] * 10.0
    model = GrowingClassifier(epochs=25, random_state=0).fit(rows, labels)
    assert set(model.classes_) == set(labels)
    assert model.score(rows, labels) > 0.9


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"missing": "zero"}, "missing: expected 'error' or 'median'"),
        ({"validation_fraction": 0}, "validation_fraction"),
        ({"epochs": 0}, "epochs: expected more than 0"),
        ({"rate": -1.0}, "rate: expected more than 0"),
        ({"policy": "magic"}, "unknown policy 'magic'"),
        ({"policy_options": {"speed": 2}}, "speed"),
        ({"max_params": -3}, "max_params"),
        ({"max_params": 200.0}, "max_params: expected a whole number, received 200.0"),
        ({"epochs": 10.0}, "epochs: expected a whole number, received 10.0"),
        ({"batch_size": np.float32(16)}, "batch_size: expected a whole number"),
        ({"widths": (8, "8")}, "widths: expected a whole number, received '8'"),
        ({"rate": "fast"}, "rate: expected a number, received 'fast'"),
    ],
    ids=str,
)
def test_bad_options_are_named(bad, message, moons):
    with pytest.raises(InputError, match=message):
        GrowingClassifier(**{**QUICK, **bad}).fit(*moons)


def test_rows_that_tell_nothing_are_answered_with_about_the_mean():
    rows, target = np.ones((120, 2)), np.random.default_rng(0).normal(size=120)
    assert GrowingRegressor(**QUICK).fit(rows, target).score(rows, target) > -0.2


def test_bad_rows_are_named():
    rows, labels = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="non-zero"):
        GrowingClassifier(**QUICK).fit(rows, labels, np.zeros(len(rows)))
    with pytest.raises(ValueError, match="NaN"):
        GrowingClassifier(**QUICK).fit(pd.DataFrame({"kind": ["a", "b"] * 5}), [0, 1, np.nan] * 3 + [0])
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        GrowingClassifier(**QUICK).fit(rows, labels, -np.ones(len(rows)))
    with pytest.raises(InputError, match="at least 4 rows"):
        GrowingClassifier(**QUICK).fit(rows[:1].repeat(50, 0), labels[:1].repeat(50))


def test_the_sizes_that_are_finished_are_those_of_a_run(fitted):
    finished = [record["of"] for record in fitted.history_ if record.get("record") == "branch"]
    entries = [{"name": size.name, "params": size.params} for size in fitted.family_]
    assert sorted(finished) == sorted(spaced(entries)) != []
