"""The estimators beside scikit-learn's: score, seconds and parameters on tables, with default options.

    python benchmarks/tabular.py --data DIR --seeds 0 1 2 3 4

`growing` is GrowingClassifier or GrowingRegressor as it is. `mlp` is MLPClassifier or MLPRegressor as it is, `grid` a
GridSearchCV of it over eight usual `hidden_layer_sizes` (five folds, refit), both on standardized features (of
regressors, targets, too), and `trees` is HistGradientBoosting, for honesty. A quarter of the rows is the test part,
drawn by the seed, less the rows that the training part has, too (a quarter of the wines). Tables are cut to `--rows`.
Every fit adds a line to results/tabular.jsonl; those that are there are not repeated.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and scikit-learn read it

import numpy as np
import pandas as pd
import sklearn
import torch
from grow import commit, hardware
from runs import lines
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from outgrow.sklearn import GrowingClassifier, GrowingRegressor

RESULTS = Path(__file__).resolve().parent / "results"
TABLES = {
    "adult": ("adult_train.csv", "adult_test.csv"),
    "covtype": ("covtype_10k.csv",),
    "california": ("california_housing.csv",),
    "power_plant": ("power_plant.csv",),
    "wine_quality": ("wine_quality.csv",),
    "higgs": ("higgs_7k_train.csv", "higgs_7k_test.csv"),
}
REGRESSIONS = ("california", "power_plant", "wine_quality")
HIDDEN = ((25,), (50,), (100,), (200,), (25, 25), (50, 50), (100, 100), (200, 200))


def main() -> None:
    """Do the fits that the command line asks for and that are not done."""
    options = parsed()
    file = options.results / "tabular.jsonl"
    file.parent.mkdir(exist_ok=True)
    for seed in options.seeds:
        for task in options.tasks:
            for name in options.models:
                key = {"task": task, "model": name, "seed": seed, "rows": options.rows}
                if any(key.items() <= line.items() for line in lines(file)) and not options.again:
                    continue
                line = key | fitted(name, *table(options.data, task, options.rows), task, seed)
                with open(file, "a") as out:
                    out.write(json.dumps(line) + "\n")
                print(f"{task}, {name}, seed {seed}: {line['score']:.4f}, {line['seconds']:.1f} s", flush=True)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--tasks", nargs="+", choices=TABLES, default=[*TABLES])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=10_000, help="at most so many rows of a table")
    parser.add_argument("--again", action="store_true", help="repeat what is there")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    return parser.parse_args()


def table(folder: str, task: str, most: int) -> tuple[pd.DataFrame, pd.Series]:
    """Read a table; return its features, text as categories, and its target."""
    whole = pd.concat([pd.read_csv(Path(folder) / "tabular" / name) for name in TABLES[task]], ignore_index=True)
    whole = whole.sample(min(most, len(whole)), random_state=0)
    features = whole.drop(columns="target").fillna(whole.median(numeric_only=True))
    text = features.select_dtypes(exclude="number").columns
    return features.astype(dict.fromkeys(text, "category")), whole["target"]


def fitted(name: str, features: pd.DataFrame, target: pd.Series, task: str, seed: int) -> dict[str, Any]:
    """Fit a model on three quarters of the rows; return what came out on the others."""
    labels = None if task in REGRESSIONS else target
    train, test, train_target, test_target = train_test_split(
        features, target, test_size=0.25, random_state=seed, stratify=labels
    )
    unseen = ~test.apply(tuple, axis=1).isin(set(train.itertuples(index=False, name=None)))
    model = MODELS[name](task in REGRESSIONS, seed)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, train_target)
    return {
        "seconds": time.perf_counter() - began,
        "score": float(model.score(test[unseen], test_target[unseen])),
        "params": parameters(model),
        "examples": len(train),
        "unseen": int(unseen.sum()),
        "versions": {"scikit-learn": sklearn.__version__, "torch": torch.__version__},
        "commit": commit(),
        "hardware": hardware(),
    }


def growing(regression: bool, seed: int) -> BaseEstimator:
    """Our estimator, as it is."""
    return (GrowingRegressor if regression else GrowingClassifier)(random_state=seed)


def mlp(regression: bool, seed: int) -> Pipeline:
    """scikit-learn's network as it is, on standardized features, and targets."""
    encode = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), make_column_selector(dtype_exclude="number")),
    )
    if not regression:
        return make_pipeline(encode, MLPClassifier(random_state=seed))
    net = TransformedTargetRegressor(MLPRegressor(random_state=seed), transformer=StandardScaler())
    return make_pipeline(encode, net)


def grid(regression: bool, seed: int) -> GridSearchCV:
    """The size of that network searched for, as usual."""
    name = "transformedtargetregressor__regressor" if regression else "mlpclassifier"
    return GridSearchCV(mlp(regression, seed), {f"{name}__hidden_layer_sizes": HIDDEN}, cv=5)


def trees(regression: bool, seed: int) -> BaseEstimator:
    """Gradient boosting, as it is."""
    kind = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
    return kind(random_state=seed)


def parameters(model: Any) -> int | None:
    """Return the parameters of the network that predicts; None where there is none."""
    if hasattr(model, "size_"):
        return int(model.size_.params)
    last = getattr(model, "best_estimator_", model)
    last = last[-1] if isinstance(last, Pipeline) else last
    last = getattr(last, "regressor_", last)
    weights = [*getattr(last, "coefs_", ()), *getattr(last, "intercepts_", ())]
    return int(sum(np.size(one) for one in weights)) or None


MODELS: Mapping[str, Callable[[bool, int], Any]] = {"growing": growing, "mlp": mlp, "grid": grid, "trees": trees}

if __name__ == "__main__":
    main()
