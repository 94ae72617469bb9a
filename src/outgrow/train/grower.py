"""The Grower: the one object that a user's own training loop needs."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from outgrow.errors import InputError
from outgrow.grow.budget import Budget, Cost
from outgrow.grow.check import Verdict, add_unseen, check, demand_known_names
from outgrow.grow.curvature import Loss
from outgrow.grow.effort import Effort
from outgrow.grow.event import Event, Growth
from outgrow.grow.moments import Convention, Fisher, demand_known
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.policy import Plan, Policy, Situation, is_count
from outgrow.grow.precision import full_precision
from outgrow.grow.proposals import PASSES, demanded
from outgrow.grow.sample import (
    Sample,
    apart,
    chunk_of,
    counted,
    demand_rows,
    device_of,
    draw,
    draw_batches,
    examples_in,
    few,
    none_counts,
)
from outgrow.grow.setup import Setup
from outgrow.grow.step import Step, objective_of
from outgrow.net.axis import Axis
from outgrow.net.cost import parameters
from outgrow.net.inputs import Example
from outgrow.net.kernels import fast_path
from outgrow.net.newborns import Newborns
from outgrow.net.optimizers import Optimizers, each_of, owned_by
from outgrow.net.place import Place
from outgrow.net.preserve import frozen_state
from outgrow.net.surgery import tensors_of
from outgrow.train.growing import Growing, axes_to_try
from outgrow.train.inventory import Inventory
from outgrow.train.ranks import Agreed, Ranks
from outgrow.train.regrown import blocks_of, filled, regrow_, sizes_to_save

AGAIN_AT_MOST = 1_000  # looks at one moment: more than SENN's bound on them with any of its published thresholds
VERIFIED = 32  # examples on which an edit is verified


class Grower:
    """Widens, deepens and shrinks a model while a loop of the user's trains it, where that pays on fresh data.

    Where torch.distributed is initialised, every rank has one, and calls it at the same moments: see
    `outgrow.train.ranks`.

    Args:
        model: Any module that `torch.export` can export; edited in place. Of a wrapped one the module inside.
        optimizer: Its optimizer, or several that share it (Muon and AdamW): get the new parameters, and keep the state
            of the old ones.
        loss: Mean loss of an output and a target, twice differentiable and convex in the output, such as
            cross-entropy; or L1's and Huber's, whose straight lines count as curved (robust Gauss-Newton). The output
            is what the model returns: a tensor, or a nest of tensors. Where targets of a number don't count, it is
            -100, or its attribute or keyword `ignore_index`. None where `step` is given.
        example: One input: a tensor, a tuple of positional or a dict of keyword arguments.
        max_params: Budget of parameters; None for none.
        max_flops: Budget of forward FLOPs of one example.
        max_latency: Budget of the time of a forward pass on `example`, measured here [seconds].
        step: In place of `loss`, for whatever that can't say: called with the model and a batch of the loader, of any
            type, it returns their mean loss, without `backward`. Less is known then: see `outgrow.grow.step`.
        policy: When to look and what to add, in place of the default, `Proportional()`; see `outgrow.grow.policies`.
        averages: Averaged weights of the model, which grow along.
        before_growth: Called with the verdict when the network is about to change, also where units go: the moment to
            save a size.
        sample: Examples that propose units at a check; as many fresh ones judge them.
        check_flops: Floating-point operations that a check may take, in place of `sample`: as many examples are read as
            that affords (128 to 16,384), and as many positions of them as the layers' dimensions ask for. Two cores do
            60 GFLOP a second, about.
        proposal: How units are proposed, one of `outgrow.grow.proposals`: by the default policy, or by a given one that
            leaves it open (`random` then, where absent). One that has an `init` of its own goes by that, also
            `Proportional()` where it is given.
        damping: Share of the mean diagonal that is added to every K-FAC factor; chosen on held-out data where absent.
        jump_start: Whether the step that the gain stands for is taken: the network starts to use new units at once,
            and its function changes. They start unused otherwise.
        fisher: Which Fisher matrix the K-FAC factors approximate: the true one, or `empirical`, from the gradients of
            the loss as they are, which saves a backward pass.
        convention: How positions of convolutions and tokens enter the factors: `expand`, or `reduce`, a cheaper one.
        seed: Seed of everything random in the checks.

    Attributes:
        axes: Every axis of the model as it is now.
        history: Every check so far but those for which it was not time: also growths without a look, and empty plans.

    Raises:
        InputError: The model can't be exported, or nothing of it can grow, or the budget is below its size, or the
            optimizer has none of its parameters, or was made before somebody edited the model, or the model is wrapped
            or sharded for several processes, or both or neither of loss and step are given, or another argument is out
            of range.

    Examples:
        >>> torch.manual_seed(1) and None
        >>> x = torch.randn(512, 5)
        >>> y = x.square().sum(1, keepdim=True)
        >>> model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        >>> grower = Grower(model, optimizer, nn.functional.mse_loss, x[:1], max_params=50)
        >>> for _ in range(100):
        ...     optimizer.zero_grad()
        ...     nn.functional.mse_loss(model(x), y).backward()
        ...     optimizer.step()
        >>> event = grower.check([(x, y)])
        >>> event.params_before, event.params_after, model[0].out_features
        (29, 43, 6)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        loss: Loss | None,
        example: Example,
        *,
        step: Step | None = None,
        max_params: int | None = None,
        max_flops: int | None = None,
        max_latency: float | None = None,
        policy: Policy | None = None,
        averages: Sequence[AveragedModel] = (),
        before_growth: Callable[[Verdict], None] | None = None,
        sample: int = 1024,
        check_flops: float | None = None,
        proposal: str | None = None,
        damping: float | None = None,
        jump_start: bool = False,
        fisher: Fisher = "true",
        convention: Convention = "expand",
        seed: int = 0,
    ) -> None:
        demand_known("Fisher matrix", fisher, get_args(Fisher))
        demand_known("convention", convention, get_args(Convention))
        _demand_plain(model)
        self.model, self.optimizers, self.example = model, each_of(optimizer), example
        self.loss, self.step, self._objective = loss, step, objective_of(loss, step)
        self.policy: Policy = policy or (Proportional(init=proposal) if proposal else Proportional())
        self.budget = Budget(max_params, max_flops, max_latency)
        self.averages, self.sample, self.check_flops = tuple(averages), sample, check_flops
        self.proposal, self.damping, self.jump_start = demanded(proposal or "random"), damping, jump_start
        self.fisher, self.convention, self.before_growth = fisher, convention, before_growth
        self.history: list[Event] = []
        self._calls = 0
        self.axes: list[Axis] = axes_to_try(model, example)
        self._failed: dict[str, str] = {}  # places where a block could not be inserted, and why
        self._now = Inventory(self.model, self.example, self.axes)
        self._generator = torch.Generator().manual_seed(seed)
        if check_flops is not None and not check_flops > 0:
            raise InputError(f"expected check_flops above zero, got {check_flops}")
        if damping is not None and not 0 <= damping < math.inf:
            raise InputError(f"expected a damping of at least 0, got {damping}")
        if not is_count(sample) or sample < 2:
            raise InputError(f"expected a sample of at least 2 examples, got {sample}")
        self.sample = int(sample)
        if isinstance(policy, type) or not hasattr(self.policy, "propose"):
            raise InputError(f"expected a policy such as outgrow.Proportional(), got {policy!r}")
        if not any(axis.growable for axis in self.axes):
            why = "; ".join(dict.fromkeys(f"{axis.name}: {axis.reason}" for axis in self.axes[:3])) or "it has no axis"
            raise InputError(f"nothing of {type(model).__name__} can grow ({why}): see outgrow.axes(model, example)")
        self.budget.demand_room(self.cost())
        if not self.optimizers:
            raise InputError("expected the optimizer that trains the model, or several in a list, got none")
        self._demand_followed()
        self._shapes = _shapes(model)
        for one in self.optimizers:
            Newborns.follow(one)  # its state may have births, from growths before it was saved and loaded

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f"Grower({parameters(self.model):,} parameters; {sizes}; {len(self.history)} checks)"

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers beside model, optimizer and averages: JSON values, and a uint8 `generator`."""
        return {
            "calls": self._calls,
            "failed": dict(self._failed),
            "fixed": {axis.name: axis.reason for axis in self.axes if not axis.growable},
            "grown": sizes_to_save(self.model, self.axes),
            "history": [event.to_json() for event in self.history],
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the Grower that this is the state of; load the states of model, optimizer and averages after it.

        A model as it was before it grew grows again first, in place, with its optimizer and averages, so that their
        states fit. What grew is NaN until then.

        Args:
            state: What `state_dict` returned.

        Raises:
            InputError: The model is another one.

        Examples:
            >>> def fresh():
            ...     model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
            ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            ...     return model, Grower(model, optimizer, nn.functional.mse_loss, torch.zeros(1, 5), policy=Schedule())
            >>> from outgrow.grow.policies.schedule import Schedule
            >>> model, grower = fresh()
            >>> grower.check([]).params_after, model[0].out_features
            (43, 6)
            >>> again, other = fresh()
            >>> other.load_state_dict(grower.state_dict())
            >>> again.load_state_dict(model.state_dict())
            <All keys matched successfully>
            >>> again[0].out_features, other.sizes == grower.sizes
            (6, True)
        """
        if "grown" not in state:
            raise InputError("expected a state with the sizes that had grown, received one of an earlier version")
        history = [*map(Event.from_json, state["history"])]
        regrow_(self.model, self.optimizers, self.averages, self.example, blocks_of(history), state["grown"])
        self._calls, self._failed = state["calls"], dict(state["failed"])
        self.history[:] = history
        self._generator.set_state(state["generator"].cpu())
        why = state["fixed"]
        with filled(self.model):
            found = axes_to_try(self.model, self.example)
        self.axes = [replace(axis, growable=axis.name not in why, reason=why.get(axis.name, "")) for axis in found]
        self._now, self._shapes = Inventory(self.model, self.example, self.axes), _shapes(self.model)

    @property
    def sizes(self) -> dict[str, int]:
        """Units of every axis that can grow, by name."""
        return {axis.name: axis.size for axis in self.axes if axis.growable}

    @property
    def flops(self) -> int:
        """Forward FLOPs of one example of the model as it is now."""
        return self._now.flops

    def cost(self) -> Cost:
        """Return what the model costs as it is now; its latency is measured where the budget limits it."""
        return self._now.cost(timed=self.budget.max_latency is not None)

    @property
    def start_flops(self) -> float:
        """What starting one pass through the model costs, in the FLOPs that could be done meanwhile."""
        return self._now.start

    @property
    def places(self) -> list[Place]:
        """Every place of the model as it is now where a block can be tried; looked for when first asked."""
        return [place for place in self._now.places if place.name not in self._failed]

    def effort(self, plan: Plan | None = None) -> Effort:
        """Return how many examples and positions a check reads, and what it costs, before it starts.

        Args:
            plan: What is on trial, as `policy.propose(situation)` gives it; where absent, units on every axis that are
                proposed as the policy does it.

        Returns:
            The effort; what a block's own moments read is not in its positions.
        """
        return self._now.effort(plan, self._proposal(plan), self.sample, self.check_flops)

    def plan(self, progress: float | None = None, epoch: float | None = None) -> Plan | None:
        """Return what a check would put on trial now; None while it is not time. The arguments are those of `check`."""
        return self._plan(self.situation(progress, epoch))

    def _plan(self, now: Situation) -> Plan | None:
        return demand_known_names(self.policy.propose(now), self.policy, self.axes, lambda: self._now.found)

    def situation(self, progress: float | None = None, epoch: float | None = None) -> Situation:
        """Return what a policy sees now; see `check`."""
        cost = self.cost()
        return Situation(
            sizes=self.sizes,
            cost=cost,
            cost_with=partial(self._now.cost_with, cost, self.axes),
            progress=progress,
            epoch=self._calls if epoch is None else epoch,
            history=tuple(self.history),
            budget=self.budget,
            places=lambda: tuple(place.name for place in self.places),
        )

    def check(
        self,
        loader: Iterable[Any],
        progress: float | None = None,
        epoch: float | None = None,
        held_out: float = math.nan,
    ) -> Event:
        """Look whether the network should grow, and let it grow; costs nothing while the policy says it is not time.

        Args:
            loader: Yields (inputs, target), or what `step` takes; as many examples as `effort` says are read for each
                part, none for a plan without evidence. Best shuffled, without augmentation.
            progress: Share of the run that is over, 0 to 1, where it is known: the policy then spreads its events.
            epoch: Epochs trained so far, for policies that count them; the number of calls where absent.
            held_out: Mean loss now on examples that are not trained on, where it is known [nats]. Without a limit the
                default policy then goes by it, and not by the loss of examples that a network may know by heart.

        Returns:
            What was seen and done; where the policy looked again at once, the last event that changed something, and
            `history` holds all. The model, its optimizer and averages have been edited in place.

        Raises:
            FloatingPointError: The model's weights are not finite, or the loss of the examples.
            InputError: The loader's items, `progress`, or the policy's plan or decision are not what is expected, or
                the ranks have different weights, or somebody else has edited the model.
        """
        progress, epoch = (None if value is None else _plain(value) for value in (progress, epoch))
        held_out = _plain(held_out)
        if progress is not None and not 0 <= progress <= 1:
            raise InputError(f"expected the progress of the run as 0 to 1, got {progress}")
        (event, again), looks = self._look_once(loader, progress, epoch, held_out), 1
        while again:
            if looks == AGAIN_AT_MOST:
                raise InputError(
                    f"policy {type(self.policy).__name__}: expected its looks at one moment to end, received "
                    f"again=True from {looks:,} of them: let it stop, or give a budget that it keeps to"
                )
            following, again = self._look_once(loader, progress, epoch, held_out)
            looks += 1
            if following.growths or (following.event and not event.growths):
                event = following
        self._calls += 1
        return event

    def _look_once(
        self, loader: Iterable[Any], progress: float | None, epoch: float | None, held_out: float
    ) -> tuple[Event, bool]:
        """One event, and whether the policy wants another one at once."""
        started, ranks = time.perf_counter(), Ranks()
        now = replace(self.situation(progress, epoch), held_out=ranks.mean(held_out))
        plan = ranks.agreed(self._plan(now))
        params = now.cost.params
        unchanged = partial(Event, gain_now=None, candidates=(), growths=(), params_before=params, params_after=params)
        unchanged = partial(unchanged, seconds=0.0, flops=0, progress=progress, epoch=now.epoch)
        if plan is None:
            return unchanged(event=0, reason="not yet due"), False
        number = len(self.history) + 1
        if not plan:
            self.history.append(unchanged(event=number, reason=plan.reason))
            return self.history[-1], False
        ranks.demand_same(self.model)
        self._demand_followed()
        if _shapes(self.model) != self._shapes:
            raise InputError(
                f"somebody else has edited {type(self.model).__name__} since this Grower was made or let it grow: edit "
                "it before, or make another Grower of it"
            )
        ranks.level_(self._tensors())  # buffers may differ
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise FloatingPointError("the model's weights are no longer finite: lower the learning rate")
        with full_precision(), fast_path(False):
            setup = self._setup(plan, ranks.together(apart(loader)))
            policy = Agreed(self.policy, ranks) if ranks.count > 1 else self.policy
            verdict = add_unseen(setup, plan) if plan.evidence == "none" else check(setup, plan, policy, now)
        if verdict and self.before_growth is not None:
            paused = time.perf_counter()
            self.before_growth(verdict)
            started += time.perf_counter() - paused  # saving a size is not part of the check
        seen = setup.sample.b or setup.sample.a
        with full_precision():
            inputs = self.example if self.loss is None or not seen else few(seen[0].inputs, VERIFIED)
            failed = len(self._failed)
            growths = self._grow(verdict, inputs, setup.jump_start)
        ranks.level_(self._tensors())
        event = Event(
            event=number,
            gain_now=verdict.gain_now,
            candidates=verdict.candidates,
            growths=growths,
            params_before=params,
            params_after=parameters(self.model),
            reason=verdict.decision.reason,
            seconds=time.perf_counter() - started,
            flops=verdict.flops,
            progress=progress,
            examples=verdict.examples,
            epoch=now.epoch,
            loss=verdict.loss,
            held_out=now.held_out,
        )
        event = ranks.agreed(event)
        self.history.append(event)
        return event, verdict.decision.again and (bool(growths) or len(self._failed) > failed)

    def _proposal(self, plan: Plan | None) -> str:
        """How units are proposed: as the plan says, or the policy, or this Grower."""
        said = plan.init if plan else getattr(self.policy, "init", None)
        return self.proposal if said is None else demanded(said)

    def _setup(self, plan: Plan, loader: Iterable[Any]) -> Setup:
        proposal, effort = self._proposal(plan), self.effort(plan)
        if plan.evidence == "none" and not PASSES[proposal] and not plan.removals:
            sample = Sample((), ())
        else:
            read = draw if self.step is None else draw_batches
            sample = read(loader, effort.examples, device_of(self.model), chunk_of(self.flops))
            sample = self._counted(sample)
            effort = effort.of_fewer(examples_in(sample.a))
            if self.step is None:
                demand_rows(self.example, sample.a[0].inputs)
            if plan.evidence != "gain" and not plan.removals:  # nothing is judged
                sample = Sample((*sample.a, *sample.b), ())
        return Setup(
            model=self.model,
            axes=self.axes,
            places=self.places if plan.blocks else (),
            counts=self._now.counts,
            sample=sample,
            objective=self._objective,
            example=self.example,
            generator=self._generator,
            damping=self.damping,
            proposal=proposal,
            positions=effort.positions,
            jump_start=self.jump_start if plan.jump_start is None else plan.jump_start,
            fisher=self.fisher,
            convention=self.convention,
            judged=plan.evidence == "gain",
            diagonal=plan.diagonal,
        )

    def _counted(self, sample: Sample) -> Sample:
        """Weigh batches by the targets that count, where the loss is the mean over these alone."""
        weighed = counted(sample, self.loss)
        if all(batch.share == 1 for batch in (*weighed.a, *weighed.b)) and len(weighed.a) == len(sample.a):
            return weighed
        with frozen_state(self.model):
            of_none = self._objective.mean(self.model.eval(), none_counts(sample.a[0], self.loss), {})
        return sample if math.isfinite(of_none) else weighed

    def _tensors(self) -> list[Tensor]:
        return [tensor for one in (self.model, *self.averages) for tensor in tensors_of(one).values()]

    def _grow(self, verdict: Verdict, inputs: Example, jump_start: bool) -> tuple[Growth, ...]:
        """Do what was decided on."""
        growing = Growing(self.model, self.axes, self.example, inputs, self.optimizers, self.averages, self._generator)
        growths = growing.apply(verdict, jump_start)
        self.axes, self._failed = growing.axes, self._failed | growing.failed
        if growths:
            self._now, self._shapes = Inventory(self.model, self.example, self.axes), _shapes(self.model)
        return growths

    def _demand_followed(self) -> None:
        """Check that the optimizers were made for the model as it is, or have followed its edits."""
        present, owned = {id(p) for p in self.model.parameters()}, owned_by(self.optimizers)
        for number, one in enumerate(self.optimizers, 1):
            if present.isdisjoint(owned_by([one])):
                which = f"optimizer {number} ({type(one).__name__})" if len(self.optimizers) > 1 else "the optimizer"
                raise InputError(f"{which} has none of the model's parameters: build it from model.parameters()")
        lacking = {id(p) for p in self.model.parameters() if p.requires_grad} - owned
        if lacking and (foreign := owned - present):
            raise InputError(
                f"the optimizer lacks {len(lacking)} of the model's trained parameters, and has {len(foreign)} that "
                "the model does not have: the model was edited after the optimizer was made; pass edits optimizer=, or "
                "make the optimizer anew"
            )


def _plain(value: Any) -> float:
    """A number of any kind as one of Python's: what is remembered has to be saved."""
    return float(value.detach() if isinstance(value, Tensor) else value)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    """The shapes of a model's parameters, which an edit changes."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def _demand_plain(model: nn.Module) -> None:
    """Check that a model is neither wrapped nor sharded for several processes."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise InputError(
            f"expected the module itself, received {type(model).__name__} around it: pass model.module, and wrap that "
            "anew after each growth"
        )
    if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
        raise InputError(
            "expected whole parameters, received a model that is sharded over processes: grow it before that, or train "
            "it with DistributedDataParallel"
        )
