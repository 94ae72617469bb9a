"""Laws: how the update of an optimizer depends on the age of an entry, for all of torch's that correct a bias."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Group = Mapping[str, Any]
"""The options of a group of parameters."""


@dataclass(frozen=True, eq=False)
class Step:
    """A step that an optimizer has done for the young entries of some parameters, one after the other.

    Args:
        starts: The entries of each parameter before [young].
        parameters: The whole parameters after.
        states: The state of each after.
        at: Where the entries are in each, flattened.
        groups: The options of the group of each; they differ in weight decay at most.
        decoupled: Whether weight decay is taken off the weights rather than added to the gradient.
    """

    starts: Sequence[Tensor]
    parameters: Sequence[Tensor]
    states: Sequence[dict[str, Any]]
    at: Sequence[Tensor]
    groups: Sequence[Group]
    decoupled: bool

    @property
    def group(self) -> Group:
        """The options that the groups have in common, and the weight decay of the first."""
        return self.groups[0]

    def moment(self, key: str) -> Tensor:
        """Return a moment of the entries after the step [young]."""
        return self._joined([state[key] for state in self.states])

    def start(self) -> Tensor:
        """Return the entries before [young]."""
        return real(torch.cat([*self.starts]))

    def end(self) -> Tensor:
        """Return the entries after the step [young]."""
        return self._joined(self.parameters)

    def decayed(self) -> Tensor:
        """Return the entries before, less their decoupled decay [young]."""
        rate = float(self.group["lr"]) if self.decoupled else 0.0
        decays = [rate * group["weight_decay"] for group in self.groups]
        pairs = zip(self.starts, decays, strict=True)
        return real(torch.cat([start * (1 - decay) if decay else start for start, decay in pairs]))

    def gradient(self) -> Tensor:
        """Return the gradient as it entered the moments [young]."""
        gradient = self._joined([p.grad for p in self.parameters if p.grad is not None])  # the step has used them all
        gradient = -gradient if self.group["maximize"] else gradient
        decays = [0.0 if self.decoupled else group["weight_decay"] for group in self.groups]
        if not any(decays):
            return gradient
        pairs = zip(self.starts, decays, strict=True)
        return gradient + real(torch.cat([start * decay for start, decay in pairs]))

    def _joined(self, tensors: Iterable[Tensor]) -> Tensor:
        return real(torch.cat([taken(tensor, at) for tensor, at in zip(tensors, self.at, strict=True)]))


@dataclass(frozen=True)
class Law:
    """How the update of an optimizer depends on the count of steps.

    Args:
        factors: Of a group's options, an entry's age and its parameter's: the numbers that depend on the age.
        value: Of a step and these numbers for each entry [factors, young]: what each entry should be after the step.
    """

    factors: Callable[[Group, int, int], tuple[float, ...]]
    value: Callable[[Step, Tensor], Tensor]


def _adam_factors(group: Group, age: int, parameter_age: int) -> tuple[float, ...]:
    beta1, beta2 = map(float, group["betas"])
    return float(group["lr"]) / (1 - beta1**age), (1 - beta2**age) ** -0.5


def _adam(step: Step, factors: Tensor) -> Tensor:
    rate, scale = factors
    square = step.moment("max_exp_avg_sq" if step.group["amsgrad"] else "exp_avg_sq")
    width = square.sqrt().mul(scale).add_(step.group["eps"])
    return torch.addcdiv(step.decayed(), step.moment("exp_avg") * rate, width, value=-1)


def _adamax_factors(group: Group, age: int, parameter_age: int) -> tuple[float, ...]:
    return (float(group["lr"]) / (1 - float(group["betas"][0]) ** age),)


def _adamax(step: Step, factors: Tensor) -> Tensor:
    return torch.addcdiv(step.start(), step.moment("exp_avg") * factors[0], step.moment("exp_inf"), value=-1)


def _radam_factors(group: Group, age: int, parameter_age: int) -> tuple[float, ...]:
    beta1, beta2 = map(float, group["betas"])
    rate = float(group["lr"]) / (1 - beta1**age)
    limit = 2 / (1 - beta2) - 1
    length = limit - 2 * age * beta2**age / (1 - beta2**age)
    if length <= 5:  # too young for a second moment
        return rate, 0.0
    rectified = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
    return rate * (rectified * (1 - beta2**age)) ** 0.5, 1.0


def _radam(step: Step, factors: Tensor) -> Tensor:
    rate, adaptive = factors
    width = step.moment("exp_avg_sq").sqrt().add_(step.group["eps"])
    return torch.addcdiv(step.decayed(), step.moment("exp_avg") * rate, torch.where(adaptive > 0, width, 1.0), value=-1)


def _nadam_factors(group: Group, age: int, parameter_age: int) -> tuple[float, ...]:
    (beta1, beta2), decay, rate = map(float, group["betas"]), float(group["momentum_decay"]), float(group["lr"])
    product = _product_of_momenta(beta1, decay, age)
    now, following = _momentum(beta1, decay, age), _momentum(beta1, decay, age + 1)
    return rate * (1 - now) / (1 - product), rate * following / (1 - product * following), (1 - beta2**age) ** -0.5


def _momentum(beta1: float, decay: float, age: int) -> float:
    return beta1 * (1 - 0.5 * 0.96 ** (age * decay))


@lru_cache(maxsize=256)
def _product_of_momenta(beta1: float, decay: float, age: int) -> float:
    product = 1.0
    for at in range(1, age + 1):
        product *= _momentum(beta1, decay, at)
        if product < 1e-20:  # one minus it is one
            break
    return product


def _nadam(step: Step, factors: Tensor) -> Tensor:
    of_gradient, of_moment, scale = factors
    width = step.moment("exp_avg_sq").sqrt().mul(scale).add_(step.group["eps"])
    return torch.addcdiv(
        step.decayed(), step.gradient() * of_gradient + step.moment("exp_avg") * of_moment, width, value=-1
    )


def _sparse_factors(group: Group, age: int, parameter_age: int) -> tuple[float, ...]:
    own, common = (_adam_factors(group, count, count) for count in (age, parameter_age))
    return (own[0] / own[1] / (common[0] / common[1]),)


def _sparse(step: Step, factors: Tensor) -> Tensor:
    return step.start() + (step.end() - step.start()) * factors[0]  # rows without a gradient have not moved


LAWS: dict[type[Optimizer], Law] = {
    torch.optim.Adam: Law(_adam_factors, _adam),
    torch.optim.AdamW: Law(_adam_factors, _adam),
    torch.optim.Adamax: Law(_adamax_factors, _adamax),
    torch.optim.RAdam: Law(_radam_factors, _radam),
    torch.optim.NAdam: Law(_nadam_factors, _nadam),
    torch.optim.SparseAdam: Law(_sparse_factors, _sparse),
}
"""Every optimizer of torch whose update of an entry depends on how many steps its moments have seen."""


def law_of(optimizer: Optimizer) -> Law | None:
    """Return how the update of an optimizer depends on age; None where it doesn't, or has a step of its own."""
    if not type(optimizer).step.__module__.startswith("torch.optim."):
        return None
    return next((LAWS[kind] for kind in type(optimizer).__mro__ if kind in LAWS), None)


def taken(tensor: Tensor, at: Tensor) -> Tensor:
    """Return the entries of a tensor at places of its flattened form; `take`, by the faster way where there is one."""
    return tensor.view(-1).index_select(0, at) if tensor.is_contiguous() else tensor.take(at)


def real(tensor: Tensor) -> Tensor:
    """Return complex numbers as pairs, along one dimension more, as optimizers treat them; others as they are."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
