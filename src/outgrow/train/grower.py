"""The Grower: the one object that a user's own training loop needs."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import EditError, InputError
from outgrow.grow.check import Chosen, Verdict, check
from outgrow.grow.curvature import Loss
from outgrow.grow.event import Event, Growth
from outgrow.grow.objective import OutputLoss
from outgrow.grow.policy import Policy, Proportional, Situation
from outgrow.grow.proposals import NAMES as PROPOSALS
from outgrow.grow.sample import Batch, as_tensors, chunk_of, device_of, draw
from outgrow.grow.trial import can_try
from outgrow.net.axes import axes
from outgrow.net.axis import Axis
from outgrow.net.cost import flops, parameters, parameters_after
from outgrow.net.edit import Edit
from outgrow.net.inputs import Example
from outgrow.net.newborns import Newborns
from outgrow.net.widen import apply_


class Grower:
    """Widens a model while a loop of the user's trains it, where that pays on fresh data.

    Args:
        model: Any module that `torch.export` can export; edited in place.
        optimizer: Its optimizer; gets the new parameters, and keeps the state of the old ones.
        loss: Mean loss of an output and a target, twice differentiable in the output.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments.
        max_params: Budget of parameters; None for none.
        policy: When to look and what to add, in place of `Proportional(max_params)`.
        averages: Averaged weights of the model, which grow along.
        before_growth: Called with the verdict when the network is about to grow: the moment to save a size.
        sample: Examples that propose units at a check; as many fresh ones judge them.
        proposal: How units are proposed: `random`, or `closed` for the closed form.
        damping: Share of the mean diagonal that is added to every K-FAC factor.
        seed: Seed of everything random in the checks.

    Attributes:
        axes: Every axis of the model as it is now.
        history: Every check so far that looked at candidates.
        flops: Forward FLOPs of one example of the model as it is now.

    Raises:
        InputError: The model can't be exported, or nothing of it can grow, or the budget is below its size, or the
            optimizer has none of its parameters, or both a budget and a policy are given, or another argument is out
            of range.

    Examples:
        >>> torch.manual_seed(0) and None
        >>> x = torch.randn(512, 5)
        >>> y = x.square().sum(1, keepdim=True)
        >>> model = nn.Sequential(nn.Linear(5, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> grower = Grower(model, optimizer, nn.functional.mse_loss, x[:1], max_params=50)
        >>> event = grower.check([(x, y)])
        >>> event.params_before, event.params_after, model[0].out_features
        (15, 22, 3)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        example: Example,
        *,
        max_params: int | None = None,
        policy: Policy | None = None,
        averages: Sequence[AveragedModel] = (),
        before_growth: Callable[[Verdict], None] | None = None,
        sample: int = 1024,
        proposal: str = "random",
        damping: float = 0.3,
        seed: int = 0,
    ) -> None:
        self.model, self.optimizer, self.loss, self.example = model, optimizer, loss, example
        self.policy: Policy = policy if policy is not None else Proportional(max_params)
        self.averages, self.sample, self.proposal, self.damping = tuple(averages), sample, proposal, damping
        self.before_growth = before_growth
        self.history: list[Event] = []
        self.axes: list[Axis] = [
            replace(a, growable=not why, reason=why) for a in axes(model, example) for why in [can_try(model, a)]
        ]
        self.flops = self._count_flops()
        self._generator = torch.Generator().manual_seed(seed)
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if policy is not None and max_params is not None:
            raise InputError("give either max_params or a policy, which has a budget of its own")
        if sample < 2:
            raise InputError(f"expected a sample of at least 2 examples, got {sample}")
        if proposal not in PROPOSALS:
            raise InputError(f"unknown proposal '{proposal}': choose one of {', '.join(PROPOSALS)}")
        if not any(axis.growable for axis in self.axes):
            raise InputError(f"nothing of {type(model).__name__} can grow: see outgrow.axes(model, example)")
        if max_params is not None and max_params < parameters(model):
            raise InputError(f"the budget of {max_params:,} parameters is below the seed's {parameters(model):,}")
        if not any(id(parameter) in owned for parameter in model.parameters()):
            raise InputError("the optimizer has none of the model's parameters: build it from model.parameters()")
        Newborns.follow(optimizer)  # its state may have births, from growths before it was saved and loaded

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f"Grower({parameters(self.model):,} parameters; {sizes}; {len(self.history)} checks)"

    @property
    def sizes(self) -> dict[str, int]:
        """Units of every axis that can grow, by name."""
        return {axis.name: axis.size for axis in self.axes if axis.growable}

    def _count_flops(self) -> int:
        return flops(self.model, self.example) // len(as_tensors(self.example)[0])

    def situation(self, progress: float | None = None) -> Situation:
        """Return what a policy sees now; `progress` is the share of the run that is over, 0 to 1."""
        return Situation(
            sizes=self.sizes,
            params=parameters(self.model),
            params_after=lambda units: parameters_after(self.model, self.axes, units),
            progress=progress,
            history=tuple(self.history),
        )

    def check(self, loader: Iterable[Any], progress: float | None = None) -> Event:
        """Look whether the network should grow, and let it grow; costs nothing while the policy says it is not time.

        Args:
            loader: Yields (inputs, target); the first `2 * sample` examples are read. Best shuffled, without
                augmentation.
            progress: Share of the run that is over, 0 to 1, where it is known: the policy then spreads its events.

        Returns:
            What was seen and done. The model, its optimizer and averages have been edited in place.

        Raises:
            FloatingPointError: The model's weights are not finite.
            InputError: The loader's items or `progress` are not what is expected.
        """
        if progress is not None and not 0 <= progress <= 1:
            raise InputError(f"expected the progress of the run as 0 to 1, got {progress}")
        started = time.perf_counter()
        now = self.situation(progress)
        proposed = self.policy.propose(now)
        if proposed is None:
            return Event(0, None, (), (), now.params, now.params, "not yet due", 0.0, 0, progress)
        number = len(self.history) + 1
        if not proposed.units:
            self.history.append(Event(number, None, (), (), now.params, now.params, proposed.reason, 0.0, 0, progress))
            return self.history[-1]
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise FloatingPointError("the model's weights are no longer finite: lower the learning rate")
        sample = draw(loader, self.sample, device_of(self.model), chunk_of(self.flops))
        verdict = check(
            self.model,
            self.axes,
            proposed.units,
            sample=sample,
            objective=OutputLoss(self.loss),
            example=self.example,
            policy=self.policy,
            now=now,
            generator=self._generator,
            damping=self.damping,
            proposal=self.proposal,
        )
        if verdict.chosen and self.before_growth is not None:
            paused = time.perf_counter()
            self.before_growth(verdict)
            started += time.perf_counter() - paused  # saving a size is not part of the check
        growths = self._apply(verdict.chosen, sample.b[0])
        self.flops = self._count_flops() if growths else self.flops
        event = Event(
            event=number,
            gain_now=verdict.gain_now,
            candidates=verdict.candidates,
            growths=growths,
            params_before=now.params,
            params_after=parameters(self.model),
            reason=verdict.decision.reason,
            seconds=time.perf_counter() - started,
            flops=verdict.flops,
            progress=progress,
        )
        self.history.append(event)
        return event

    def _apply(self, chosen: Sequence[Chosen], batch: Batch) -> tuple[Growth, ...]:
        """Apply growths in one edit; where that fails, without those that fail alone, whose axes are frozen."""
        if not chosen:
            return ()
        try:
            return self._applied(chosen, self._edit(chosen, batch))
        except EditError as error:
            failed = {one.widening.axis.name: why for one in chosen if (why := self._failure(one, batch))}
            failed = failed or {chosen[-1].widening.axis.name: str(error)}  # each one alone would do, not all together
        self.axes = [
            replace(axis, growable=False, reason=failed[axis.name]) if axis.name in failed else axis
            for axis in self.axes
        ]
        return self._apply([one for one in chosen if one.widening.axis.name not in failed], batch)

    def _failure(self, one: Chosen, batch: Batch) -> str:
        """Why a growth can't be applied by itself, or an empty string."""
        try:
            self._edit([one], batch).undo()
        except EditError as error:
            return str(error)
        return ""

    def _edit(self, chosen: Sequence[Chosen], batch: Batch) -> Edit:
        return apply_(
            self.model,
            self.axes,
            [one.widening for one in chosen],
            inputs=batch.inputs,
            optimizer=self.optimizer,
            averages=self.averages,
            generator=self._generator,
        )

    def _applied(self, chosen: Sequence[Chosen], edit: Edit) -> tuple[Growth, ...]:
        growths = []
        for i, one in enumerate(chosen):
            without = [{c.widening.axis.name: -c.widening.units for c in chosen[j:]} for j in (i, i + 1)]
            before, after = (parameters_after(self.model, edit.axes, units) for units in without)
            axis, units = one.widening.axis, one.widening.units
            growths.append(
                Growth(
                    kind="widen",
                    where=axis.name,
                    units=units,
                    size_before=axis.size,
                    size_after=axis.size + units,
                    gain=one.gain.gain,
                    se=one.gain.se,
                    realised=one.realised,
                    moved=edit.moved if edit.moved is not None else 0.0,
                    params=after - before,
                )
            )
        self.axes = edit.axes
        return tuple(growths)
