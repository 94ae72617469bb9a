"""The estimators: outgrow's own run on rows of a table, behind the interface of scikit-learn."""

import copy
import math
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.utils import Tags, check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import nn

from outgrow.data.dataset import Dataset, Split, Task
from outgrow.data.split import FEWEST_EXAMPLES, hold_out
from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.integrations.encoding import has_categories, merged, numbers_of, scaled
from outgrow.models import Factory, Seed, SeedNetwork
from outgrow.registry import policy_of
from outgrow.show.lines import lines
from outgrow.train.branch import Branches
from outgrow.train.evaluate import worth
from outgrow.train.family import Family
from outgrow.train.finish import RESERVED, Finishing, spaced
from outgrow.train.folder import RunFolder
from outgrow.train.recipe import Recipe
from outgrow.train.size import Size
from outgrow.train.sizes import Sizes
from outgrow.train.trainer import Trainer

FEWEST_ROWS = 4  # to judge on two what was found on two
ROWS_SEEN, EPOCHS = 600_000, (20, 40)  # of a run, and its bounds: tables are learned by heart soon
FEWEST_STEPS = 1_000  # of a run on few rows
CHUNK = 4_096  # rows that are predicted at once


class _Kept:
    """Loads a size from memory.

    Args:
        net: Its network.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    def __call__(self, size: Size, seed: Factory | None = None) -> nn.Module:
        return copy.deepcopy(self._net)


class _Continued(SeedNetwork):
    """A network that was trained before, as what a run starts from.

    Args:
        net: The network.
        inputs: Features.
        outputs: Classes or targets.
    """

    def __init__(self, net: nn.Module, inputs: int, outputs: int) -> None:
        self.model, self.inputs, self.outputs = "mlp", (inputs,), outputs
        self.input_mean = self.input_std = self.output_mean = self.output_std = ()
        self._net = net

    @property
    def core_name(self) -> str:
        """What the core is called in the network."""
        return "mlp"

    @property
    def smaller(self) -> str:
        """What to do where the network is too large."""
        return "fit anew, without warm_start"

    def core(self) -> nn.Module:
        """Return a copy of the core."""
        return copy.deepcopy(self._net.get_submodule(self.core_name))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values of the network that it once started from."""
        return Seed("mlp", self.inputs, self.outputs).to_json()


