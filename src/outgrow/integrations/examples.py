"""Examples: what a check reads of a Trainer's training set, without a trace in the run."""

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainingArguments
from transformers.utils.generic import find_labels

from outgrow.errors import InputError
from outgrow.net.inputs import Example

SHOWN = 2  # examples of a batch on which the network is read


def own_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss that a model computes itself, as the Trainer takes it."""
    outputs = model(**batch)
    return outputs["loss"] if isinstance(outputs, dict) else outputs[0]


def shuffled(train: Any, args: TrainingArguments, step: int) -> Iterable[Any]:
    """Return a loader of a Trainer's training set, in an order that the step sets.

    Args:
        train: The Trainer's own loader; it is not read.
        args: Has the seed, and the size of batches.
        step: The step.

    Raises:
        InputError: The data set can only be read from its beginning.
    """
    data: Any = train.dataset
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise InputError(
            f"expected a data set that can be read in any order, received {type(data).__name__}: "
            "pass loader=, an iterable of batches for the checks"
        )
    order = torch.Generator().manual_seed(args.seed + step)
    size = args.per_device_train_batch_size
    return DataLoader(data, size, shuffle=True, generator=order, collate_fn=train.collate_fn)


@contextmanager
def chance_kept(model: nn.Module) -> Iterator[None]:
    """Put the sources of chance, of torch, numpy and Python, back afterwards."""
    device, states = next(model.parameters()).device, (random.getstate(), np.random.get_state())
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def plain_forward(model: nn.Module) -> Iterator[None]:
    """Take off what accelerate puts around a model's forward pass, such as autocast to half precision."""
    around = vars(model).pop("forward", None) if hasattr(model, "_original_forward") else None
    try:
        yield
    finally:
        if around is not None:
            vars(model)["forward"] = around


def example_of(model: nn.Module, batch: Any, label_names: Iterable[str]) -> Example:
    """Return the first examples of a batch as one input, without labels.

    Args:
        model: The model.
        batch: A batch as the Trainer's.
        label_names: Names of labels, beside those that the model's class says.

    Raises:
        InputError: The batch has no names.
    """
    batch = plain(batch)
    if not isinstance(batch, dict):
        raise InputError(f"expected batches that are dicts, received {type(batch).__name__}: pass example=")
    labels = {*find_labels(type(model)), *label_names, "labels"}
    example = {name: value for name, value in batch.items() if name not in labels}
    device = next(model.parameters()).device
    return {name: v[:SHOWN].to(device) if isinstance(v, Tensor) else v for name, v in example.items()}


def plain(batch: Any) -> Any:
    """Return a batch as a plain dict, where it has names."""
    return dict(batch) if isinstance(batch, Mapping) else batch


def pair(batch: Any) -> tuple[Any, Any]:
    """Return the inputs and the labels of a batch."""
    inputs = plain(batch)
    return {name: value for name, value in inputs.items() if name != "labels"}, inputs["labels"]
