"""The null test: where there is nothing to learn, how often does a proposal claim a gain?

    python benchmarks/null.py --data DIR                # all cases
    python benchmarks/null.py digits-mlp --quick        # a look whether it runs

Small networks are trained on shuffled labels until their loss has converged. Then many proposals are judged, without
growing, on three kinds of examples:

- `training`: those of the training, as a user's check reads them;
- `fresh`: examples that training did not see, with labels that are shuffled anew for each check. A network that has
  learned noise can be improved on them, by taking some of it back, so not every gain is false here;
- `own`: the same, with labels drawn from the network's own answer, which nothing predicts better. This is the exact
  null: the slope of every proposal has mean 0.

The gain is s^2 / 2c for a slope s > 0, so its first-order standard error is 2 gain se(s) / s, and with z = s / se(s)

    gain - 2 se > 0   means z > 4: once in 31,600 proposals under the null,
    gain - se > 0     means z > 2: 2.3 %.

Proposals of one check share its examples, and checks of one network share that: the effective number of proposals is
n / (1 + (m - 1) r), r the correlation of z within groups of m (the smaller one of both groupings). DIR holds
FashionMNIST/raw and tabular/california_housing.csv; without --data only digits are used. Each line of
results/null.jsonl is written as it comes, and what is there for this commit is not run again.
"""

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from grow import commit, hardware
from rates import effective_number, upper_limit
from scipy import stats
from torch import Tensor, nn

from outgrow.data import load
from outgrow.grow.event import Candidate
from outgrow.grow.objective import Expansion, OutputLoss
from outgrow.grow.policy import Decision, Plan, Present, Situation
from outgrow.grow.proposals import NAMES
from outgrow.models import Seed
from outgrow.train.grower import Grower

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "null.jsonl"

EXPECTED = {"over two": float(stats.norm.sf(4)), "over one": float(stats.norm.sf(2)), "positive": 0.5}
ON = ("training", "fresh", "own")


@dataclass(frozen=True)
class Case:
    """A network and its data.

    Args:
        data: `digits`, or a path below DIR.
        model: As `Seed` names it.
        widths: Its widths.
        examples: How many train it; as many others are fresh.
        epochs: Passes over them; the rate falls to zero.
        pool: Images are averaged over squares of this side first.
        target: Column of a table that is predicted.
    """

    data: str
    model: str
    widths: tuple[int, ...]
    examples: int
    epochs: int
    pool: int = 1
    target: str | None = None


CASES = {
    "digits-mlp": Case("digits", "mlp", (8, 8), 890, 200),
    "digits-convnet": Case("digits", "convnet", (4, 4, 8, 8), 890, 120),
    "fashion-convnet": Case("FashionMNIST", "convnet", (4, 4, 8, 8), 4000, 40, pool=2),
    "california-mlp": Case("tabular/california_housing.csv", "mlp", (8, 8), 4000, 60, target="target"),
}


