"""One check: put units on trial, score and judge them, decide, and measure what was decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from outgrow.errors import InputError
from outgrow.grow.event import Candidate
from outgrow.grow.gain import Gain, mean_loss, realised
from outgrow.grow.moments import factor_cost
from outgrow.grow.objective import Objective
from outgrow.grow.policy import Decision, Policy, Situation
from outgrow.grow.proposals import propose
from outgrow.grow.sample import Batch, Sample, chunk_of, examples_in
from outgrow.grow.trial import Trial, tried
from outgrow.net.axis import Axis
from outgrow.net.cost import flops_after, flops_by_weight, parameters_after
from outgrow.net.inputs import Example
from outgrow.net.widening import Widening

A_PASSES = 6  # in forward passes: statistics of norms, the moments' own, and two backward passes of two
TRIAL_COST = 1.6  # forward FLOPs of a model with units on trial against those of the model as it is, about


@dataclass(frozen=True)
class Chosen:
    """A growth that was decided on, ready to be applied.

    Args:
        widening: The units, with their weights and statistics.
        gain: What they are worth on part B.
        realised: Drop of the loss on part B when the step is taken [nats].
    """

    widening: Widening
    gain: Gain
    realised: float


@dataclass(frozen=True)
class Verdict:
    """What a check found: candidates, the decision, and the growths that it led to."""

    gain_now: float
    candidates: tuple[Candidate, ...]
    decision: Decision
    chosen: tuple[Chosen, ...]
    flops: int


def check(
    model: nn.Module,
    found: Sequence[Axis],
    units: Mapping[str, int],
    *,
    sample: Sample,
    objective: Objective,
    example: Example,
    policy: Policy,
    now: Situation,
    generator: torch.Generator,
    damping: float,
    proposal: str,
) -> Verdict:
    """Run one check; the model is not changed.

    Args:
        model: The model as it is.
        found: All its axes.
        units: Units to put on trial, by axis.
        sample: Examples that propose, and fresh ones that judge.
        objective: What the model is trained for.
        example: One input, for counting FLOPs.
        policy: Decides.
        now: What the policy sees.
        generator: The source of everything random.
        damping: Share of the mean diagonal that is added to every K-FAC factor.
        proposal: How units are proposed: `random` or `closed`.

    Returns:
        What was found and decided.

    Raises:
        InputError: The policy decided on units that were not on trial.
    """
    on_trial = tried(model, found, units)
    widenings = [propose(proposal, model, axis, units[axis.name], sample.a, objective, generator) for axis in on_trial]
    trial = Trial(model, found, widenings, sample.a, objective, generator, damping)
    counts = flops_by_weight(model, example)
    base = sum(counts.values())
    scored = [trial.scored(axis.name, units[axis.name]) for axis in on_trial]
    judged = trial.judged([trial.present_step(), *(tangent for _, _, tangent in scored)], sample.b)
    gain_now = judged.alone(0).gain
    candidates = []
    for i, (axis, (score, bound, _)) in enumerate(zip(on_trial, scored, strict=True), 1):
        added, gain = {axis.name: units[axis.name]}, judged.alone(i)
        candidates.append(
            Candidate(
                kind="widen",
                where=axis.name,
                units=units[axis.name],
                params=parameters_after(model, found, added) - now.params,
                flops=flops_after(model, found, added, counts) - base,
                gain=gain.gain,
                se=gain.se,
                score=score,
                bound=bound,
            )
        )
    decision = policy.decide(now, candidates, gain_now)
    _demand_offered(decision, candidates, policy)
    chosen = _chosen(trial, decision, sample.b) if decision.units else ()
    forward = flops_after(model, found, {axis.name: units[axis.name] for axis in on_trial}, counts)
    products = 1 + len(scored) + (2 + 2 * len(chosen) if chosen else 0)
    spent = forward * (A_PASSES * examples_in(sample.a) + products * examples_in(sample.b)) + trial.factor_flops
    return Verdict(gain_now, tuple(candidates), decision, chosen, spent)


def _chosen(trial: Trial, decision: Decision, batches: Sequence[Batch]) -> tuple[Chosen, ...]:
    """Judge what was decided on, which may be fewer units than were on trial, and take the steps."""
    tangents = [trial.scored(name, count)[2] for name, count in decision.units.items()]
    judged = trial.judged(tangents, batches)
    before = mean_loss(trial.model, batches, trial.objective)
    chosen = []
    for i, (name, count) in enumerate(decision.units.items()):
        gain = judged.alone(i)
        drop = realised(trial.model, tangents[i], gain.step, batches, trial.objective, before)
        chosen.append(Chosen(trial.widening(name, count), gain, drop))
    return tuple(chosen)


def _demand_offered(decision: Decision, candidates: Sequence[Candidate], policy: Policy) -> None:
    offered = {c.where: c.units for c in candidates}
    for axis, count in decision.units.items():
        if not 1 <= count <= offered.get(axis, 0):
            raise InputError(
                f"policy {type(policy).__name__} decided on {count} units of '{axis}', expected 1 to "
                f"{offered.get(axis, 0)} as were on trial"
            )


def affordable_examples(budget: float, model: nn.Module, found: Sequence[Axis], forward: int, start: float) -> int:
    """Return the examples of each part for which a check keeps within a budget, known before it starts.

    Args:
        budget: What the check may cost [flops].
        model: The model as it is.
        found: All its axes.
        forward: Its forward FLOPs of one example.
        start: What starting one pass through it costs, in the FLOPs that could be done meanwhile.
    """
    growable = [axis for axis in found if axis.growable]
    factors, once = factor_cost(model, (member.module for axis in growable for member in axis.consumers))
    passes = A_PASSES + 2 * (1 + 2 * len(growable)) + 1 + len(growable)  # all judged twice, and their drop realised
    each = passes * (TRIAL_COST * forward + start / chunk_of(forward)) + TRIAL_COST**2 * factors
    return max(int((budget - passes * start - TRIAL_COST**3 * once) / each), 0)
