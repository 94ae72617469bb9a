"""Lightning's checkpoints of a module that has grown: the record that lets a fresh module become as large."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

from outgrow.errors import InputError
from outgrow.grow.event import Event
from outgrow.grow.sample import device_of
from outgrow.train.grower import Grower
from outgrow.train.regrown import blocks_of
from outgrow.train.regrown import regrow_ as grow_to_

KEY = "outgrow"  # of the record in a checkpoint


def record_of(grower: Grower, network: str, **more: Any) -> dict[str, Any]:
    """Return what a checkpoint holds of a growth: only what `torch.load` reads with `weights_only=True`.

    Args:
        grower: What it did so far.
        network: Which submodule of the LightningModule it grows; empty for the module itself.
        more: What else is kept.

    Returns:
        The record.
    """
    return {"grower": grower.state_dict(), "network": network, "example": _plain(grower.example), **more}


def regrow_(module: nn.Module, checkpoint: Mapping[str, Any], averages: Sequence[AveragedModel] = ()) -> None:
    """Bring a fresh module, in place, to the sizes that a checkpoint has; nothing happens where it has them.

    Call it in the module's `on_load_checkpoint`, and `load_from_checkpoint` reads checkpoints of all sizes. What grew
    is NaN until the weights are loaded.

    Args:
        module: The LightningModule as it was made before it grew.
        checkpoint: What Lightning has read; one without a record of a growth changes nothing.
        averages: Averaged copies of the module, which become as large.

    Raises:
        InputError: The module is another one.
    """
    record = checkpoint.get(KEY)
    if record is None:
        return
    model, grown = module.get_submodule(record["network"]), record["grower"]
    device = device_of(model)
    example = pytree.tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, record["example"])
    blocks = blocks_of(map(Event.from_json, grown["history"]))
    if blocks and example is None:
        raise InputError(
            "the checkpoint has no example, which it takes to insert blocks again: give Growing one that is made of "
            "tensors in tuples, lists and dicts"
        )
    grow_to_(model, (), averages, example, blocks, grown["grown"])


def regrown(module: nn.Module, path: str | Path, *, weights_only: bool = True) -> nn.Module:
    """Load a checkpoint of a run with `Growing` into a fresh module.

    Args:
        module: The LightningModule as it was made before it grew; changed in place.
        path: The checkpoint.
        weights_only: See `torch.load`; False runs code that the file may hold.

    Returns:
        The module, with the sizes and weights of the checkpoint.

    Raises:
        InputError: The checkpoint comes from a run without `Growing`, or from another module.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=weights_only)
    if KEY not in checkpoint:
        raise InputError(
            f"{path}: expected a checkpoint of a run with outgrow.lightning.Growing, received one without its record: "
            f"read it with {type(module).__name__}.load_from_checkpoint"
        )
    regrow_(module, checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    return module


def _plain(example: Any) -> Any:
    """The example on the CPU, or None where it has parts that can't be saved as weights are."""
    leaves = pytree.tree_leaves(example)
    if not all(leaf is None or isinstance(leaf, (Tensor, bool, int, float, str)) for leaf in leaves):
        return None
    return pytree.tree_map(lambda x: x.detach().cpu() if isinstance(x, Tensor) else x, example)
