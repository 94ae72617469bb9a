"""Is a gain what comes? Promised against realised drops, and what a further epoch of training makes of a growth.

    python benchmarks/calibration.py --data DIR --seeds 0 1 2
    python benchmarks/tables.py

A network grows by one axis at an event, drawn at random, by a share of its units that is drawn as well. At each event
all axes are on trial. Up to BRANCHES of them are drawn; each is grown in a copy of the network, optimizer included, and
trained for an epoch, and so is a twin that does not grow, on the same batches. The first copy goes on from there.
A line a growth goes to results/calibration.jsonl:

- `gain`, `realised`: promised, and measured on the same part B;
- `fresh`: the drop on a third part that neither chose nor judged;
- `loss`, `loss_twin`, `loss_grown`: of averaged weights before, and an epoch later, on held-out examples and on
  training examples without augmentation.

DIR holds the data sets in the layouts that people have: FashionMNIST/raw, cifar-10-batches-bin, tabular/NAME.csv.
"""

import argparse
import copy
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from grow import commit, hardware
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from outgrow.data import Batches, Dataset, Split, load
from outgrow.grow.curvature import Loss
from outgrow.grow.objective import OutputLoss
from outgrow.grow.sample import chunk_of, draw
from outgrow.grow.setup import Setup
from outgrow.grow.trial import can_try
from outgrow.grow.unit_panel import UnitPanel
from outgrow.models import Seed
from outgrow.net.axes import axes
from outgrow.net.cost import flops_by_weight, parameters
from outgrow.net.widen import apply_
from outgrow.train.evaluate import StandardizedMSE, evaluate
from outgrow.train.recipe import Recipe

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "calibration.jsonl"
BRANCHES = 3
EVENTS = 14
HELD_OUT = 5_000
SHARES = (0.15, 0.3, 0.6)  # of an axis's units, of which one is drawn for a growth


@dataclass(frozen=True)
class Case:
    """A data set, a seed network, and how many examples an epoch and a part of a check have here."""

    data: str
    model: str
    widths: tuple[int, ...]
    examples: int
    sample: int
    target: str | None = None


CASES = {
    "digits": Case("digits", "convnet", (4, 4, 8, 8), 2_000, 400),
    "fashion-mnist-mlp": Case("DIR/FashionMNIST", "mlp", (6, 6, 6), 16_000, 2_048),
    "fashion-mnist-convnet": Case("DIR/FashionMNIST", "convnet", (4, 4, 8, 8), 6_000, 1_024),
    "cifar10-resnet": Case("DIR/cifar-10-batches-bin", "resnet", (4, 8, 16), 4_000, 768),
    "adult": Case("DIR/tabular/adult_train.csv", "mlp", (6, 6), 20_000, 4_096, "target"),
    "california": Case("DIR/tabular/california_housing.csv", "mlp", (6, 6), 12_000, 4_096, "target"),
}


@dataclass
class Runner:
    """What is trained: a network and its optimizer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def copied(self) -> "Runner":
        """The same once more, state of the optimizer included."""
        return copy.deepcopy(self)

    def train(self, batches: Batches, loss: Loss, rate: float) -> nn.Module:
        """Train for one epoch; return averaged weights."""
        average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.98), use_buffers=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        for x, y in batches:
            self.optimizer.zero_grad(set_to_none=True)
            loss(self.model(x), y).backward()
            self.optimizer.step()
            average.update_parameters(self.model)
        return average.module


def main() -> None:
    """Run the cases and seeds that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--proposal", default="random")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.cases:
        for seed in options.seeds:
            with open(options.out, "a") as results:
                for record in run(name, seed, options.data, options.proposal):
                    results.write(json.dumps(record) + "\n")
                    results.flush()


