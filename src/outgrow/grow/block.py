"""Blocks on trial: a copy of the model with a block at every place at once, on which they are scored and judged.

A block that goes in hands its input on, so the blocks change nothing and don't see each other. What is zero in it (or,
of a layer at the identity, all of it) has a gradient and a natural-gradient step: the same question as for new columns,
with features that nothing has read so far.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from outgrow.grow.gain import Judgement, judge
from outgrow.grow.gradient import mean_gradients
from outgrow.grow.kink import Halfway, OneSided
from outgrow.grow.moments import Convention, Fisher, take_moments
from outgrow.grow.norms import settle, tracking
from outgrow.grow.objective import Objective, Tangent
from outgrow.grow.patches import is_mixer
from outgrow.grow.pieces import layer_step, layers_among, pieces_of, weighed
from outgrow.grow.sample import Batch, examples_in, few
from outgrow.grow.score import total
from outgrow.grow.trial import freeze_, frozen_terms
from outgrow.grow.weights import sizes_of
from outgrow.models.residual import Residual
from outgrow.net.counts import settled
from outgrow.net.deepen import late_first, prepared
from outgrow.net.edit import Insertion
from outgrow.net.inputs import Example, call
from outgrow.net.place import BlockCopy, Place
from outgrow.net.setting import apply_settings_
from outgrow.net.surgery import insert_, tensors_of
from outgrow.net.survey import survey
from outgrow.net.twin import duplicate

MAX_FEATURES = 1200  # or outputs, of a layer whose present step is taken
MAX_EXAMPLES = 1024  # that weigh the pieces


class BlockTrial:
    """New blocks on trial.

    Args:
        model: The model as it is; not changed.
        places: Where a block is tried, each as `outgrow.places` finds it in the model as it is.
        batches: Part A of the sample.
        objective: What the model is trained for.
        generator: Draws new weights, positions and noise.
        damping: Share of the mean diagonal that is added to every factor.
        init: Weights of a copied block that are not zero, as for `outgrow.deepen_`.
        example: One input of the model; the first ones of the batches where absent.
        fisher: Which Fisher matrix is approximated in layers; see `take_moments`.
        convention: How positions enter its factors; see `take_moments`.
    """

    def __init__(
        self,
        model: nn.Module,
        places: Sequence[Place],
        batches: Sequence[Batch],
        objective: Objective,
        generator: torch.Generator,
        damping: float,
        init: str = "copy",
        example: Example | None = None,
        *,
        fisher: Fisher = "true",
        convention: Convention = "expand",
    ) -> None:
        self.model = duplicate(model).eval()
        self.model.zero_grad(set_to_none=True)
        self.objective, self.damping = objective, damping
        self._real, self._places = model, {place.name: place for place in places}
        self._made = {place.name: prepared(self.model, place, init, generator) for place in places}
        self._insertions: dict[str, Insertion] = {}
        old = {id(parameter) for parameter in self.model.parameters()}
        before = dict.fromkeys(self.model.modules())
        example = few(batches[0].inputs, 2) if example is None else example
        for place in late_first(self.model, places):
            _put_in_(self.model, place, self._made[place.name], example)
        names = {module: path for path, module in self.model.named_modules()}
        self._paths = {name: [names[module] for module in made.modules] for name, made in self._made.items()}
        self._own = {
            name: [p for p in nn.ModuleList(made.modules).parameters() if id(p) not in old]
            for name, made in self._made.items()
        }
        norms = {path: norm for path, norm in tracking(self.model).items() if norm not in before}
        settle(self.model, {path: torch.arange(norm.num_features) for path, norm in norms.items()}, batches, objective)
        self._flops = _flops_by_module(self.model, few(example, 1))
        self._present = [names[m] for m in before if m in names and is_mixer(m) and max(sizes_of(m)) <= MAX_FEATURES]
        self._weighing = list(_first(batches, MAX_EXAMPLES))
        self._scored: dict[str, tuple[float, float, Tangent]] = {}
        self._take_pieces(batches, generator, fisher, convention)
        self._trained = freeze_(self.model)

    def scored(self, place: str) -> tuple[float, float, Tangent]:
        """Return the score and its lower bound [nats], and the step, of the block at a place.

        Nothing has read the features of a block so far, so that the bound, which leaves out what is redundant within a
        layer, is the score itself; `Judgement.beyond` takes out what the present weights can do.
        """
        if place not in self._scored:
            with Halfway():
                score, tangent = weighed(self.model, self._pieces[place], self._weighing, self.objective, self.damping)
            self._scored[place] = score, score, tangent
        return self._scored[place]

    def gradient(self, place: str) -> float:
        """Return the norm of the gradient with respect to what is zero, or at the identity, in the block at a place."""
        return self._gradients[place]

    def judged(self, tangents: Sequence[Tangent], batches: Sequence[Batch]) -> Judgement:
        """Judge steps on part B, in one pass, with the derivative along each step where a block meets a kink."""
        with OneSided():
            return judge(self.model, tangents, batches, self.objective)

    def present_step(self) -> Tangent:
        """Return the natural-gradient step of the present weights of linear layers and convolutions.

        Layers of more than `MAX_FEATURES` features or outputs are left out.
        """
        tangent: dict[str, Tensor] = {}
        for path in self._present:
            if moments := self.moments.get(path):
                tangent.update(layer_step(self.model, path, moments, self.damping, moments.bias_moves))
        return tangent

    def present_score(self) -> float:
        """Return the score of the weights of those layers under K-FAC [nats]."""
        found = [self.moments[path] for path in self._present if path in self.moments]
        return sum(total(moments.A, moments.S, moments.G, self.damping) for moments in found)

    def diagonal(self, batches: Sequence[Batch]) -> tuple[float, dict[str, float]]:
        """Return SECNN's score of the real model's weights, and by place of what has a gradient in the block there."""
        with Halfway():
            terms = frozen_terms(self.model, self._trained, batches, self.objective)
        sums = {name: float(term.sum()) for name, term in terms.items()}
        new = {id(parameter) for parameter in chain.from_iterable(self._own.values())}
        present = sum(sums.get(name, 0.0) for name, p in self.model.named_parameters() if id(p) not in new)
        return present, {place: sum(sums.get(name, 0.0) for name in self._moving(place)) for place in self._places}

    def cost(self, place: str) -> tuple[int, int]:
        """Return the parameters and the forward FLOPs of one example that the block at a place adds."""
        params = sum(parameter.numel() for parameter in self._own[place])
        return params, sum(self._flops.get(path, 0) for path in self._paths[place])

    def insertion(self, place: str) -> Insertion:
        """Return the block that was tried as an edit of the real model, with the very weights and statistics.

        It is the same one at every call. What the block shares with the rest of the model it shares with the real one,
        of which it is made: ask for all that go in before the first of them does.
        """
        if place not in self._insertions:
            made = prepared(self._real, self._places[place], generator=torch.Generator())
            shared = {id(tensor) for tensor in tensors_of(self._real).values()}
            with torch.no_grad():
                for real, tried in zip(made.modules, self._made[place].modules, strict=True):
                    values = tensors_of(tried)
                    for name, tensor in tensors_of(real).items():
                        if id(tensor) not in shared:
                            tensor.copy_(values[name])
            self._insertions[place] = made
        return self._insertions[place]

    def written(self, model: nn.Module, place: str, tangent: Tangent, step: float) -> dict[str, Tensor]:
        """Return what the block's parameters are after a step, by their names in the real model.

        Args:
            model: The real model, in which the `insertion` is by now, whatever else has been inserted.
            place: Where.
            tangent: The block's step, as `scored` gave it.
            step: How much of it.

        Returns:
            The new values.
        """
        names = {module: path for path, module in model.named_modules()}
        found = {}
        for real, tried in zip(self.insertion(place).modules, self._paths[place], strict=True):
            for name, value in tangent.items():
                if name.startswith(f"{tried}."):
                    within = name[len(tried) + 1 :]
                    parameter = real.get_parameter(within)
                    found[f"{names[real]}.{within}"] = parameter.detach() + step * value.to(parameter)
        return found

    def _take_pieces(
        self, batches: Sequence[Batch], generator: torch.Generator, fisher: Fisher, convention: Convention
    ) -> None:
        """Take the moments, and from them and other Fisher matrices the pieces of every place's direction."""
        moving = {name: self._moving(name) for name in self._places}
        new = chain.from_iterable(layers_among(self.model, names) for names in moving.values())
        layers = list(dict.fromkeys((*self._present, *new)))
        with Halfway():
            self.moments = take_moments(
                self.model, layers, batches, self.objective, generator, convention=convention, fisher=fisher
            )
            self._pieces = pieces_of(
                self.model, moving, self.moments, self._weighing, self.objective, generator, self.damping
            )
            names = dict.fromkeys(chain.from_iterable(moving.values()))
            gradients = mean_gradients(self.model, names, self._weighing, self.objective)
        self._gradients = {place: _norm([gradients[name] for name in names]) for place, names in moving.items()}
        self.factor_flops = sum(moments.flops for moments in self.moments.values())
        self.passes = 6.0 + (8 + sum(map(len, self._pieces.values()))) * min(MAX_EXAMPLES / examples_in(batches), 1.0)

    def _moving(self, place: str) -> list[str]:
        """The parameters of a block that have a gradient: what is zero, or all of a layer at the identity."""
        recipe, modules = self._places[place].recipe, self._made[place].modules
        if isinstance(recipe, BlockCopy):
            return [f"{self._paths[place][0]}.{zero}" for zero in recipe.zeros]
        found = []
        for path, module in zip(self._paths[place], modules, strict=True):
            last = "body.1." if isinstance(module, Residual) else ""
            found += [f"{path}.{name}" for name, _ in module.named_parameters() if name.startswith(last)]
        return found


def _put_in_(model: nn.Module, place: Place, insertion: Insertion, example: Example) -> None:
    """Insert a block; what is to be set beside it is looked for anew, since other blocks may be in by now."""
    settings = place.settings
    if settings:
        with survey(model, example) as seen:
            _, settings = settled(seen, insertion)
    insert_(model, insertion)
    apply_settings_(model, settings)


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))


def _first(batches: Sequence[Batch], count: int) -> Iterator[Batch]:
    """The first `count` examples of batches."""
    left = count
    for batch in batches:
        if left > 0:
            take = min(left, batch.size)
            cut = {"inputs": few(batch.inputs, take), "target": few(batch.target, take), "size": take}
            yield batch if take == batch.size else replace(batch, **cut)
            left -= take


@sdpa_kernel(SDPBackend.MATH)
def _flops_by_module(model: nn.Module, example: Example) -> dict[str, int]:
    """The FLOPs of a forward pass on one example, by the paths of modules."""
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:  # with gradients: no fused layers, not counted
        call(model, example)
    return {path.partition(".")[2]: sum(ops.values()) for path, ops in counter.get_flop_counts().items()}
