"""Hugging Face: a callback that lets the model of any Trainer grow while it trains."""

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length
from transformers.utils import find_labels

from outgrow.errors import InputError
from outgrow.grow.event import Event
from outgrow.integrations.conv1d import as_linear_
from outgrow.integrations.described import Field, fields_of, is_counted, why_not, width_fields
from outgrow.integrations.regrown import KEY, entry_of, read_state, written_state
from outgrow.integrations.tied import Tied
from outgrow.net.inputs import Example
from outgrow.net.preserve import frozen_state
from outgrow.train.grower import Grower

logger = logging.getLogger("outgrow")

SHOWN = 2  # examples of a batch on which the network is read


class Growing(TrainerCallback):  # type: ignore[misc]
    """Lets the model of a Trainer grow while it trains: `Trainer(..., callbacks=[Growing(max_params=...)])`.

    Checks come before steps, when no gradients are pending, and read examples of the training set in an order of their
    own: the run's own order and its random numbers stay what they are. What a check did is a line of the log
    `outgrow` at level INFO, and an entry of `trainer.state.log_history` with names that start with `outgrow/`.

    Blocks go only where the configuration counts them, with a policy that has depth.

    A run that is resumed needs a model of the sizes that the checkpoint has, from `from_pretrained(checkpoint)` or
    `outgrow.huggingface.load(checkpoint)`; the rest is in the checkpoint.

    Args:
        max_params: Budget of parameters; None for none.
        every_n_steps: Steps of the optimizer from one moment at which the policy is asked to the next.
        uniform: Whether all layers that one field of the configuration describes grow alike, and nothing else grows, so
            that `from_pretrained` builds the model without outgrow. Each layer grows by itself otherwise.
        loss: Mean loss of the model's output and `labels`; see `Grower`. None for the model's own loss.
        step: In place of that: called with the model and a batch, it returns the mean loss, such as
            `lambda model, batch: trainer.compute_loss(model, batch)` where the Trainer has a loss of its own.
        example: One input; the first examples of the training set where absent.
        loader: What checks read, batches as the Trainer's own; the training set, shuffled, where absent.
        **options: Further arguments of `Grower`, such as `policy` or `sample`.

    Attributes:
        grower: The `Grower` that does the work; None before training.

    Raises:
        InputError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        max_params: int | None = None,
        every_n_steps: int = 1,
        uniform: bool = True,
        loss: Callable[[Any, Any], Tensor] | None = None,
        step: Callable[[nn.Module, Any], Tensor] | None = None,
        example: Example | None = None,
        loader: Iterable[Any] | None = None,
        **options: Any,
    ) -> None:
        if every_n_steps < 1:
            raise InputError(f"every_n_steps: expected at least 1, received {every_n_steps}")
        if loss is not None and step is not None:
            raise InputError("expected a loss or a step, received both")
        self._options = {"max_params": max_params, **options}
        self._every, self._uniform, self._loss, self._example, self._loader = (
            every_n_steps,
            uniform,
            loss,
            example,
            loader,
        )
        self._step = step or (None if loss else own_loss)
        self._fields: list[Field] = []
        self._start: Mapping[str, Any] = {}
        self.grower: Grower | None = None

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Make GPT-2's transposed layers into linear ones, before the Trainer makes the optimizer."""
        if model is not None:
            as_linear_(model, optimizer)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        train_dataloader: Iterable[Any],
        **kwargs: Any,
    ) -> None:
        """Read the model, and go on with a run that is resumed.

        Raises:
            InputError: The model can't grow in this Trainer; why, and what to do.
        """
        demand_alone(args)
        optimizer = innermost(optimizer)
        demand_owned(model, optimizer)
        with chance_kept(model), plain_forward(model):
            example = self._example or self._first(model, train_dataloader, args)
            self.grower = Grower(model, optimizer, self._loss, example, step=self._step, **self._options)
            saved = state.stateful_callbacks.get(KEY)
            if saved:
                self.grower.load_state_dict(read_state(saved["grower"]))
            self._tie(model, self.grower, saved)
        self._report(self.grower)

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        train_dataloader: Iterable[Any],
        **kwargs: Any,
    ) -> None:
        """Let the network grow if it is time."""
        grower = self.grower
        progress = min(state.global_step / state.max_steps, 1.0)
        if grower is None or state.global_step % self._every or grower.plan(progress, state.epoch or 0.0) is None:
            return
        demand_owned(model, grower.optimizer)
        known, in_order = len(grower.history), _in_order(model, grower.optimizer)
        with chance_kept(model), plain_forward(model):
            loader = self._batches(train_dataloader, args, state.global_step)
            grower.check(loader, progress, state.epoch or 0.0, _held_out(state))
            if any(event.growths for event in grower.history[known:]):
                self._describe(model, grower)
        if in_order:
            _order_(model, grower.optimizer)
        for event in grower.history[known:]:
            self._log(state, event)
        state.stateful_callbacks[KEY] = {"grower": written_state(grower.state_dict()), "start": dict(self._start)}

    def _tie(self, model: nn.Module, grower: Grower, saved: Mapping[str, Any] | None) -> None:
        """Let only that grow which a configuration describes, or each layer by itself."""
        if not isinstance(model, PreTrainedModel):
            return
        self._start = saved["start"] if saved else _present(model, grower)
        ties = None
        if self._uniform:
            if reason := why_not(model, grower.example):
                raise InputError(
                    f"the configuration of {type(model).__name__} does not describe it ({reason}): "
                    "make the model from its configuration, or pass uniform=False"
                )
            self._fields = fields_of(model, grower.axes)
            ties = {name: str(field) for field in self._fields for name in field.patterns}
            if not ties:
                why = "; ".join(dict.fromkeys(f"{axis.name}: {axis.reason or 'no field'}" for axis in grower.axes))
                raise InputError(
                    f"no field of the configuration of {type(model).__name__} sets axes that can grow, all of them and "
                    f"nothing else ({why}): pass uniform=False, and load the model with outgrow.huggingface.load"
                )
        grower.policy = Tied(
            grower.policy, ties, lambda: [place.name for place in grower.places if is_counted(place)]
        )

    def _describe(self, model: nn.Module, grower: Grower) -> None:
        """Write the sizes into the configuration, or what `load` needs where it has no fields for them."""
        if not isinstance(model, PreTrainedModel):
            return
        for field in self._fields:
            field.write_(model.config, {axis.name: axis.size for axis in grower.axes})
        vars(model.config).pop(KEY, None)
        if reason := why_not(model, grower.example):
            setattr(model.config, KEY, entry_of(model, grower, self._start))
            logger.warning(
                "outgrow: the configuration of %s has no fields for its sizes (%s): from_pretrained can't build what is "
                "saved from now on; load it with outgrow.huggingface.load(folder), or grow with uniform=True",
                type(model).__name__,
                reason,
            )

    def _report(self, grower: Grower) -> None:
        """Log what grows, what does not, and why."""
        if self._fields:
            logger.info("outgrow: grows %s", ", ".join(map(str, self._fields)))
        for axis in grower.axes:
            if not axis.growable:
                logger.info("outgrow: %s is fixed: %s", axis.name, axis.reason)
            elif isinstance(grower.policy, Tied) and not grower.policy.may_grow(axis.name):
                logger.info("outgrow: %s is fixed: no field of the configuration sets its size alone", axis.name)

    def _log(self, state: TrainerState, event: Event) -> None:
        logger.info("outgrow: step %d: %s", state.global_step, event)
        gains = [growth.gain for growth in event.growths if not math.isnan(growth.gain)]
        numbers = {"parameters": event.params_after, "gain": sum(gains), "check_seconds": event.seconds}
        entry = {f"outgrow/{name}": value for name, value in numbers.items()}
        state.log_history.append({**entry, "epoch": state.epoch, "step": state.global_step})

    def _batches(self, train: Any, args: TrainingArguments, step: int) -> Iterator[Any]:
        """Batches of the training set in an order that the step sets, as the Grower takes them."""
        for batch in self._loader or shuffled(train, args, step):
            yield _pair(batch) if self._loss else _plain(batch)

    def _first(self, model: nn.Module, train: Any, args: TrainingArguments) -> Example:
        """The first examples that checks read, without labels."""
        batch = _plain(next(iter(self._loader or shuffled(train, args, 0))))
        if not isinstance(batch, dict):
            raise InputError(f"expected batches that are dicts, received {type(batch).__name__}: pass example=")
        labels = {*find_labels(type(model)), *(args.label_names or ()), "labels"}
        example = {name: value for name, value in batch.items() if name not in labels}
        device = next(model.parameters()).device
        return {name: v[:SHOWN].to(device) if isinstance(v, Tensor) else v for name, v in example.items()}


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
    data = train.dataset
    if not has_length(data) or isinstance(data, torch.utils.data.IterableDataset):
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
    with frozen_state(nn.Module()), torch.random.fork_rng():
        yield


