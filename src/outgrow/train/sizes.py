"""Several sizes of one network, and how to choose and load one."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from outgrow.errors import InputError
from outgrow.grow.budget import Budget
from outgrow.models import Factory
from outgrow.net.latency import latency
from outgrow.pareto import pareto
from outgrow.train.evaluate import METRICS, worth
from outgrow.train.limits import Limit, at_least_accuracy, at_most_flops, at_most_latency, at_most_params, within
from outgrow.train.size import Size
from outgrow.train.table import table


class Sizes:
    """Sizes of a network, smallest first: iterate over them, index them by name, choose and load one.

    Args:
        sizes: The sizes; no name is there twice.
        task: `classification` or `regression`.
        inputs: Shape of one example.
        where: What messages call them.

    Attributes:
        task: `classification` or `regression`.
        metric: What sizes are compared by on the validation part: `accuracy`, or `rmse`.
        inputs: Shape of one example.
    """

    def __init__(self, sizes: Iterable[Size], task: str, inputs: tuple[int, ...], where: str) -> None:
        self.task, self.metric, self.inputs, self._where = task, METRICS[task], inputs, where
        self._sizes = {size.name: size for size in sizes}
        self._seconds: dict[str, float] = {}  # of one forward pass, by the name of the size

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[Size]:
        return iter(sorted(self._sizes.values(), key=lambda size: size.params))

    def __getitem__(self, name: str) -> Size:
        if name not in self._sizes:
            raise InputError(f"{self._where} has no size {name!r}: it has {', '.join(self._sizes) or 'none'}")
        return self._sizes[name]

    def __repr__(self) -> str:
        if not self._sizes:
            return f"{type(self).__name__}({self._where!r}: no sizes)"
        first, *_, last = [size.params for size in self] * 2
        told = f"{self.task}, {len(self)} sizes of {first:,} to {last:,} parameters"
        return f"{type(self).__name__}({self._where!r}: {told})"

    def pareto(self) -> list[Size]:
        """Return the sizes that no smaller one is as good as on the validation part, smallest first."""
        return pareto(self, lambda size: size.params, self._worth)

    def table(self) -> str:
        """Return the family as a table in plain text, which is Markdown, too."""
        return table(list(self), self.metric)

    def choose(
        self,
        *,
        max_params: int | None = None,
        max_flops: int | None = None,
        max_latency: float | None = None,
        min_accuracy: float | None = None,
        seed: Factory | None = None,
    ) -> Size:
        """Return the best size on the validation part within some limits, of equals the smallest.

        With `min_accuracy` it is the smallest within them.

        Args:
            max_params: At most so many parameters.
            max_flops: At most so many FLOPs for one example.
            max_latency: At most so many seconds for one example, measured here and now (CPU, the threads that are set):
                of the sizes within the other limits, the preferred first, until one is fast enough.
            min_accuracy: At least this validation accuracy, 0 to 1.
            seed: As for `load`; needed to measure a latency.

        Returns:
            The size.

        Raises:
            InputError: No size is within the limits (the one that comes closest is named), or a limit is no limit.
        """
        Budget(max_params, max_flops, max_latency)  # says what is no limit
        limits = [at_most_params(max_params)] if max_params is not None else []
        limits += [at_most_flops(max_flops)] if max_flops is not None else []
        limits += [self._accuracy(min_accuracy)] if min_accuracy is not None else []
        if not self._sizes:
            raise InputError(f"{self._where} has not saved a size yet")
        fits = within(list(self), limits, self._where)
        fits.sort(key=self._cost_first if min_accuracy is not None else self._worth_first)
        if max_latency is None:
            return fits[0]
        limit = at_most_latency(max_latency, lambda size: self._latency(size, seed))
        fast = next((size for size in fits if limit.excess(size) <= 0), None)
        return fast or within(fits, [*limits, limit], self._where)[0]

    def load(
        self,
        *,
        max_params: int | None = None,
        max_flops: int | None = None,
        max_latency: float | None = None,
        min_accuracy: float | None = None,
        seed: Factory | None = None,
    ) -> nn.Module:
        """Load the best size on the validation part within some limits.

        Args:
            max_params: As for `choose`.
            max_flops: As for `choose`.
            max_latency: As for `choose` [seconds].
            min_accuracy: As for `choose`.
            seed: What makes the seed network of a run with `--model package.module:factory`: the factory, its name, or
                a network that it made. A file names it, but no module is imported for that.

        Returns:
            The network in eval mode, on the CPU. It takes images scaled to 0..1, or table rows as encoded, and gives
            logits, or predictions in the target's own units.

        Raises:
            InputError: No size is within the limits, or its file is missing or damaged, or the code of the seed network
                is missing or has changed.
        """
        limits: dict[str, Any] = {"max_params": max_params, "max_flops": max_flops, "max_latency": max_latency}
        return self.choose(**limits, min_accuracy=min_accuracy, seed=seed).load(seed)

    def _worth(self, size: Size) -> float:
        return worth(self.task, size.validation)

    def _worth_first(self, size: Size) -> tuple[float, float]:
        return -self._worth(size), size.params

    def _cost_first(self, size: Size) -> tuple[float, float]:
        return size.params, -self._worth(size)

    def _accuracy(self, least: float) -> Limit:
        if self.task != "classification":
            raise InputError(f"{self._where} is a regression: it has no accuracy to ask for")
        if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
            raise InputError(f"expected min_accuracy as a number from 0 to 1, received {least!r}")
        return at_least_accuracy(least)

    def _latency(self, size: Size, seed: Factory | None) -> float:
        if size.name not in self._seconds:
            self._seconds[size.name] = latency(size.load(seed), torch.zeros(1, *self.inputs))
        return self._seconds[size.name]
