"""Hugging Face: a callback that lets the model of any Trainer grow while it trains."""

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.pytorch_utils import Conv1D

from outgrow.errors import InputError
from outgrow.grow.event import Event
from outgrow.grow.sample import apart
from outgrow.integrations.conv1d import as_linear_
from outgrow.integrations.described import Field, fields_of, is_counted, stays_valid, why_not, width_fields
from outgrow.integrations.examples import chance_kept, example_of, own_loss, pair, plain, plain_forward, shuffled
from outgrow.integrations.optimizers import demand_owned
from outgrow.integrations.reloaded import KEY, entry_of, read_state, written_state
from outgrow.integrations.tied import Tied
from outgrow.net.axes import find_axis
from outgrow.net.inputs import Example
from outgrow.net.optimizers import innermost
from outgrow.train.allowance import Allowance
from outgrow.train.grower import Grower

logger = logging.getLogger("outgrow")


class Growing(TrainerCallback):
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
        **options: Further arguments of `Grower`, such as `policy`. Without `sample` and `check_flops` checks take about
            2 % of the training, 10 % where it is short, and a run that is too short for that has fewer of them, at
            least one.

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
        self._every, self._uniform = every_n_steps, uniform
        self._loss, self._example, self._loader = loss, example, loader
        self._step = step or (None if loss else own_loss)
        self._fields: list[Field] = []
        self._start: Mapping[str, Any] = {}
        self._allowance: Allowance | None = None
        self.grower: Grower | None = None

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Make GPT-2's transposed layers into linear ones, before the Trainer makes the optimizer."""
        if kwargs.get("model") is not None:
            as_linear_(kwargs["model"], kwargs.get("optimizer"))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the model, and go on with a run that is resumed.

        Raises:
            InputError: The model can't grow in this Trainer; why, and what to do.
        """
        demand_one_device(args)
        model, optimizer = kwargs["model"], innermost(kwargs["optimizer"])
        demand_linear(model)
        demand_owned(model, [optimizer])
        saved = _kept(state).get(KEY)
        with chance_kept(model), plain_forward(model):
            example = self._example
            if example is None:
                batch = next(iter(self._read(kwargs["train_dataloader"], args, 0)))
                example = example_of(model, batch, args.label_names or ())
            self.grower = Grower(model, optimizer, self._loss, example, step=self._step, **self._options)
            self._allow(self.grower, args, state.max_steps, saved["events"] if saved else None)
            if saved:
                self.grower.load_state_dict(read_state(saved["grower"]))
            self._tie(model, self.grower, saved)
        self._report(self.grower)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the network grow if it is time."""
        grower, model = self.grower, kwargs["model"]
        if grower is None or state.global_step % self._every:
            return
        if self._allowance is not None:
            self._allowance.renew_()
        known, progress = len(grower.history), min(state.global_step / state.max_steps, 1.0)
        with chance_kept(model), plain_forward(model):
            loader = self._batches(grower, kwargs["train_dataloader"], args, state.global_step)
            grower.check(loader, progress, state.epoch or 0.0, _held_out(state))
            if any(event.growths for event in grower.history[known:]):
                self._describe(model, grower)
        for event in grower.history[known:]:
            self._log(state, event)
        if len(grower.history) > known:
            events = self._allowance.events if self._allowance else None
            kept = {"grower": written_state(grower.state_dict()), "start": dict(self._start), "events": events}
            _kept(state)[KEY] = kept

    def _allow(self, grower: Grower, args: TrainingArguments, steps: int, events: int | None) -> None:
        """Let checks take a small share of the training, where no option says what they read."""
        if not self._options.keys() & {"sample", "check_flops"}:
            batch = args.train_batch_size * args.gradient_accumulation_steps
            self._allowance = Allowance.of_run(grower, steps, batch, events)

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
        fields = {str(field): field for field in self._fields}

        def takes(tie: str, size: int) -> bool:
            if ties is None:
                return stays_valid(model.config, find_axis(grower.axes, tie), size)
            return tie not in fields or fields[tie].takes(model.config, size)

        grower.policy = Tied(
            grower.policy,
            ties,
            blocks=lambda: [place.name for place in grower.places if is_counted(place)],
            takes=takes,
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
                "outgrow: the configuration of %s has no fields for its sizes (%s): from_pretrained can't build what "
                "is saved from now on; load it with outgrow.huggingface.load(folder), or grow with uniform=True",
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

    def _read(self, train: Any, args: TrainingArguments, step: int) -> Iterable[Any]:
        """What looks read."""
        return shuffled(train, args, step) if self._loader is None else apart(self._loader)

    def _batches(self, grower: Grower, train: Any, args: TrainingArguments, step: int) -> Iterator[Any]:
        """Batches of the training set in an order that the step sets, as the Grower takes them."""
        demand_owned(grower.model, grower.optimizers)
        for batch in self._read(train, args, step):
            yield pair(batch) if self._loss else plain(batch)


def demand_one_device(args: TrainingArguments) -> None:
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


def demand_linear(model: nn.Module) -> None:
    """Check that GPT-2's transposed layers have been made into linear ones.

    Raises:
        InputError: They have not, since the callback came too late for that.
    """
    if any(type(module) is Conv1D for module in model.modules()):
        raise InputError(
            f"expected the callback from the start, received it when {type(model).__name__} had an optimizer, before "
            "which its Conv1D layers have to become linear ones: Trainer(model=..., callbacks=[Growing(...)])"
        )


def _present(model: PreTrainedModel, grower: Grower) -> dict[str, Any]:
    """The widths in a configuration that edits change, as they are now."""
    return {name: copy.copy(getattr(model.config, name)) for name in sorted(width_fields(grower.axes))}


def _kept(state: TrainerState) -> dict[str, Any]:
    """What a checkpoint keeps of callbacks, by name."""
    return cast(dict[str, Any], state.stateful_callbacks)


def _held_out(state: TrainerState) -> float:
    """The loss of an evaluation at this very step; nan where there was none."""
    latest = takewhile(lambda entry: entry.get("step") == state.global_step, reversed(state.log_history))
    return float(next((entry["eval_loss"] for entry in latest if "eval_loss" in entry), math.nan))