@contextmanager
def plain_forward(model: nn.Module) -> Iterator[None]:
    """Take off what accelerate puts around a model's forward pass, such as autocast to half precision."""
    around = vars(model).pop("forward", None) if hasattr(model, "_original_forward") else None
    try:
        yield
    finally:
        if around is not None:
            vars(model)["forward"] = around


def innermost(optimizer: Any) -> Optimizer:
    """Return the optimizer inside of accelerate's."""
    while not isinstance(getattr(optimizer, "optimizer", None), (type(None), property)):
        optimizer = optimizer.optimizer
    return optimizer


def demand_alone(args: TrainingArguments) -> None:
    """Check that one process trains one whole model, and needs it at the end as it is then.

    Raises:
        InputError: Several do, or the Trainer would load other sizes into it.
    """
    if args.world_size > 1 or args.n_gpu > 1:
        raise InputError(
            f"expected one process with one device, received {args.world_size} with {args.n_gpu}: the Trainer wraps a "
            "model once for all of them, and the wrapper would go on with the parameters from before a growth, so that "
            "they drift apart. Set CUDA_VISIBLE_DEVICES to one device, or use outgrow.Grower in a loop of your own, "
            "which wraps the model anew after each growth"
        )
    if args.deepspeed or args.fsdp:
        raise InputError("expected whole parameters, received DeepSpeed or FSDP, which shard them: train without it")
    if args.load_best_model_at_end:
        raise InputError(
            "load_best_model_at_end: expected False, received True: the best checkpoint may have other sizes than the "
            "model at the end; load it with from_pretrained(trainer.state.best_model_checkpoint)"
        )


