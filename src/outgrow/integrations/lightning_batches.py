"""What a check reads and calls inside Lightning's loop, which goes on afterwards as if nobody had looked."""

import copy
import inspect
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from outgrow.errors import InputError
from outgrow.grow.sample import apart
from outgrow.net.preserve import frozen_state

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class Batches:
    """The batches of the training part, read from the start by iterators of its own, as `training_step` gets them.

    Args:
        trainer: In a fit.
        module: Its LightningModule.
        loader: What is read in place of the trainer's own loaders.
    """

    def __init__(self, trainer: "Trainer", module: "LightningModule", loader: Iterable[Any] | None) -> None:
        self._trainer, self._module, self._loader = trainer, module, loader

    def __iter__(self) -> Iterator[Any]:
        """Give the batches, on the device and through the module's batch hooks."""
        trainer = self._trainer
        for batch in self._read():
            given = self._module._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch))
            yield trainer.strategy.batch_to_device(given, dataloader_idx=0)

    def _read(self) -> Iterator[Any]:
        if self._loader is not None:
            yield from apart(self._loader)
            return
        fresh = copy.copy(self._trainer.fit_loop._combined_loader)
        assert fresh is not None
        fresh.flattened = [_again(loader) for loader in fresh.flattened]
        for batch, _, _ in fresh:
            yield batch

    @contextmanager
    def own_chance(self, seed: int) -> Iterator[None]:
        """Let what is read be a matter of a seed, and leave every random state as it was."""
        generators = [generator.get_state() for generator in self._generators()]
        python, numpy = random.getstate(), np.random.get_state()
        device = self._module.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            for generator in self._generators():
                generator.manual_seed(seed)
            try:
                yield
            finally:
                random.setstate(python)
                np.random.set_state(numpy)
                for generator, state in zip(self._generators(), generators, strict=True):
                    generator.set_state(state)

    def _generators(self) -> list[torch.Generator]:
        """The generators of the loaders' own, each once."""
        combined = self._trainer.fit_loop._combined_loader
        loaders = [self._loader] if self._loader is not None else combined.flattened if combined is not None else []
        owners = [owner for loader in loaders for owner in (loader, getattr(loader, "sampler", None))]
        found = [getattr(owner, "generator", None) for owner in owners]
        return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


class TrainingStep:
    """The `training_step` of a LightningModule as a step of a Grower: the mean loss of a batch, and nothing is logged.

    Args:
        module: The LightningModule.
        network: Name of the submodule that grows; empty for the module itself.
    """

    def __init__(self, module: "LightningModule", network: str) -> None:
        self._module, self._network = module, network
        parameters = inspect.signature(module.training_step).parameters
        several = len(parameters) > 1 or any(one.kind == one.VAR_POSITIONAL for one in parameters.values())
        self._more = (0,) if several else ()  # the number of the batch

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of a batch.

        Args:
            model: What grows, or a copy of it.
            batch: The batch.

        Returns:
            What `training_step` returned, or its `loss` where that is a dict.
        """
        with self._with(model) as module, silent(module), self._in_eval_mode():
            found: Any = module.training_step(batch, *self._more)
        return found["loss"] if isinstance(found, dict) else found

    @contextmanager
    def _in_eval_mode(self) -> Iterator[None]:
        """What stands around the network in eval mode; it is as it was afterwards."""
        if not self._network:
            yield
            return
        with frozen_state(self._module):
            self._module.eval()
            yield

    @contextmanager
    def _with(self, model: Any) -> Iterator["LightningModule"]:
        """The module, with the model in its place."""
        if not self._network:
            if model._trainer is None:  # a copy has none
                model.trainer = self._module.trainer
            yield model
            return
        owner, _, name = self._network.rpartition(".")
        parent, present = self._module.get_submodule(owner), self._module.get_submodule(self._network)
        setattr(parent, name, model)
        try:
            yield self._module
        finally:
            setattr(parent, name, present)


@contextmanager
def silent(module: nn.Module) -> Iterator[None]:
    """Let `self.log` and `self.log_dict` of a module do nothing for a while."""
    own = vars(module)
    before: dict[str, Any] = {name: own[name] for name in ("log", "log_dict") if name in own}
    own.update(log=_nothing, log_dict=_nothing)
    try:
        yield
    finally:
        del own["log"], own["log_dict"]
        own.update(before)


def inputs_of(batches: Iterable[Any]) -> Any:
    """Return the inputs of the first examples of a loader.

    Args:
        batches: Gives (inputs, target).

    Returns:
        The inputs of at most two examples.

    Raises:
        InputError: They are something else.
    """
    batch = next(iter(batches), None)
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[0], Tensor) and batch[0].ndim:
        return batch[0][:2].cpu()
    raise InputError(
        "Growing: expected batches (inputs, target), whose inputs are an example of what the network takes, received "
        f"{type(batch).__name__}: set example_input_array in the LightningModule, or give Growing(example=...)"
    )


def _again(loader: Any) -> Any:
    """A loader of the same batches whose iterators leave those of the first alone."""
    if hasattr(loader, "__next__"):
        raise InputError(
            f"Growing: expected loaders that can be read again, received {type(loader).__name__}, of which checks "
            "would take what the training should see: give Growing(loader=...), an iterable of batches for the checks"
        )
    return apart(loader)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Log nothing."""