class _Growing(BaseEstimator):
    """What both estimators share."""

    _task: Task

    def __init__(
        self,
        *,
        max_params: int | None = None,
        max_flops: int | None = None,
        max_latency: float | None = None,
        max_train_flops: float | None = None,
        widths: Sequence[int] = (8, 8),
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
            InputError: An argument of the estimator is out of range, or there are fewer than four rows.
            DivergedError: The loss became infinite.
        """
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
        network: SeedNetwork = Seed("mlp", dataset.inputs, dataset.outputs, tuple(self.widths))
        if again:
            network = _Continued(self.family_[self.size_.name].load(), dataset.inputs[0], dataset.outputs)
        self._grow(dataset, network, self._recipe(len(dataset.train)), seed)
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
        other._take(self.family_.choose(**limits, min_accuracy=min_accuracy))
        return other

    @abstractmethod
    def _targets(self, y: Any, again: bool) -> np.ndarray:
        """What merged rows are compared by: class numbers `[n]`, or targets `[n, targets]`."""

    @abstractmethod
    def _learned(self, targets: np.ndarray, weight: np.ndarray, again: bool) -> torch.Tensor:
        """What the network learns: class numbers, or standardized targets."""

    @abstractmethod
    def _classes(self) -> tuple[str, ...]:
        """The names of the classes; empty for regression."""

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
            self._numbers = numbers_of().fit(X)
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
        fit = Recipe.fit(rows)
        batch = fit.batch_size if self.batch_size is None else min(self.batch_size, rows)
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
                print(line, file=sys.stdout, flush=True)

        run: dict[str, Any] = {"seed": seed, "device": self.device, "on_record": tell}
        options = {name: str(value) for name, value in (self.policy_options or {}).items()}
        with tempfile.TemporaryDirectory() as path, torch.random.fork_rng():
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
                policy=policy_of(self.policy, options),
                policy_name=self.policy,
                **run,
            ).run()
            if self.finish:
                branches = Branches(dataset, network, recipe, folder, Finishing(), limit=self.max_train_flops, **run)
                branches.run(spaced(branches.sizes), between=True)
            found = list(Family(folder.path))
            kept = [replace(size, loader=_Kept(size.load())) for size in found]
        self.family_ = Sizes(kept, self._task, dataset.inputs, type(self).__name__)
        self.sizes_ = [size.params for size in self.family_]
        self.history_, self.n_iter_ = records, recipe.epochs
        self._take(max(kept, key=self._merit))

    def _merit(self, size: Size) -> tuple[float, float]:
        """By what the size is chosen that predicts: the metric on the validation part, of equals the loss."""
        loss = size.validation["loss"]
        return worth(self._task, size.validation), -math.inf if loss is None else -loss

    def _take(self, size: Size) -> None:
        """Predict with a size from now on."""
        self.size_, self._net = size, size.load().double()

    def _outputs(self, X: Any) -> torch.Tensor:
        """What the network answers, float64 `[n, outputs]`."""
        check_is_fitted(self)
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


class GrowingClassifier(ClassifierMixin, _Growing):
    """A classifier without `hidden_layer_sizes`: a multilayer perceptron that finds its own size.

    It starts with few units and grows where the natural expansion score says that it pays, within the budget. The
    features are standardized. Every size that it had on the way is finished and kept: `at` picks one.

    Args:
        max_params: At most so many parameters.
        max_flops: At most so many FLOPs for one row.
        max_latency: At most so many seconds for one row.
        max_train_flops: At most so many FLOPs for the whole fit.
        widths: Units of the hidden layers at the start.
        epochs: Passes over the rows; as many as show it about 600,000 rows if None, 20 to 40, more for few rows.
        batch_size: Rows a step; 32, 64 or 128 by the number of rows if None.
        rate: Peak learning rate of AdamW.
        weight_decay: Decay of weights.
        policy: When, where and by how much it grows: a name, or `package.module:Policy`.
        policy_options: Options of the policy by name.
        finish: Whether smaller sizes are finished, too; without, they are as the network had left them.
        validation_fraction: Share of the rows that sizes are compared on.
        missing: What NaN means: `error`, or `median` to fill them with medians and a feature that says where.
        warm_start: Whether `fit` goes on with the network of the last `fit`.
        device: Where to train; predictions are made on the CPU.
        random_state: Seed of everything random.
        verbose: Whether to print a line for each epoch, growth and size.

    Attributes:
        classes_: The classes, `[classes]`.
        family_: All sizes, smallest first, see `outgrow.Family`; their networks take standardized rows.
        sizes_: Their parameters.
        size_: The size that predicts; after `fit` the one that is best on the validation part.
        history_: What happened, records as in a run's journal.
        n_iter_: Epochs.
        n_features_in_: Features of the rows.
        feature_names_in_: Their names, where the rows had some.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> rows, labels = load_iris(return_X_y=True)
        >>> model = GrowingClassifier(max_params=500, random_state=0).fit(rows, labels)
        >>> bool(model.score(rows, labels) > 0.9), max(model.sizes_) <= 500
        (True, True)
        >>> model.at(max_params=250).size_.params <= 250
        True
    """

    _task: Task = "classification"
    classes_: np.ndarray

    def predict(self, X: Any) -> np.ndarray:
        """Return the most likely class of each row, `[n]`."""
        likely = self._outputs(X).argmax(1).numpy()
        return self.classes_[likely]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class for each row, `[n, classes]`."""
        return self._outputs(X).softmax(1).numpy()

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of the probability of each class for each row, `[n, classes]`."""
        return self._outputs(X).log_softmax(1).numpy()

    def _targets(self, y: Any, again: bool) -> np.ndarray:
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        encoder = LabelEncoder().fit(y)
        if again and not set(encoder.classes_) <= set(self.classes_):
            raise InputError("warm_start: expected classes of the last fit, received others; fit without warm_start")
        if not again:
            self.classes_ = encoder.classes_
        return np.searchsorted(self.classes_, y)

    def _learned(self, targets: np.ndarray, weight: np.ndarray, again: bool) -> torch.Tensor:
        return torch.from_numpy(targets).long()

    def _classes(self) -> tuple[str, ...]:
        return tuple(map(str, self.classes_))


class GrowingRegressor(RegressorMixin, _Growing):
    """A regressor without `hidden_layer_sizes`: a multilayer perceptron that finds its own size.

    As `GrowingClassifier`, for squared errors; targets are standardized, and there may be several.

    Args:
        max_params: At most so many parameters.
        max_flops: At most so many FLOPs for one row.
        max_latency: At most so many seconds for one row.
        max_train_flops: At most so many FLOPs for the whole fit.
        widths: Units of the hidden layers at the start.
        epochs: Passes over the rows; as many as show it about 600,000 rows if None, 20 to 40, more for few rows.
        batch_size: Rows a step; 32, 64 or 128 by the number of rows if None.
        rate: Peak learning rate of AdamW.
        weight_decay: Decay of weights.
        policy: When, where and by how much it grows: a name, or `package.module:Policy`.
        policy_options: Options of the policy by name.
        finish: Whether smaller sizes are finished, too; without, they are as the network had left them.
        validation_fraction: Share of the rows that sizes are compared on.
        missing: What NaN means: `error`, or `median` to fill them with medians and a feature that says where.
        warm_start: Whether `fit` goes on with the network of the last `fit`.
        device: Where to train; predictions are made on the CPU.
        random_state: Seed of everything random.
        verbose: Whether to print a line for each epoch, growth and size.

    Attributes:
        n_outputs_: Targets.
        family_: All sizes, smallest first, see `outgrow.Family`; their networks take and give what is standardized.
        sizes_: Their parameters.
        size_: The size that predicts; after `fit` the one that is best on the validation part.
        history_: What happened, records as in a run's journal.
        n_iter_: Epochs.
        n_features_in_: Features of the rows.
        feature_names_in_: Their names, where the rows had some.

    Examples:
        >>> from sklearn.datasets import load_diabetes
        >>> rows, targets = load_diabetes(return_X_y=True)
        >>> model = GrowingRegressor(max_params=500, random_state=0).fit(rows, targets)
        >>> bool(model.score(rows, targets) > 0.4), max(model.sizes_) <= 500
        (True, True)
    """

    _task: Task = "regression"
    n_outputs_: int

    def predict(self, X: Any) -> np.ndarray:
        """Return the targets of each row, `[n]`, or `[n, targets]` where it was fitted to that."""
        answers = self._outputs(X).numpy()
        found = self._target_scaler.inverse_transform(answers)
        return found[:, 0] if self._flat else found

    def _targets(self, y: Any, again: bool) -> np.ndarray:
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        flat, y = y.ndim == 1, y.reshape(len(y), -1)
        if again and y.shape[1] != self.n_outputs_:
            raise InputError(
                f"warm_start: expected {self.n_outputs_} targets as in the last fit, received {y.shape[1]}"
            )
        self._flat, self.n_outputs_ = flat, y.shape[1]
        return y

    def _learned(self, targets: np.ndarray, weight: np.ndarray, again: bool) -> torch.Tensor:
        if not again:
            self._target_scaler = StandardScaler().fit(targets, sample_weight=weight)
        return torch.from_numpy(self._target_scaler.transform(targets)).float()

    def _classes(self) -> tuple[str, ...]:
        return ()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
