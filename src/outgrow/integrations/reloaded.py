"""Regrown models: what a folder keeps of growth that no configuration describes, and a model made from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_model
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.trainer_utils import load_sharded_checkpoint

from outgrow.errors import InputError
from outgrow.grow.event import Event
from outgrow.integrations.conv1d import as_linear_
from outgrow.integrations.described import made_of
from outgrow.net.inputs import Example
from outgrow.train.grower import Grower
from outgrow.train.regrown import blocks_of, regrow_, sizes_to_save

KEY = "outgrow"
"""Where it is, in a configuration and in `trainer_state.json`."""


def written_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a Grower as JSON."""
    return {**state, "generator": bytes(state["generator"].tolist()).hex()}


def read_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a Grower that `written_state` gave."""
    return {**state, "generator": torch.tensor([*bytes.fromhex(state["generator"])], dtype=torch.uint8)}


def entry_of(model: PreTrainedModel, grower: Grower, start: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration keeps of sizes that it has no fields for, as JSON.

    Args:
        model: The model.
        grower: Its Grower.
        start: What its widths were in the configuration before it grew.
    """
    return {"start": dict(start), **sizes_to_save(model, grower.axes)}


def load(folder: str | Path, model: nn.Module | None = None, *, example: Example | None = None) -> Any:
    """Load a model that has grown, also where `from_pretrained` can't build it.

    Args:
        folder: What `save_pretrained` or a Trainer wrote.
        model: The model as it was made before it grew, for a model that is no `PreTrainedModel`; it grows in place, to
            the sizes that a checkpoint of the Trainer has.
        example: One input, for such a model where blocks were inserted.

    Returns:
        The model with its weights.

    Raises:
        InputError: The folder has no such model, or the model is another one.

    Examples:
        >>> load("/nowhere")
        Traceback (most recent call last):
        ...
        outgrow.errors.InputError: /nowhere: expected a folder of save_pretrained or a Trainer, found none
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of save_pretrained or a Trainer, found none")
    if model is not None:
        return _grown_again(folder, model, example)
    config = AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, (config.architectures or [""])[0], None)
    if kind is None:
        raise InputError(f"{folder}/config.json: expected a class of transformers, received {config.architectures}")
    entry = getattr(config, KEY, None)
    if entry is None:
        return kind.from_pretrained(folder)
    for name, value in entry["start"].items():
        setattr(config, name, value)
    with made_of(config.dtype or torch.get_default_dtype()):
        fresh = kind(config)
    return _grown_to(fresh, entry, [], None, folder).eval()


def _grown_again(folder: Path, model: nn.Module, example: Example | None) -> nn.Module:
    path = folder / "trainer_state.json"
    saved = json.loads(path.read_text())["stateful_callbacks"].get(KEY) if path.exists() else None
    if saved is None:
        raise InputError(f"{path}: expected a checkpoint of a Trainer whose model grew, found none")
    blocks = blocks_of(map(Event.from_json, saved["grower"]["history"]))
    if blocks and example is None:
        raise InputError(f"{folder}: expected an example, since blocks were inserted, received none: pass example=")
    return _grown_to(model, saved["grower"]["grown"], blocks, example, folder)


def _grown_to(
    model: nn.Module, saved: Mapping[str, Any], blocks: list[str], example: Example | None, folder: Path
) -> nn.Module:
    """Bring a model to saved sizes, and load its weights."""
    as_linear_(model)
    regrow_(model, (), (), () if example is None else example, blocks, saved)
    if (folder / "model.safetensors").exists():
        load_model(model, folder / "model.safetensors")
    else:
        load_sharded_checkpoint(model, str(folder))
    return model