class Always:
    """A policy that puts a quarter more units on trial on every axis, and never grows."""

    def propose(self, now: Situation) -> Plan:
        """Return the units to try."""
        return Plan({axis: -(-size // 4) for axis, size in now.sizes.items()}, "always")

    def decide(self, now: Situation, candidates: Sequence[Candidate], present: Present) -> Decision:
        """Return no units."""
        return Decision({}, "never")


@dataclass(frozen=True)
class Trained:
    """A network whose loss has converged on shuffled labels, and examples of both kinds."""

    seed: Seed
    model: nn.Module
    training: tuple[Tensor, Tensor]
    fresh: tuple[Tensor, Tensor]
    losses: list[float]


@dataclass(frozen=True)
class Proposal:
    """One proposal that was judged: by which network, in which check, and what it claims."""

    network: int
    check: int
    gain: float
    se: float
    z: float | None


def main() -> None:
    """Run the cases that the command line names, then print the table of all lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"any of {', '.join(CASES)}; all by default")
    parser.add_argument("--data", help="folder of the data sets")
    parser.add_argument("--proposals", type=int, default=240, help="at least so many for each line")
    parser.add_argument("--networks", type=int, default=4, help="networks trained for each case")
    parser.add_argument("--sample", type=int, default=1024, help="examples of each part of a check, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few of everything; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.quick:
        options.proposals, options.networks, options.sample = 24, 2, 128
    RESULTS.parent.mkdir(exist_ok=True)
    there = {(line["case"], line["on"], line["proposal"]) for line in lines() if line["commit"] == commit()}
    for name in options.cases or [name for name, case in CASES.items() if options.data or case.data == "digits"]:
        wanted = [(on, kind) for on in ON for kind in NAMES if options.quick or (name, on, kind) not in there]
        epochs = 3 if options.quick else CASES[name].epochs
        networks = [trained(CASES[name], options.data, i, epochs) for i in range(options.networks)] if wanted else []
        for on, kind in wanted:
            line = measured(name, on, kind, networks, options)
            print(table([line]).splitlines()[2], flush=True)
            if not options.quick:
                with open(RESULTS, "a") as results:
                    results.write(json.dumps(line) + "\n")
    if not options.quick:
        print(table(lines()))


def lines() -> list[dict]:
    """What was measured so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def trained(case: Case, data: str | None, seed: int, epochs: int) -> Trained:
    """Train a network on shuffled labels until the rate has fallen to zero."""
    dataset = load("digits") if case.data == "digits" else load(f"{data}/{case.data}", target=case.target)
    torch.manual_seed(seed)
    parts = [part for part in (dataset.train, dataset.validation, dataset.test) if part is not None]
    x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
    at = torch.randperm(len(x))[: 2 * case.examples]
    x, y = x[at].float(), y[at][torch.randperm(len(at))]
    if dataset.kind == "image":
        x = F.avg_pool2d(x / 255, case.pool)
    elif dataset.task == "regression":
        y = (y - y.mean(0)) / y.std(0)
    across = [0, *range(2, x.ndim)]
    constants = tuple(x.mean(across).tolist()), tuple(x.std(across).clamp_min(1e-6).tolist())
    network = Seed(case.model, tuple(x.shape[1:]), dataset.outputs, case.widths, *constants)
    model, n = network.build(), len(x) // 2
    losses = train(model, x[:n], y[:n], epochs)
    return Trained(network, model, (x[:n], y[:n]), (x[n:], y[n:]), losses)


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, batch: int = 64) -> list[float]:
    """Train by Adam with a rate that falls to zero as a cosine; return the mean loss of each epoch."""
    loss, losses, steps = loss_of(y), [], epochs * (len(x) // batch)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        values = []
        for at in torch.randperm(len(x))[: steps // epochs * batch].split(batch):
            optimizer.zero_grad()
            value = loss(model(x[at]), y[at])
            value.backward()
            optimizer.step()
            rate.step()
            values.append(value.item())
        losses.append(statistics.mean(values))
    return losses


def loss_of(y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean loss [nats] for targets of that kind."""
    return F.mse_loss if y.is_floating_point() else F.cross_entropy


def measured(name: str, on: str, kind: str, networks: Sequence[Trained], options: argparse.Namespace) -> dict:
    """Judge proposals of one kind on one kind of examples until there are enough; return the result's line."""
    started, found = time.perf_counter(), []
    checks = 0
    while len(found) < options.proposals or checks % len(networks):
        found += judged(checks % len(networks), checks, on, kind, networks, options.sample)
        checks += 1
    losses = [network.losses for network in networks]
    return {
        "case": name,
        "on": on,
        "proposal": kind,
        "networks": len(networks),
        "checks": checks,
        "examples": min(options.sample, len(networks[0].fresh[1]) // 2),
        "loss": statistics.mean(one[-1] for one in losses),
        "loss_a_fifth_before": statistics.mean(one[-1 - len(one) // 5] for one in losses),
        **summary(found),
        "seconds": round(time.perf_counter() - started, 1),
        "command": " ".join(["python benchmarks/null.py", *sys.argv[1:]]),
        "commit": commit(),
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
    }


def judged(
    network: int, check: int, on: str, kind: str, networks: Sequence[Trained], sample: int
) -> Iterator[Proposal]:
    """Run one check of a network, with an order of the examples, labels and draws of its own."""
    one = networks[network]
    model, generator = copy.deepcopy(one.model), torch.Generator().manual_seed(check)
    x, y = one.training if on == "training" else one.fresh
    if on == "fresh":
        y = y[torch.randperm(len(y), generator=generator)]
    elif on == "own":
        y = own_labels(model, x, y, one.losses[-1], generator)
    order = torch.randperm(len(x), generator=generator)
    optimizer = torch.optim.Adam(model.parameters())
    grower = Grower(
        model, optimizer, loss_of(y), one.seed.example(), policy=Always(), sample=sample, proposal=kind, seed=check
    )
    with recorded() as expansions:
        event = grower.check([(x[order], y[order])])
    slopes = torch.cat([expansion.slopes for expansion in expansions]) if expansions else torch.empty(0, 0)
    first = slopes.shape[1] - len(event.candidates)  # the step of the present weights stands before those of proposals
    z = (slopes.mean(0) / slopes.std(0) * math.sqrt(len(slopes))).nan_to_num(0.0) if first in (0, 1) else None
    for i, candidate in enumerate(event.candidates):
        yield Proposal(network, check, candidate.gain, candidate.se, None if z is None else float(z[first + i]))


@torch.no_grad()
def own_labels(model: nn.Module, x: Tensor, y: Tensor, loss: float, generator: torch.Generator) -> Tensor:
    """Draw labels from the network's own answer; for a regression with noise as large as its training loss says."""
    answer = model.eval()(x)
    if y.is_floating_point():
        return answer + math.sqrt(loss) * torch.randn(answer.shape, generator=generator)
    return torch.multinomial(answer.softmax(1), 1, generator=generator)[:, 0]


@contextmanager
def recorded() -> Iterator[list[Expansion]]:
    """Keep what the loss of every batch said along the directions that were judged."""
    expand, kept = OutputLoss.expand, []

    def keep(self: OutputLoss, *args: object, **kwargs: object) -> Expansion:
        kept.append(expand(self, *args, **kwargs))
        return kept[-1]

    OutputLoss.expand = keep
    try:
        yield kept
    finally:
        OutputLoss.expand = expand


def summary(found: Sequence[Proposal]) -> dict:
    """Count what proposals claim, and how many of them are independent."""
    z = [one.z for one in found if one.z is not None]
    values = [one.z if one.z is not None else float(one.gain > 0) for one in found]
    effective = min(
        effective_number(group) for group in (grouped(values, found, "check"), grouped(values, found, "network"))
    )
    counts = {
        "over two": sum(one.gain - 2 * one.se > 0 for one in found),
        "over one": sum(one.gain - one.se > 0 for one in found),
        "positive": sum(one.gain > 0 for one in found),
    }
    share = effective / len(found)
    return {
        "n": len(found),
        "effective": round(effective, 1),
        "counts": counts,
        "at_most": {key: upper_limit(count * share, effective) for key, count in counts.items()},
        "p_value": {
            key: float(stats.binom.sf(round(count * share) - 1, max(round(effective), 1), EXPECTED[key]))
            for key, count in counts.items()
        },
        "z_over_two": sum(value > 2 for value in z) if z else None,
        "z_mean": statistics.mean(z) if z else None,
        "z_sd": statistics.stdev(z) if z else None,
        "largest_gain": max(one.gain for one in found),
    }


def grouped(values: Sequence[float], found: Sequence[Proposal], by: str) -> list[list[float]]:
    """Values in groups of one check, or of one network."""
    groups = defaultdict(list)
    for value, one in zip(values, found, strict=True):
        groups[getattr(one, by)].append(value)
    return list(groups.values())


def table(found: Sequence[Mapping]) -> str:
    """One row a line; each rate with its count, and below which it is with 95 % confidence."""
    rows = [
        "| case | examples | proposals | loss | n (effective) | gain > 2 se: expected 0.003 % | gain > se: 2.3 % "
        "| gain > 0: at most 50 % | z > 2: 2.3 % | z: mean, sd |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        rates = [
            f"{100 * one['counts'][key] / one['n']:.1f} % ({one['counts'][key]}), < {100 * one['at_most'][key]:.1f} %"
            for key in EXPECTED
        ]
        z = ("", "")
        if one["z_mean"] is not None:
            z = (f"{100 * one['z_over_two'] / one['n']:.1f} %", f"{one['z_mean']:+.2f}, {one['z_sd']:.2f}")
        cells = [one["case"], one["on"], one["proposal"], f"{one['loss']:.3f}", f"{one['n']} ({one['effective']:.0f})"]
        rows.append("| " + " | ".join([*cells, *rates, *z]) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
