"""How a network is trained while it grows: optimizer, batch size, learning rate over the run."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW

from outgrow.net.newborns import FIRST_RATE
from outgrow.stored import Stored

RATE = 3e-3
NORMED_RATE, NORMED_BATCH, NORMED_STEPS = 2e-2, 128, 1_000  # of networks with BatchNorm, in runs that are as long


@dataclass(frozen=True)
class Recipe:
    """A run of fixed length: a constant rate until some time after the growth, then a decay to zero.

    Args:
        epochs: Passes over the training part.
        batch_size: Examples a step.
        rate: Peak learning rate of AdamW.
        weight_decay: Decay of weights (not of biases and norms).
        smoothing: Share of each class target that is spread over all classes while the network trains, and in checks
            (label smoothing: Szegedy et al., arXiv 1512.00567); not where a network is evaluated.
        warmup: Share of the run in which the rate rises from zero.
        share: Share of the run in which the network grows.
        constant: Share of the run after which the rate falls; not before the growth is over, but for a policy that
            grows the network to its end: then the rate falls in the last 2 % of it.
        events: How many growth events in that time, if there are steps enough.
        early_stopping: Whether the run ends where the network overfits at the constant rate after its growth. Here, and
            where it overfits in the end, the averaged weights of its best epoch are kept, see
            `outgrow.train.overfitting`.
    """

    epochs: int
    batch_size: int
    rate: float = RATE
    weight_decay: float = 1e-2
    smoothing: float = 0.0
    warmup: float = 0.02
    share: float = 0.15
    constant: float = 0.6
    events: int = 8
    early_stopping: bool = False

    @classmethod
    def fit(cls, examples: int, epochs: int | None = None) -> "Recipe":
        """Return the default recipe for a training part: about 1.2 million examples seen, 20 to 100 epochs at most.

        Args:
            examples: Examples of the training part.
            epochs: Passes, if they shall be others; all of them then, without early stopping.

        Examples:
            >>> Recipe.fit(1_300).epochs, Recipe.fit(54_000).epochs
            (100, 22)
        """
        batch = 32 if examples < 4_000 else 64 if examples < 20_000 else 128
        usual = min(max(round(1_200_000 / examples), 20), 100)
        return cls(epochs or usual, min(batch, examples), early_stopping=epochs is None)

    def suiting(self, model: nn.Module, examples: int) -> "Recipe":
        """Return the recipe with the rate that suits a network: 3e-3, but up to 2e-2 where it has BatchNorm.

        Weights in front of a BatchNorm have no scale of their own: steps turn them and make them longer, so that later
        ones turn them less (van Laarhoven, arXiv 1706.05350). There the rate is 2e-2 (b / 128)^1.5 for batches of b
        examples up to 128, in proportion less for runs of under 1,000 steps, in which wide networks would not recover
        from it, and at least 3e-3.

        Args:
            model: The network that is trained.
            examples: Examples of the training part.

        Examples:
            >>> normed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
            >>> [Recipe(20, batch).suiting(normed, 10_000).rate for batch in (32, 128)]
            [0.003, 0.02]
            >>> Recipe(10, 64).suiting(nn.Linear(2, 2), 10_000).rate
            0.003
        """
        if not any(isinstance(module, _BatchNorm) for module in model.modules()):
            return replace(self, rate=RATE)
        large = min(self.batch_size / NORMED_BATCH, 1.0) ** 1.5
        long = min(self.epochs * (examples // self.batch_size) / NORMED_STEPS, 1.0)
        return replace(self, rate=max(NORMED_RATE * large * long, RATE))

    @classmethod
    def from_json(cls, stored: Stored) -> "Recipe":
        """Read the recipe of a run, as config.json has it.

        Args:
            stored: Its fields.

        Returns:
            The recipe.
        """
        values: dict[str, Any] = {name: stored.whole(name, least=1) for name in ("epochs", "batch_size", "events")}
        values |= {name: stored.number(name) for name in ("rate", "weight_decay", "warmup", "share", "constant")}
        values |= {"smoothing": stored.number("smoothing")} if "smoothing" in stored else {}
        return cls(**values, early_stopping="early_stopping" in stored and stored.flag("early_stopping"))

    def holding_until(self, share: float) -> "Recipe":
        """Return the recipe for a policy that lets the network grow until another share of the run, 0 to 1.

        Examples:
            >>> recipe = Recipe(epochs=20, batch_size=32)
            >>> recipe.holding_until(0.1) == recipe, recipe.holding_until(0.9).rate_at(0.9) == recipe.rate
            (True, True)
        """
        return replace(self, constant=max(self.constant, share))

    def rate_at(self, progress: float) -> float:
        """Return the learning rate at a share of the run, 0 to 1: linear warm-up, constant, linear to zero."""
        if progress < self.warmup:
            return self.rate * progress / self.warmup
        start = min(max(self.share, self.constant) + 0.02, 0.98)
        return self.rate * min(1.0, (1 - progress) / (1 - start))

    def optimizer(self, model: nn.Module) -> AdamW:
        """Return AdamW over a model's parameters, fused on CPUs for its speed, with decay on weights alone.

        New scales, shifts and biases start at 3e-3, see `outgrow.net.newborns`: at higher rates their units often die.
        """
        decayed = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": plain, "weight_decay": 0.0, FIRST_RATE: RATE},
        ]
        # on GPUs its counts lie where newborns would wait for them at each step; complex parameters can't be fused
        fused = all(p.is_floating_point() and p.device.type == "cpu" for p in model.parameters())
        return AdamW([group for group in groups if group["params"]], lr=self.rate, fused=fused)
