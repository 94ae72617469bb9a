"""One check: put units on trial, score and judge them, decide, and measure what was decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from outgrow.grow.curvature import Loss
from outgrow.grow.event import Candidate
from outgrow.grow.gain import Gain, mean_loss, realised
from outgrow.grow.policy import Decision, Policy, Situation
from outgrow.grow.proposals import propose
from outgrow.grow.sample import Sample, examples_in
from outgrow.grow.trial import Trial, tried
from outgrow.net.axes import Axis
from outgrow.net.cost import flops_after, flops_by_weight, parameters_after
from outgrow.net.edits import Widening
from outgrow.net.inputs import Example

TRIAL_COST = 1.6  # forward FLOPs of a model with units on trial against those of the model as it is


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
    loss: Loss,
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
        loss: Mean loss of an output and a target.
        example: One input, for counting FLOPs.
        policy: Decides.
        now: What the policy sees.
        generator: The source of everything random.
        damping: Share of the mean diagonal that is added to every K-FAC factor.
        proposal: How units are proposed: `random` or `closed`.

    Returns:
        What was found and decided.
    """
    on_trial = tried(model, found, units)
    widenings = [propose(proposal, model, axis, units[axis.name], sample.a, loss, generator) for axis in on_trial]
    trial = Trial(model, found, widenings, sample.a, loss, generator, damping)
    gain_now = trial.judged(trial.present_step(), sample.b).gain
    counts = flops_by_weight(model, example)
    base = sum(counts.values())
    scored = {axis.name: trial.scored(axis.name, units[axis.name]) for axis in on_trial}
    gains = {axis: trial.judged(tangent, sample.b) for axis, (_, _, tangent) in scored.items()}
    candidates = tuple(
        Candidate(
            kind="widen",
            where=axis.name,
            units=units[axis.name],
            params=parameters_after(model, found, {axis.name: units[axis.name]}) - now.params,
            flops=flops_after(model, found, {axis.name: units[axis.name]}, counts) - base,
            gain=gains[axis.name].gain,
            se=gains[axis.name].se,
            score=scored[axis.name][0],
            bound=scored[axis.name][1],
        )
        for axis in on_trial
    )
    decision = policy.decide(now, candidates, gain_now)
    loss_now = mean_loss(trial.model, sample.b, loss) if decision.units else 0.0
    chosen = []
    for axis, count in decision.units.items():
        tangent, gain = scored[axis][2], gains[axis]
        if count != units[axis]:
            _, _, tangent = trial.scored(axis, count)
            gain = trial.judged(tangent, sample.b)
        drop = realised(trial.model, tangent, gain.step, sample.b, loss, loss_now)
        chosen.append(Chosen(trial.widening(axis, count), gain, drop))
    forward = flops_after(model, found, {axis.name: units[axis.name] for axis in on_trial}, counts)
    spent = _passes(forward, sample, 1 + len(on_trial) + len(chosen)) + trial.factor_flops
    return Verdict(gain_now, candidates, decision, tuple(chosen), spent)


def check_cost(forward: int, axes: int) -> float:
    """Return the FLOPs of a check for each example of part A and B together, known before it starts.

    Args:
        forward: Forward FLOPs of one example of the model as it is.
        axes: Axes on trial.
    """
    return TRIAL_COST * forward * (6 + 3 * (1 + 2 * axes))


def _passes(forward: int, sample: Sample, judgements: int) -> int:
    """Return the FLOPs of the passes through the model.

    Part A takes a forward pass for the statistics of norms, one for the moments, and two backward passes of two forward
    passes each; a judgement on part B takes a forward-mode product, of two, and at most one forward pass more.
    """
    return forward * (6 * examples_in(sample.a) + 3 * judgements * examples_in(sample.b))
