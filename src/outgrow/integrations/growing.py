"""What the estimators share: outgrow's own run on rows of a table, behind the interface of scikit-learn."""

import copy
import math
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import nn

from outgrow.data.dataset import Dataset, Split, Task
from outgrow.data.split import FEWEST_EXAMPLES, hold_out
from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.integrations.arguments import plain
from outgrow.integrations.encoding import as_numbers, demand_readable, has_categories, merged, scaled
from outgrow.integrations.kept import Continued, Kept
from outgrow.models import Seed, SeedNetwork
from outgrow.registry import policy_of
from outgrow.show.lines import lines
from outgrow.show.record import of_kind
from outgrow.train.branch import Branches
from outgrow.train.evaluate import merit
from outgrow.train.family import Family
from outgrow.train.finish import RESERVED, Finishing, spaced
from outgrow.train.folder import RunFolder
from outgrow.train.recipe import Recipe
from outgrow.train.size import Size
from outgrow.train.sizes import Sizes
from outgrow.train.trainer import Trainer

FEWEST_ROWS = 4  # to judge on two what was found on two
ROWS_SEEN, EPOCHS = 600_000, (20, 80)  # of a run, and its bounds: tables are learned by heart soon
MANY_ROWS, BATCH = 4_000, 128  # from where on batches are larger: a small network's step hardly takes longer for it
FEWEST_STEPS = 1_000  # of a run on few rows
CHUNK = 4_096  # rows that are predicted at once