def run(name: str, seed: int, folder: str, proposal: str) -> Iterator[dict]:
    """Grow one network, event after event; yield a record a growth."""
    case = CASES[name]
    data = load(case.data.replace("DIR", folder), target=case.target, seed=seed)
    torch.manual_seed(seed)
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    loss, network, recipe = loss_of(data), seed_network(case, data), Recipe.fit(case.examples)
    train = Split(data.train.x[: case.examples], data.train.y[: case.examples])
    parts = {"held_out": data.validation, "train": train}
    batches = Batches(train, recipe.batch_size, shuffle=True, augment=data.augment, drop_last=True, generator=generator)
    plain = Batches(train, 256, shuffle=True, generator=generator)
    model = network.build()
    runner = Runner(model, recipe.optimizer(model))

    def losses(net: nn.Module) -> dict[str, float]:
        small = {key: Split(part.x[:HELD_OUT], part.y[:HELD_OUT]) for key, part in parts.items()}
        return {key: evaluate(net, Batches(part, 512), loss, data.task)["loss"] for key, part in small.items()}

    before = losses(runner.train(batches, loss, recipe.rate))
    for event in range(1, EVENTS + 1):
        started = time.perf_counter()
        found = axes(runner.model, network.example())
        units = {
            axis: max(1, round(axis.size * choose.choice(SHARES))) for axis in found if not can_try(runner.model, axis)
        }
        counts = flops_by_weight(runner.model, network.example())
        chunk = chunk_of(sum(counts.values()))
        sample = draw(plain, case.sample, torch.device("cpu"), chunk)
        fresh = draw(plain, case.sample, torch.device("cpu"), chunk).b
        setup = Setup(
            runner.model,
            found,
            (),
            counts,
            sample,
            OutputLoss(loss),
            network.example(),
            generator,
            proposal=proposal,
        )
        panel = UnitPanel(setup, units)
        check_seconds = time.perf_counter() - started
        state, kept, after = generator.get_state(), None, None
        started = time.perf_counter()
        twin = losses(runner.copied().train(batches, loss, recipe.rate))
        epoch_seconds = time.perf_counter() - started
        for axis in choose.sample(list(units), min(BRANCHES, len(units))):
            ((one,), _) = panel.chosen({axis.name: units[axis]})
            branch = runner.copied()
            apply_(branch.model, found, [one.widening], inputs=sample.b[0].inputs[:32], optimizer=branch.optimizer)
            generator.set_state(state)
            grown = losses(branch.train(batches, loss, recipe.rate))
            kept, after = (branch, grown) if kept is None else (kept, after)
            place = [candidate.where for candidate in panel.candidates].index(axis.name)
            yield {
                "case": name,
                "seed": seed,
                "event": event,
                "proposal": proposal,
                "params_before": parameters(runner.model),
                "size": axis.size,
                "gain_now": panel.present.gain,
                **{key: value for key, value in asdict(panel.candidates[place]).items() if key != "diagonal"},
                "alone": panel.judgement.alone(place + 1).gain,
                "fresh": panel.drop(axis.name, fresh),
                "loss": before,
                "loss_twin": twin,
                "loss_grown": grown,
                "check_seconds": round(check_seconds, 3),
                "epoch_seconds": round(epoch_seconds, 3),
                "commit": commit(),
                "hardware": hardware(),
                "torch": torch.__version__,
            }
        runner, before = kept, after
        print(f"{name} seed {seed} event {event}: {parameters(runner.model):,} parameters, {before}", flush=True)


def loss_of(data: Dataset) -> Loss:
    """Cross-entropy, or the squared error in units of the target's variance."""
    return F.cross_entropy if data.task == "classification" else StandardizedMSE(data.target_statistics()[1])


def seed_network(case: Case, data: Dataset) -> Seed:
    """The seed network, standardizing what it reads."""
    constants = [*data.input_statistics()]
    if data.task == "regression":
        constants += data.target_statistics()
    return Seed(case.model, data.inputs, data.outputs, case.widths, *(tuple(t.tolist()) for t in constants))


if __name__ == "__main__":
    main()
