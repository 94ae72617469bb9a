"""Transfer (SENN): a network that learned one task grows on another, beside the same network fine-tuned as it is.

From MNIST to 4,000 images of Fashion-MNIST. The head is drawn anew, everything else starts from what it learned.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cells import made_with, row, span, spread
from tasks import FASHION, Task
from torch import nn

from outgrow.models import Seed, SeedNetwork
from outgrow.models.imported import ImportedSeed, maker_of
from outgrow.net.cost import flops
from outgrow.train.alone import Never, train_alone
from outgrow.train.folder import RunFolder
from outgrow.train.trainer import Trainer
from seeds.growing import At, grown, newest, percent

WIDTHS = (4, 4, 8, 8, 16, 16)
SOURCE = Task("DIR/MNIST", "convnet", 2, 128, widths=WIDTHS)
TARGET = Task(FASHION, "convnet", 20, 32, 30_000, widths=WIDTHS, examples=4_000)
ROWS = {
    "growing": "pre-trained, growing",
    "fixed": "pre-trained, fine-tuned as it is, equal epochs",
    "fixed-flops": "the same, equal FLOPs",
    "scratch": "not pre-trained, growing",
    "scratch-fixed": "not pre-trained, as it is, equal FLOPs",
}


@dataclass(frozen=True)
class Job:
    """All rows of a seed, which share the pre-training."""

    seed: int

    def key(self) -> dict:
        """Return what makes two runs the same, as JSON."""
        return {"seed": self.seed, "setup": [SOURCE.setup(), TARGET.setup()]}

    def __str__(self) -> str:
        return f"transfer, seed {self.seed}"


def jobs(seeds: Sequence[int]) -> list[Job]:
    """All runs."""
    return [*map(Job, seeds)]


def run(job: Job, at: At) -> dict:
    """Train on the source, then in every way on the target; return the line."""
    data = TARGET.load(at.data)
    fresh = TARGET.network(data)
    pretrained, reached = learned(job.seed, at, fresh)
    found = {}
    for name, network in (("growing", pretrained), ("scratch", fresh)):
        limit = {"max_params": TARGET.max_params}
        grew = grown(data, network, TARGET.recipe, "outgrow", job.seed, at.device, **limit)
        found[name] = {**grew["sizes"][-1], "train_flops": grew["total"]["train_flops"]}
    epoch = 3 * flops(fresh.build(), fresh.example()) * len(data.train)
    for name, network, by in (
        ("fixed", pretrained, None),
        ("fixed-flops", pretrained, "growing"),
        ("scratch-fixed", fresh, "scratch"),
    ):
        epochs = TARGET.epochs if by is None else round(found[by]["train_flops"] / epoch)
        recipe = replace(TARGET.recipe, epochs=epochs)
        found[name] = train_alone(data, network, recipe, seed=job.seed, device=at.device)
    keep = ("params", "test", "train_flops")
    rows = {name: {key: found[name][key] for key in keep} for name in ROWS}
    return {**job.key(), "source": reached, **rows, **at.made()}


def learned(seed: int, at: At, like: Seed) -> tuple[SeedNetwork, float]:
    """Return the network after the source task, with a fresh head and the target's statistics, and how good it was."""
    data = SOURCE.load(at.data)
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(Path(path) / "run")
        folder.claim(overwrite=False)
        policy = {"policy": lambda table: Never(), "policy_name": "none"}
        trainer = Trainer(data, SOURCE.network(data), SOURCE.recipe, folder, seed=seed, device=at.device, **policy)
        family = trainer.run()
        saved = SOURCE.network(data).build()
        saved.load_state_dict(folder.read_tensors(family["sizes"][-1]["file"]))
    core = saved.get_submodule(like.core_name)
    core.head = nn.Linear(core.head.in_features, like.outputs)
    known = {key: value for key, value in asdict(like).items() if key not in ("model", "widths")}
    return ImportedSeed("seeds.transfer:learned", maker_of(core), **known), family["sizes"][-1]["test"]["accuracy"]


def told(line: Mapping) -> str:
    """What a run says when it ends."""
    return ", ".join(f"{name}: {percent(line[name]):.2f} %" for name in ROWS)


def tables(lines: Sequence[Mapping]) -> str:
    """One row for each way to learn the target."""
    if not lines:
        return "No runs yet."
    lines = newest(lines)
    head = ["network", "n", "test %", "points over fine-tuning for equal FLOPs", "parameters", "training TFLOP"]
    table = [row(head), row(["---", *["---:"] * (len(head) - 1)])]
    for name, said in ROWS.items():
        reached, other = ([percent(line[one]) for line in lines] for one in (name, "fixed-flops"))
        lead = "-" if name == "fixed-flops" else spread([a - b for a, b in zip(reached, other, strict=True)], 2)
        cells = [said, str(len(lines)), spread(reached, 2), lead, span([line[name]["params"] for line in lines])]
        table.append(row([*cells, spread([line[name]["train_flops"] / 1e12 for line in lines], 2)]))
    source = spread([100 * line["source"] for line in lines], 2)
    return "\n".join([*table, "", f"MNIST was at {source} % before. {made_with(lines)}"])


def figures(lines: Sequence[Mapping]) -> dict[str, bytes]:
    """None: the table says it all."""
    return {}
