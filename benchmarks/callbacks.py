"""Growing in other people's loops: what the callbacks take, and what comes of them on the same data.

    python benchmarks/callbacks.py --data DIR --seeds 0 1 2

DIR holds FashionMNIST. Lightning trains a perceptron, and Hugging Face's Trainer a vision transformer: as it is, with
the callback, and, without it, as large from the start as it grew to. "Beyond" is the time in the callback's hooks less
that of its checks; newborns are corrected in hooks of the optimizer. Every training adds a line to
results/callbacks.jsonl; those that are there are not repeated.
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it

import lightning
import lightning.pytorch as pl
import torch
import torch.nn.functional as F
import transformers
from grow import commit, hardware
from runs import lines
from tasks import FASHION, Task
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from outgrow.huggingface import Growing as GrowingModel
from outgrow.lightning import Growing as GrowingModule
from outgrow.net.newborns import Newborns

RESULTS = Path(__file__).resolve().parent / "results"
EXAMPLES, BATCH, EPOCHS, RATE = 10_000, 64, 15, 2e-3
BUDGET = 30_000  # parameters
CORRECTION = {name: vars(Newborns)[name] for name in ("_remember", "_correct")}


class Perceptron(pl.LightningModule):
    """Two hidden layers.

    Args:
        widths: Their units.
    """

    def __init__(self, widths: tuple[int, int]) -> None:
        super().__init__()
        layers = [nn.Flatten(), nn.Linear(784, widths[0]), nn.ReLU(), nn.Linear(*widths), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(widths[1], 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=RATE)


class Timed:
    """Adds up the time in the hooks of a callback, and in the correction of newborns after each step.

    Args:
        callback: Changed in place.
        hooks: Their names; the first is that which sets it up.
    """

    def __init__(self, callback: Any, *hooks: str) -> None:
        self.callback, self.seconds = callback, dict.fromkeys([*hooks, *CORRECTION], 0.0)
        for name in hooks:
            setattr(callback, name, self._timed(name, getattr(callback, name)))
        for name, hook in CORRECTION.items():
            setattr(Newborns, name, self._timed(name, hook))

    def told(self) -> dict[str, float]:
        """Return the time of checks, of setting up, and of all else [seconds]."""
        history = self.callback.grower.history
        checks, newborns = sum(event.seconds for event in history), sum(self.seconds[name] for name in CORRECTION)
        setup, *others = (seconds for name, seconds in self.seconds.items() if name not in CORRECTION)
        spent = {"check_seconds": checks, "checks": len(history), "setup": setup, "beyond": sum(others) - checks}
        return spent | {"newborns": newborns}

    def _timed(self, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return hook(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timed


def main() -> None:
    """Do the trainings that the command line asks for and that are not done."""
    options = parsed()
    file = options.results / "callbacks.jsonl"
    file.parent.mkdir(exist_ok=True)
    parts = images(options.data)
    for seed in options.seeds:
        for loop, (train, seed_widths) in LOOPS.items():
            widths = seed_widths
            for row in ("as it is", "growing", "as large"):
                key = {"loop": loop, "row": row, "seed": seed}
                found = [line for line in lines(file) if key.items() <= line.items()]
                if not found or options.again:
                    found = [key | train(parts, widths, row == "growing", seed) | circumstances()]
                    with open(file, "a") as out:
                        out.write(json.dumps(found[0]) + "\n")
                    print(f"{loop}, {row}, seed {seed}: {found[0]}", flush=True)
                widths = tuple(found[-1]["widths"]) if row == "growing" else widths


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the data sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--again", action="store_true", help="repeat what is there")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    return parser.parse_args()


def circumstances() -> dict[str, Any]:
    """With what it was measured."""
    versions = {package.__name__: package.__version__ for package in (torch, lightning, transformers)}
    return {"versions": versions, "commit": commit(), "hardware": hardware()}


def images(folder: str) -> tuple[TensorDataset, TensorDataset]:
    """Read training and test images, scaled to -1 .. 1."""
    data = Task(FASHION, "mlp", EPOCHS, BATCH, examples=EXAMPLES).load(folder)
    parts = [TensorDataset(part.x.float() / 127.5 - 1, part.y) for part in (data.train, data.test)]
    return parts[0], parts[1]


def in_lightning(parts: tuple[TensorDataset, TensorDataset], widths: tuple, grows: bool, seed: int) -> dict[str, Any]:
    """Train the perceptron in Lightning's loop."""
    pl.seed_everything(seed, verbose=False)
    module, callbacks = Perceptron(widths), [GrowingModule(F.cross_entropy, max_params=BUDGET)] if grows else []
    timed = [Timed(callback, "on_train_start", "on_train_batch_start") for callback in callbacks]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=EPOCHS, accelerator="cpu", callbacks=callbacks, logger=False, **quiet)
    began = time.perf_counter()
    trainer.fit(module, DataLoader(parts[0], BATCH, shuffle=True))
    seconds = time.perf_counter() - began
    x, y = parts[1].tensors
    with torch.no_grad():
        accuracy = float((module.eval()(x).argmax(1) == y).float().mean())
    sizes = [module.net[1].out_features, module.net[3].out_features]
    return told(module, seconds, accuracy, sizes, timed)


def in_trainer(parts: tuple[TensorDataset, TensorDataset], widths: tuple, grows: bool, seed: int) -> dict[str, Any]:
    """Train the vision transformer in the Trainer of Hugging Face."""
    set_seed(seed)
    shape = {"image_size": 28, "patch_size": 7, "num_channels": 1, "num_labels": 10}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": widths[0]}
    model = ViTForImageClassification(ViTConfig(**shape, **sizes))
    callbacks = [GrowingModel(loss=classification, max_params=BUDGET)] if grows else []
    timed = [Timed(callback, "on_train_begin", "on_step_begin") for callback in callbacks]
    quiet = {"report_to": [], "use_cpu": True, "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as folder:
        length = {"num_train_epochs": EPOCHS, "per_device_train_batch_size": BATCH}
        args = TrainingArguments(folder, learning_rate=RATE, seed=seed, **length, **quiet)
        trainer = Trainer(model, args, train_dataset=rows(parts[0]), callbacks=callbacks)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        predicted = trainer.predict(rows(parts[1]))
    accuracy = float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())
    return told(model, seconds, accuracy, [model.config.intermediate_size], timed)


def classification(output: Any, labels: Tensor) -> Tensor:
    """Return the cross-entropy of a model's output."""
    return F.cross_entropy(output.logits, labels)


def rows(part: TensorDataset) -> list[dict[str, Any]]:
    """Return examples as the Trainer takes them."""
    pairs = zip(part.tensors[0].view(-1, 1, 28, 28), part.tensors[1].tolist(), strict=True)
    return [{"pixel_values": image, "labels": label} for image, label in pairs]


def told(
    model: nn.Module, seconds: float, accuracy: float, widths: list[int], timed: list[Timed]
) -> dict[str, float | list[int]]:
    """What a line says of a training."""
    params = sum(parameter.numel() for parameter in model.parameters())
    more = timed[0].told() if timed else {}
    return {"seconds": seconds, "accuracy": accuracy, "params": params, "widths": widths, **more}


LOOPS: Mapping[str, tuple[Callable[..., dict[str, Any]], tuple[int, ...]]] = {
    "Lightning": (in_lightning, (8, 8)),
    "Hugging Face": (in_trainer, (8,)),
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
