"""How far a run is, and all of it that a continuation depends on, gathered and put back."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.data.batches import Bookmark, Epoch
from outgrow.errors import InputError
from outgrow.net.cost import parameters
from outgrow.net.deepen import deepen_
from outgrow.net.surgery import replace_, tensors_of
from outgrow.train.account import Account
from outgrow.train.chance import Chance
from outgrow.train.checkpoints import Checkpoint
from outgrow.train.grower import Grower
from outgrow.train.loaders import Loaders
from outgrow.train.overfitting import Evaluation, told_since_growth
from outgrow.train.state import captured, joined, part, restore_
from outgrow.train.stepper import Stepper


@dataclass
class Progress:
    """How far a run is.

    Args:
        step: Steps done.
        epoch: What is left of the epoch that is under way; None between two.
        total: Sum of the losses of this epoch's steps.
        blocks: Places of the blocks that were inserted, in order.
        saved_at: The step at which a size was saved last; -1 if none was.
        good: Averaged weights at the end of the last epoch with a finite loss, None if the network grew since.
        told: What the validation part said after each epoch since the network last grew.
        best: Averaged weights of the best of these, see `outgrow.train.overfitting`; None before there are enough, or
            where the run takes no notice.
    """

    step: int = 0
    epoch: Epoch | None = None
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    blocks: list[str] = field(default_factory=list)
    saved_at: int = -1
    good: nn.Module | None = None
    told: list[Evaluation] = field(default_factory=list)
    best: nn.Module | None = None


class Capture:
    """Gathers the state of a run, and puts it back into a run that was made with the same arguments.

    Args:
        grower: What lets the network grow; it has the optimizer and one average.
        account: What was spent.
        loaders: What is trained and checked on.
        stepper: What trains it.
        device: Where the network is trained.
    """

    def __init__(self, grower: Grower, account: Account, loaders: Loaders, stepper: Stepper, device: str) -> None:
        self._grower, self._account, self._batches, self._stepper = grower, account, loaders.train, stepper
        self._model, (self._optimizer,), (self._average,) = grower.model, grower.optimizers, grower.averages
        self._chance = Chance(device, **loaders.generators)

    def take(self, progress: Progress) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state between two steps: tensors by name, those in use, and JSON values."""
        tensors, network = captured(self._model, self._optimizer, self._average, self._grower.axes)
        grower = self._grower.state_dict()
        del grower["history"]  # the journal has it
        place = {} if progress.epoch is None else {"epoch": progress.epoch.bookmark().began, "total": progress.total}
        parts: dict[str, Mapping[str, Tensor]] = {
            "network": tensors,
            "good": {} if progress.good is None else tensors_of(progress.good),
            "best": {} if progress.best is None else tensors_of(progress.best),
            "chance": {**self._chance.states(), "grower": grower.pop("generator")},
            "place": place,
        }
        return joined(parts), {
            "blocks": list(progress.blocks),
            "saved_at": progress.saved_at,
            "network": network,
            "grower": grower,
            "account": self._account.to_json(),
            "stepper": self._stepper.state_dict(),
            "sizes": self._sizes(),
        }

    def put_back_(self, checkpoint: Checkpoint) -> Progress:
        """Put a state back, in place.

        Args:
            checkpoint: The state.

        Returns:
            How far the run was.

        Raises:
            InputError: The network that comes out is not the one that was saved.
        """
        facts, tensors = checkpoint.facts, checkpoint.tensors
        for place in facts["blocks"]:
            deepen_(self._model, place, example=self._grower.example)
        restore_(self._model, self._optimizer, self._average, part(tensors, "network"), facts["network"])
        chance = part(tensors, "chance")
        history = [record for record in checkpoint.records if "event" in record]
        self._grower.load_state_dict({**facts["grower"], "history": history, "generator": chance["grower"]})
        if self._sizes() != facts["sizes"]:
            raise InputError(f"expected a network of {facts['sizes']}, as it was saved, got {self._sizes()}")
        self._account.restore_(facts["account"])
        self._stepper.load_state_dict(facts["stepper"])
        progress = Progress(
            step=checkpoint.step,
            blocks=list(facts["blocks"]),
            saved_at=facts["saved_at"],
            good=self._average_of(part(tensors, "good")),
            told=told_since_growth(checkpoint.records),
            best=self._average_of(part(tensors, "best")),
        )
        if place := part(tensors, "place"):
            used = checkpoint.step % len(self._batches)
            progress.epoch = self._batches.resumed(Bookmark(used, place["epoch"], chance["train"]))
            progress.total = place["total"].to(self._batches.x.device, copy=True)
        self._chance.restore_(chance)
        return progress

    def _average_of(self, tensors: Mapping[str, Tensor]) -> nn.Module | None:
        if not tensors:
            return None
        kept = copy.deepcopy(self._average.module)
        replace_(kept, {name: tensor.to(self._batches.x.device, copy=True) for name, tensor in tensors.items()})
        return kept

    def _sizes(self) -> dict[str, Any]:
        """What shows that a network is the same: its axes, parameters and forward FLOPs."""
        return {**self._grower.sizes, "parameters": parameters(self._model), "flops": self._grower.flops}
