"""A network trained by itself, from scratch, as it is."""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from outgrow.data import Dataset
from outgrow.grow.event import Candidate
from outgrow.grow.policy import Decision, Plan, Present, Situation
from outgrow.models import SeedNetwork
from outgrow.train.folder import RunFolder
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import Trainer

SPENT = ("train_flops", "seconds", "joules")
"""What a training takes."""


class Never:
    """A policy that never looks: the network stays as it is."""

    def propose(self, now: Situation) -> Plan | None:
        """Return None: it is never time."""
        return None

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return that nothing is added."""
        return Decision({}, "training from scratch")


def train_alone(
    dataset: Dataset,
    network: SeedNetwork,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    precision: str = "fp32",
    compiled: bool = False,
    on_step: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
    """Train a network from scratch, as it is: averaged weights and BatchNorm statistics as in a run that grows.

    Args:
        dataset: What to learn.
        network: The network.
        recipe: How to train it.
        seed: Seed of everything random.
        device: Where to train.
        precision: In which precision to train; see `Stepper`.
        compiled: Whether to compile the training steps.
        on_step: Called with the number of steps done.

    Returns:
        What compare.json holds of it: `params`, `flops`, `epochs` (at most, where the recipe has early stopping),
        `validation`, `test`, `train_flops`, `seconds` and `joules`.
    """
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(path)
        folder.claim(overwrite=False)
        trainer = Trainer(
            dataset,
            network,
            recipe,
            folder,
            policy=lambda table: Never(),
            policy_name="none",
            seed=seed,
            device=device,
            precision=precision,
            compiled=compiled,
            on_step=on_step,
        )
        family = trainer.run()
    last = family["sizes"][-1]
    told = {key: last[key] for key in ("params", "flops", "validation", "test")}
    return {**told, "epochs": recipe.epochs, **{key: family["total"][key] for key in SPENT}}
