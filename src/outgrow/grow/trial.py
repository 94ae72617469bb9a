"""A trial: a copy of the model with the proposed units of every axis at once, on which they are scored and judged.

The new units of all axes hang on zero columns, so they change nothing and don't see each other; what a consumer reads
from them is what the real network would let it read, through norms, pooling, sums and concatenations.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from outgrow.grow.gain import Judgement, judge
from outgrow.grow.moments import take_moments
from outgrow.grow.objective import Objective, Tangent
from outgrow.grow.patches import is_mixer
from outgrow.grow.sample import Batch
from outgrow.grow.score import increase, natural_step
from outgrow.net.axis import Axis, Member
from outgrow.net.inputs import call
from outgrow.net.surgery import tensors_of
from outgrow.net.widening import Widening, widen


class Trial:
    """New units on trial.

    Args:
        model: The model as it is; not changed.
        found: All its axes.
        widenings: The units proposed, at most one entry an axis.
        batches: Part A of the sample.
        objective: What the model is trained for.
        generator: Draws rows that the widenings leave open, positions and noise.
        damping: Share of the mean diagonal that is added to every factor.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Sequence[Axis],
        widenings: Sequence[Widening],
        batches: Sequence[Batch],
        objective: Objective,
        generator: torch.Generator,
        damping: float,
    ) -> None:
        self.model = copy.deepcopy(model).eval()
        self.model.zero_grad(set_to_none=True)
        self.objective, self.damping = objective, damping
        self._edit = widen(self.model, found, widenings, generator)
        self._changes = {change.name: change for change in self._edit.changes}
        self._before = {axis.name: axis for axis in found}
        self._after = {axis.name: axis for axis in self._edit.axes}
        self._settle_statistics(batches)
        layers = [m.module for w in widenings for m in w.axis.consumers if m.tensor == f"{m.module}.weight"]
        self.moments = take_moments(self.model, list(dict.fromkeys(layers)), batches, objective, generator)
        self.factor_flops = sum(moments.flops for moments in self.moments.values())
        self.model.requires_grad_(False)

    def scored(self, axis: str, units: int) -> tuple[float, float, Tangent]:
        """Return the score and its lower bound [nats], and the step, of the first `units` new units of an axis.

        The sums run over the layers that read the axis, each under its own K-FAC factors; layers without moments, whose
        weights are used without calling them, count for nothing.
        """
        score, bound, tangent = 0.0, 0.0, dict[str, Tensor]()
        for member in self._after[axis].consumers:
            moments = self.moments.get(member.module)
            if moments is None:
                continue
            rows, inputs = self._kept(member.module)
            present = moments.features_of(inputs, bias=True)
            new = moments.features_of(self._new(axis, member, units).flatten())
            found = increase(moments.A, moments.S[rows][:, rows], moments.G[rows], present, new, self.damping)
            score, bound = score + found.score, bound + found.bound
            step = torch.zeros_like(moments.G)
            step[rows[:, None], new] = found.new
            step[rows[:, None], present] = found.present
            tangent.update(self._tangent(member.module, step))
        return score, bound, tangent

    def judged(self, tangents: Sequence[Tangent], batches: Sequence[Batch]) -> Judgement:
        """Judge steps on part B, in one pass."""
        return judge(self.model, tangents, batches, self.objective)

    def present_step(self) -> Tangent:
        """Return the natural-gradient step of the present weights, in every layer that reads an axis on trial."""
        tangent: dict[str, Tensor] = {}
        for path, moments in self.moments.items():
            rows, inputs = self._kept(path)
            features = moments.features_of(inputs, bias=True)
            A, S, G = moments.A[features][:, features], moments.S[rows][:, rows], moments.G[rows][:, features]
            step = torch.zeros_like(moments.G)
            step[rows[:, None], features] = natural_step(A, S, G, self.damping)
            tangent.update(self._tangent(path, step))
        return tangent

    def widening(self, axis: str, units: int) -> Widening:
        """Return the first `units` new units of an axis as an edit of the real model, with all they need."""
        now = self._after[axis]
        tensors = tensors_of(self.model)
        rows, channels = {}, {}
        for member in now.members:
            change = self._changes[member.tensor]
            where = list(change.keep)
            where[member.dim] = self._new(axis, member, units).flatten()
            grid = torch.meshgrid(*where, indexing="ij")
            if "out" in member.roles:
                rows[member.tensor] = tensors[member.tensor][grid].clone()
            elif "channel" in member.roles:
                channels[member.tensor] = tensors[member.tensor][grid].clone()
        return Widening(self._before[axis], units, rows, channels)

    def _new(self, axis: str, member: Member, units: int) -> Tensor:
        """Where the first new units sit [units, entries]."""
        start = self._before[axis].size
        return member.index[start : start + units]

    def _kept(self, path: str) -> tuple[Tensor, Tensor]:
        """Where the outputs and the input channels that the real model's layer has now are."""
        change = self._changes.get(f"{path}.weight")
        weight = self.model.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        rows, inputs = change.keep[:2] if change else map(torch.arange, weight.shape[:2])
        return rows, inputs

    def _tangent(self, path: str, step: Tensor) -> Tangent:
        """Split a step [outputs, features] into those of weight and bias."""
        module = self.model.get_submodule(path)
        weight = module.weight
        assert isinstance(weight, Tensor)
        inputs = weight[0].numel()
        found = {f"{path}.weight": step[:, :inputs].reshape(weight.shape).to(weight.dtype)}
        if module.bias is not None:
            found[f"{path}.bias"] = step[:, inputs].to(weight.dtype)
        return found

    @torch.no_grad()
    def _settle_statistics(self, batches: Sequence[Batch]) -> None:
        """Give the new channels of every BatchNorm the mean and variance of what reaches it, in eval mode.

        What new channels hand on is read through zero columns, so one pass does for all norms.
        """
        norms = {
            path: module
            for path, module in self.model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{path}.running_mean" in self._changes
        }
        if not norms:
            return
        sums = {path: torch.zeros(3, norm.num_features, dtype=torch.float64) for path, norm in norms.items()}

        def add(path: str, x: Tensor) -> None:
            x = x.transpose(0, 1).flatten(1).double()
            count = torch.full((len(x),), float(x.shape[1]), device=x.device)
            sums[path] = sums[path].to(x.device) + torch.stack([count, x.sum(1), x.square().sum(1)])

        handles = [
            norm.register_forward_pre_hook(lambda _, inputs, path=path: add(path, inputs[0]))
            for path, norm in norms.items()
        ]
        for batch in batches:
            call(self.model, batch.inputs)
        for handle in handles:
            handle.remove()
        for path, (count, total, squares) in sums.items():
            mean = total / count
            var = (squares - count * mean.square()).clamp_min(0) / (count - 1).clamp_min(1)
            for key, value in (("running_mean", mean), ("running_var", var)):
                change = self._changes[f"{path}.{key}"]
                statistics = change.new
                statistics.copy_(value)
                statistics[change.keep[0]] = change.old


def can_try(model: nn.Module, axis: Axis) -> str:
    """Return why the units of an axis can't be put on trial, or an empty string."""
    if not axis.growable:
        return axis.reason
    if axis.zero != "in":
        return "its new units come in through zero rows, whose worth can't be judged by what reads them"
    for member in axis.consumers:
        if not is_mixer(model.get_submodule(member.module)) or not member.tensor.endswith("weight"):
            return f"{member.module}, which reads it, is no linear layer or ungrouped convolution"
        if not model.get_parameter(member.tensor).requires_grad:
            return f"{member.module}, which reads it, is frozen"
    return ""


def tried(model: nn.Module, found: Sequence[Axis], units: Mapping[str, int]) -> list[Axis]:
    """Return the axes that can be tried and that `units` has any for."""
    return [axis for axis in found if units.get(axis.name, 0) > 0 and not can_try(model, axis)]
