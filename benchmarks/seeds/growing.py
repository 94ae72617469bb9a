"""A run that grows, as the experiments make it, and what a line tells of it."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from grow import commit, hardware

from outgrow.data import Dataset
from outgrow.grow.budget import Budget
from outgrow.models import SeedNetwork
from outgrow.registry import Maker, policy_of
from outgrow.train.branch import Branches
from outgrow.train.evaluate import evaluate, loss_of
from outgrow.train.finish import RESERVED, wanted
from outgrow.train.folder import RunFolder
from outgrow.train.loaders import Loaders
from outgrow.train.recipe import Recipe
from outgrow.train.trainer import Trainer
from outgrow.values import settings

KEPT = ("name", "finished", "params", "flops", "axes", "epoch", "validation", "test", "train_flops", "seconds")
SPENT = ("train_flops", "check_flops", "seconds", "check_seconds", "joules")


@dataclass(frozen=True)
class At:
    """Where runs find their data, and what they run on.

    Args:
        data: Folder of the data sets.
        device: Where to train.
        workers: How many runs there are at a time, which share time and energy.
        threads: Of each.
        keep: Folder in which run folders are kept, where an experiment can; None for not.
    """

    data: str
    device: str = "cpu"
    workers: int = 1
    threads: int = 1
    keep: Path | None = None

    def kept(self, name: str) -> Path | None:
        """Where a run folder is kept."""
        return self.keep and self.keep / name

    def made(self) -> dict[str, Any]:
        """What a line was measured with."""
        device = torch.cuda.get_device_name() if self.device.startswith("cuda") else self.device
        about = {"torch": torch.__version__, "commit": commit(), "hardware": hardware()}
        return {"device": device, "workers": self.workers, "threads": self.threads, **about}


def grown(
    data: Dataset,
    network: SeedNetwork,
    recipe: Recipe,
    policy: str,
    seed: int,
    device: str = "cpu",
    precision: str = "fp32",
    *,
    max_params: int | None = None,
    sizes: Sequence[int] = (),
    watched: bool = False,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Let a network grow.

    Args:
        data: What to learn.
        network: The seed network.
        recipe: How to train it.
        policy: Its name, options behind commas.
        seed: Of everything random.
        device: Where to train.
        precision: In which precision.
        max_params: Budget.
        sizes: Sizes to stop at, each of which gets a branch then [parameters].
        watched: Whether to look at the test part after every epoch, as SECNN did.
        keep: The run folder; one that is deleted afterwards if None.

    Returns:
        The `sizes` that it left, their `total`, how many `growths` of each kind, and, if watched, the `curve`: epoch,
        parameters and test accuracy.
    """
    curve: list[tuple[float, int, float]] = []
    growths: Counter[str] = Counter()

    def hear(record: Mapping[str, Any]) -> None:
        growths.update(growth["kind"] for growth in record.get("growths", ()))
        if watched and record.get("record") == "epoch":
            curve.append((record["epoch"], record["params"], seen(trainer, data, recipe)))

    with tempfile.TemporaryDirectory() as path:
        out = RunFolder(keep or Path(path) / "run")
        out.claim(overwrite=keep is not None)
        trainer = Trainer(
            data,
            network,
            recipe,
            out,
            budget=Budget(max_params=max_params),
            reserved=RESERVED if sizes else 0.0,
            sizes=sizes,
            seed=seed,
            device=device,
            precision=precision,
            policy=policy_named(policy),
            policy_name=policy,
            on_record=hear,
        )
        family = trainer.run()
        if sizes:
            branches = Branches(data, network, recipe, out, seed=seed, device=device, precision=precision)
            family = branches.run(wanted(branches.sizes, sizes))
    return {
        "sizes": [{key: entry[key] for key in KEPT if key in entry} for entry in family["sizes"]],
        "total": {key: family["total"][key] for key in SPENT if key in family["total"]},
        "growths": dict(growths),
        **({"curve": curve} if watched else {}),
    }


def seen(trainer: Trainer, data: Dataset, recipe: Recipe) -> float:
    """Test accuracy of the network as it is, not of its averages."""
    assert data.test is not None
    test = Loaders(data, recipe, 0, trainer.device).in_order(data.test)
    return evaluate(trainer.model, test, loss_of(data), data.task)["accuracy"]


def policy_named(row: str) -> Maker:
    """What makes the policy of a row: its name, options behind commas."""
    name, *words = row.split(",")
    return policy_of(name, settings(tuple(words), "the policy"))


def newest(lines: Sequence[Mapping]) -> list[Mapping]:
    """The lines of the newest setup, in the order of their seeds."""
    kept = [line for line in lines if line["setup"] == lines[-1]["setup"]]
    return sorted(kept, key=lambda line: line["seed"])


def percent(size: Mapping) -> float:
    """Test accuracy [%]."""
    return 100 * size["test"]["accuracy"]