class Growing(BaseEstimator):
    """What both estimators share; `GrowingClassifier` tells the arguments."""

    _task: Task

    def __init__(
        self,
        *,
        max_params: int | None = None,
        max_flops: int | None = None,
        max_latency: float | None = None,
        max_train_flops: float | None = None,
        widths: int | Sequence[int] = (8, 8),
        epochs: int | None = None,
        batch_size: int | None = None,
        rate: float = 3e-3,
        weight_decay: float = 0.1,
        policy: str = "outgrow",
        policy_options: Mapping[str, Any] | None = None,
        finish: bool = True,
        validation_fraction: float = 0.1,
        missing: str = "error",
        warm_start: bool = False,
        device: str = "cpu",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.max_params, self.max_flops, self.max_latency = max_params, max_flops, max_latency
        self.max_train_flops, self.widths, self.epochs, self.batch_size = max_train_flops, widths, epochs, batch_size
        self.rate, self.weight_decay = rate, weight_decay
        self.policy, self.policy_options, self.finish = policy, policy_options, finish
        self.validation_fraction, self.missing, self.warm_start = validation_fraction, missing, warm_start
        self.device, self.random_state, self.verbose = device, random_state, verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Let a network grow on some rows.

        Args:
            X: Rows `[n, features]`: an array of numbers, or a DataFrame, whose categories, text and booleans become a
                feature for each value.
            y: Labels `[n]`, or targets `[n]` or `[n, targets]`.
            sample_weight: Weights `[n]`, none below zero; a row of weight two is the same as two rows.

        Returns:
            The estimator.

        Raises:
            InputError: An argument of the estimator is out of range, a column can't be read, or there are fewer than
                four rows.
            DivergedError: The loss became infinite.
        """
        learner = copy.copy(self).set_params(**plain(self.get_params(deep=False)))
        learner._fit(X, y, sample_weight)
        self.__dict__ = {**vars(learner), **self.get_params(deep=False)}  # a fit that fails leaves all as it was
        return self

    def at(
        self,
        *,
        max_params: int | None = None,
        max_flops: int | None = None,
        max_latency: float | None = None,
        min_accuracy: float | None = None,
    ) -> Self:
        """Return the fitted estimator with another size of its network, which predicts at once.

        Args:
            max_params: At most so many parameters.
            max_flops: At most so many FLOPs for one row.
            max_latency: At most so many seconds for one row, measured here and now.
            min_accuracy: At least this validation accuracy, 0 to 1; the smallest such size is taken.

        Returns:
            A copy that shares everything else. Of the sizes within the limits it has the one that is best on the
            validation part.

        Raises:
            InputError: No size is within the limits; the one that comes closest is named.
        """
        check_is_fitted(self)
        limits: dict[str, Any] = {"max_params": max_params, "max_flops": max_flops, "max_latency": max_latency}
        other = copy.copy(self)
        other._take(self.family_.choose(**plain({**limits, "min_accuracy": min_accuracy})))
        return other

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> None:
        """Fit, with arguments that are plain."""
        self._demand_sensible()
        again = self.warm_start and hasattr(self, "family_")
        rows, y = self._rows(X, y, again)
        weight = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        targets = self._targets(y, again)
        rows, targets, weight = merged(rows, targets, weight)
        if len(rows) < FEWEST_ROWS:
            raise InputError(
                f"expected at least {FEWEST_ROWS} rows that differ, received n_samples={len(rows)} of them"
            )
        if not again:
            self._scaler = scaled(self.missing).fit(rows, standardscaler__sample_weight=weight)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        dataset = self._dataset(self._scaler.transform(rows), self._learned(targets, weight, again), weight, seed)
        if not again:
            self._seed = Seed("mlp", dataset.inputs, dataset.outputs, cast(tuple[int, ...], self.widths))
        start = replace(self._seed, output_std=self._deviations)
        network = Continued(start, self.size_.load()) if again else start
        self._grow(dataset, network, self._recipe(len(dataset.train)), seed)

    @abstractmethod
    def _targets(self, y: Any, again: bool) -> np.ndarray:
        """What merged rows are compared by: class numbers `[n]`, or targets `[n, targets]`."""

    @abstractmethod
    def _learned(self, targets: np.ndarray, weight: np.ndarray, again: bool) -> torch.Tensor:
        """What the network learns: class numbers, or targets less their means, in the units of `_deviations`."""

    @abstractmethod
    def _classes(self) -> tuple[str, ...]:
        """The names of the classes; empty for regression."""

    @property
    def _deviations(self) -> tuple[float, ...]:
        """The standard deviations of what the network learns; empty for 1, and for classes."""
        return ()

    def _in_units(self, net: nn.Module) -> nn.Module:
        """What a run made of the network, as one that answers in the user's own units."""
        return net

    def _demand_sensible(self) -> None:
        if self.missing not in ("error", "median"):
            raise InputError(f"missing: expected 'error' or 'median', received {self.missing!r}")
        if not 0 < self.validation_fraction < 1:
            raise InputError(f"validation_fraction: expected a share from 0 to 1, received {self.validation_fraction}")
        for name in ("epochs", "batch_size", "rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name}: expected more than 0, received {value}")

    def _rows(self, X: Any, y: Any, again: bool) -> tuple[np.ndarray, Any]:
        """Checked rows as numbers, float64 `[n, columns]`, and targets that are as many."""
        demand_readable(X, self.missing)
        told: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": self._finite}
        own: dict[str, Any] = {"multi_output": True, "y_numeric": False} if self._task == "regression" else {}
        if not has_categories(X):
            if not again:
                self._numbers = None
            rows, y = validate_data(self, X, y, reset=not again, **told, **own)
            return rows, y
        validate_data(self, X, reset=not again, skip_check_array=True)
        check_consistent_length(X, y)
        if not again:
            self._numbers = as_numbers().fit(X)
        return self._encoded(X), y

    def _encoded(self, X: Any) -> np.ndarray:
        """Rows of a table with categories as numbers."""
        assert self._numbers is not None
        return check_array(self._numbers.transform(X), dtype=np.float64, ensure_all_finite=self._finite)

    @property
    def _finite(self) -> bool | str:
        return "allow-nan" if self.missing == "median" else True

    def _dataset(self, rows: np.ndarray, y: torch.Tensor, weight: np.ndarray, seed: int) -> Dataset:
        x = torch.from_numpy(np.ascontiguousarray(rows)).float()
        whole = Split(x, y, None if (weight == weight[0]).all() else torch.from_numpy(weight))
        train = validation = torch.arange(len(x))
        if len(x) >= FEWEST_EXAMPLES and (self._task == "regression" or int(y.bincount().max()) > 1):
            train, validation = hold_out(y, self._task, self.validation_fraction, (seed,), "y")
        parts = whole.part(train), whole.part(validation)
        return Dataset("rows", self._task, *parts, None, self._classes(), False, {})

    def _recipe(self, rows: int) -> Recipe:
        fit = Recipe.fit(rows, self.epochs)
        usual_batch = BATCH if rows >= MANY_ROWS else fit.batch_size
        batch = min(self.batch_size or usual_batch, rows)
        epochs = self.epochs
        if epochs is None:
            usual = min(max(round(ROWS_SEEN / rows), EPOCHS[0]), EPOCHS[1])
            epochs = max(usual, math.ceil(FEWEST_STEPS / max(rows // batch, 1)))
        return replace(fit, epochs=epochs, batch_size=batch, rate=self.rate, weight_decay=self.weight_decay)

    def _grow(self, dataset: Dataset, network: SeedNetwork, recipe: Recipe, seed: int) -> None:
        records: list[Mapping[str, Any]] = []

        def tell(record: Mapping[str, Any]) -> None:
            records.append(record)
            for line in lines(record, records[0]) if self.verbose else ():
                print(line, flush=True)

        run: dict[str, Any] = {"seed": seed, "device": self.device, "on_record": tell}
        with tempfile.TemporaryDirectory() as path, torch.random.fork_rng(_reseeded(self.device)):
            folder = RunFolder(path)
            folder.claim(overwrite=False)
            folder.write_json("config.json", {"format": 1, "seed_network": network.to_json()})
            Trainer(
                dataset,
                network,
                recipe,
                folder,
                budget=Budget(self.max_params, self.max_flops, self.max_latency),
                max_train_flops=self.max_train_flops,
                reserved=RESERVED if self.finish else 0.0,
                policy=policy_of(self.policy, self.policy_options or {}),
                policy_name=self.policy,
                **run,
            ).run()
            if self.finish:
                branches = Branches(dataset, network, recipe, folder, Finishing(), limit=self.max_train_flops, **run)
                branches.run(spaced(branches.sizes), between=True)
            found = list(Family(folder.path))
            kept = [replace(size, loader=Kept(self._in_units(size.load()))) for size in found]
        self.family_ = Sizes(kept, self._task, dataset.inputs, type(self).__name__)
        self.sizes_ = [size.params for size in self.family_]
        self.history_, self.n_iter_ = records, len(of_kind(records, "epoch"))
        self._take(max(kept, key=self._merit))

    def _merit(self, size: Size) -> tuple[float, float]:
        """By what the size is chosen that predicts: the metric on the validation part, of equals the loss."""
        return merit(self._task, size.validation)

    def _take(self, size: Size) -> None:
        """Predict with a size from now on."""
        self.size_, self._net = size, cast(nn.Sequential, size.load().double())[:2]  # to standardized targets

    def _outputs(self, X: Any) -> torch.Tensor:
        """What the network answers, float64 `[n, outputs]`."""
        check_is_fitted(self)
        demand_readable(X, self.missing)
        if self._numbers is None:
            rows = validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite=self._finite)
        else:
            validate_data(self, X, reset=False, skip_check_array=True)
            rows = self._encoded(X)
        x = torch.from_numpy(np.ascontiguousarray(self._scaler.transform(rows), dtype=np.float64))
        with torch.no_grad():
            return torch.cat([self._net(part) for part in x.split(CHUNK)])

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "median"
        return tags


def _reseeded(device: str) -> list[int]:
    """The numbers of the GPUs whose chance a run seeds: all where it is trained on one, else none."""
    return [*range(torch.cuda.device_count())] if torch.device(device).type == "cuda" else []
