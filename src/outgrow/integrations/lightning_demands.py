"""What a LightningModule, its trainer and its optimizer have to be so that they can grow."""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from outgrow.errors import InputError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

WHOLE = {"SingleDeviceStrategy", "DDPStrategy"}  # strategies of whole parameters, by the names of their classes
SHARDED = {"DeepSpeedStrategy"}  # one that has such a base


def demand_supported(trainer: "Trainer", module: "LightningModule") -> None:
    """Check a module and its trainer before a fit.

    Args:
        trainer: Not set up yet.
        module: Whose optimizer is Lightning's to step.

    Raises:
        InputError: It steps its optimizers itself, or takes the loader's iterator, or another strategy or averaging is
            asked for than those that can follow a growth.
    """
    name = type(module).__name__
    if not module.automatic_optimization:
        raise InputError(
            f"Growing: expected automatic optimization with one optimizer, received {name} with manual optimization: "
            "return the loss from training_step, or call an outgrow.Grower of your own where you step the optimizer"
        )
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise InputError(
            f"Growing: expected {name}.training_step(batch, batch_idx), received one that takes dataloader_iter: take "
            "batches, or give Growing(loss) and a loader"
        )
    _demand_whole(trainer.strategy)
    callbacks: Any = vars(trainer)["callbacks"]
    for callback in callbacks:
        if type(callback).__name__ == "StochasticWeightAveraging":
            raise InputError(
                "Growing: StochasticWeightAveraging keeps weights that don't grow along: use WeightAveraging"
            )


def demand_forward(model: nn.Module) -> None:
    """Check that what grows says what it computes.

    Args:
        model: The LightningModule, or a part of it.

    Raises:
        InputError: It is a LightningModule without a forward of its own.
    """
    if type(model).forward.__qualname__ in ("LightningModule.forward", "_forward_unimplemented"):
        raise InputError(
            f"Growing: expected a module with forward, received {type(model).__name__} without one: define it, or name "
            "the part of the module that grows, Growing(network=...)"
        )


def _demand_whole(strategy: Any) -> None:
    kinds = {kind.__name__ for kind in type(strategy).__mro__}
    if not kinds & WHOLE or kinds & SHARDED:
        raise InputError(
            f"Growing: expected whole parameters in each process, received {type(strategy).__name__}: train on one "
            'device or with strategy="ddp"'
        )
    if "_MultiProcessingLauncher" in {kind.__name__ for kind in type(strategy.launcher).__mro__}:
        raise InputError(
            "Growing: expected processes that each run the script, received a strategy that starts them from this "
            'one, whose module would stay as it is: use strategy="ddp"'
        )


def only_one(optimizers: Sequence[Optimizer]) -> Optimizer:
    """Return the one optimizer that there is.

    Args:
        optimizers: Those of the trainer.

    Returns:
        It.

    Raises:
        InputError: There are none or several.
    """
    if len(optimizers) != 1:
        raise InputError(
            f"Growing: expected one optimizer, received {len(optimizers)}: return one from configure_optimizers, with "
            "a parameter group for whatever has a rate of its own"
        )
    return optimizers[0]


def demand_held(
    optimizer: Optimizer, module: nn.Module, known: set[int] | None = None, model: nn.Module | None = None
) -> None:
    """Check that an optimizer steps the parameters that a module has now.

    Args:
        optimizer: The trainer's.
        module: The LightningModule.
        known: Identities of the parameters that the part which grows had after the last growth, if there was a look.
        model: That part.

    Raises:
        InputError: Somebody else has edited the module since the optimizer was built, or since the last growth.
    """
    name, present = type(module).__name__, set(map(id, module.parameters()))
    stale = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in present]
    if stale:
        raise InputError(
            f"Growing: the optimizer steps {len(stale)} parameters that {name} no longer has (the first of shape "
            f"{list(stale[0].shape)}): it was built before the module was edited; edit before configure_optimizers, "
            "or pass the edit optimizer=trainer.optimizers[0]"
        )
    if model is not None and known != set(map(id, model.parameters())):
        raise InputError(
            f"Growing: somebody else has edited {name} since it was looked at: edit it before Trainer.fit, and leave "
            "it to Growing from there on"
        )