def demand_owned(model: nn.Module, optimizer: Optimizer) -> None:
    """Check that an optimizer has all parameters of a model that are trained, and no others.

    Raises:
        InputError: It has not; which, and what to do.
    """
    owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    lost = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in owned]
    foreign = len(owned - {id(parameter) for parameter in model.parameters()})
    if lost or foreign:
        shown = f"{', '.join(lost[:3])}{' and others' if len(lost) > 3 else ''}" or "nothing"
        raise InputError(
            f"the optimizer lacks {shown} of the model's trained parameters, and has {foreign} that the model does not "
            "have: the model was changed after the optimizer was made. Change the model first and let the Trainer make "
            "the optimizer, or make it anew from model.parameters(); freeze what is not to be trained"
        )


def _present(model: PreTrainedModel, grower: Grower) -> dict[str, Any]:
    """The widths in a configuration that edits change, as they are now."""
    return {name: copy.copy(getattr(model.config, name)) for name in sorted(width_fields(grower.axes))}


def _held_out(state: TrainerState) -> float:
    """The loss of an evaluation at this very step; nan where there was none."""
    at = [entry for entry in state.log_history if entry.get("step") == state.global_step and "eval_loss" in entry]
    return float(at[-1]["eval_loss"]) if at else math.nan


def _plain(batch: Any) -> Any:
    return dict(batch) if isinstance(batch, Mapping) else batch


def _pair(batch: Any) -> tuple[Any, Any]:
    """The inputs and the labels of a batch."""
    inputs = _plain(batch)
    return {name: value for name, value in inputs.items() if name != "labels"}, inputs["labels"]


def _ranks(model: nn.Module) -> dict[int, int]:
    return {id(parameter): rank for rank, parameter in enumerate(model.parameters())}


def _in_order(model: nn.Module, optimizer: Optimizer) -> bool:
    """Whether an optimizer has the parameters of each group in the model's order, as the Trainer makes it."""
    ranks = _ranks(model)
    orders = [[ranks[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
    return all(order == sorted(order) for order in orders)


def _order_(model: nn.Module, optimizer: Optimizer) -> None:
    """Bring each group into the model's order, in which an optimizer made for the grown model has it, too."""
    ranks = _ranks(model)
    for group in optimizer.param_groups:
        group["params"].sort(key=lambda parameter: ranks[id(parameter)])
