"""The scikit-learn estimators: what a classifier and a regressor make of labels and targets."""

from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.utils import Tags, assert_all_finite, check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from torch import nn

from outgrow.data.dataset import Task
from outgrow.errors import InputError
from outgrow.integrations.growing import Growing
from outgrow.models.affine import Affine


class GrowingClassifier(ClassifierMixin, Growing):
    """A classifier without `hidden_layer_sizes`: a multilayer perceptron that finds its own size.

    It starts with few units and grows where the natural expansion score says that it pays, within the budget. The
    features are standardized. Every size that it had on the way is finished and kept: `at` picks one.

    Args:
        max_params: At most so many parameters.
        max_flops: At most so many FLOPs for one row.
        max_latency: At most so many seconds for one row.
        max_train_flops: At most so many FLOPs for the whole fit.
        widths: Units of the hidden layers at the start, or a number for one layer.
        epochs: Passes over the rows; as many as show it about 600,000 rows if None, 20 to 80, more for few rows, and
            fewer where the network overfits.
        batch_size: Rows a step; 32 or, of 4,000 rows and more, 128 if None.
        rate: Peak learning rate of AdamW.
        weight_decay: Decay of weights.
        policy: When, where and by how much it grows: a name, or `package.module:Policy`.
        policy_options: Options of the policy by name.
        finish: Whether smaller sizes are finished, too; without, they are as the network had left them.
        validation_fraction: Share of the rows that sizes are compared on.
        missing: What NaN means: `error`, or `median` to fill them with medians and a feature that says where; a missing
            category is one of its own then.
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
        n_iter_: Epochs that it took.
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
        assert_all_finite(y, input_name="y")
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


class GrowingRegressor(RegressorMixin, Growing):
    """A regressor without `hidden_layer_sizes`: a multilayer perceptron that finds its own size.

    For squared errors; targets are standardized, and there may be several. The RMSE of sizes is in the target's unit;
    several targets may have no common one, and theirs is in standard deviations. Its arguments and attributes are those
    of `GrowingClassifier`, `n_outputs_` in place of `classes_`.

    Attributes:
        n_outputs_: How many targets.

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
        standardized = self._target_scaler.transform(targets)
        return torch.from_numpy(standardized * np.array(self._deviations or 1.0)).float()

    @property
    def _deviations(self) -> tuple[float, ...]:
        return tuple(self._target_scaler.scale_.tolist()) if self.n_outputs_ == 1 else ()

    def _in_units(self, net: nn.Module) -> nn.Module:
        scaler = self._target_scaler
        net.add_module("output", Affine(torch.tensor(scaler.scale_).float(), torch.tensor(scaler.mean_).float()))
        return net

    def _classes(self) -> tuple[str, ...]:
        return ()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
