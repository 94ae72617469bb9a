"""A candidate: the copy of a block, to be tried with some of its parameters at zero behind the block."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from outgrow.net.calls import Call
from outgrow.net.place import NoPlaceError
from outgrow.net.preserve import NoChance
from outgrow.net.survey import Survey
from outgrow.net.twin import own_parameters, twin
from outgrow.net.uses import used


class Candidate:
    """A copy of a block that hands its input on, once the right ones of its parameters are zero.

    Args:
        seen: The model; it remembers what was found for each kind of block.
        block: The block.
    """

    def __init__(self, seen: Survey, block: nn.Module) -> None:
        self.copied = twin(seen.model, block)
        self._seen, self._block = seen, block
        mine = own_parameters(seen.model, block)
        self._frozen = {name for name, value in mine.items() if not value.requires_grad}
        self._values = {name: value.detach() for name, value in mine.items() if value.is_floating_point()}
        self._parameters = {name: self.copied.get_parameter(name) for name in self._values}

    @property
    def _call(self) -> Call:
        """How the block is called."""
        return self._seen.forward.calls[self._block]

    def silence_(self) -> tuple[str, ...]:
        """Set as few parameters to zero, and as late in the block, as make the copy the identity.

        Returns:
            Their names within the block, in its order.

        Raises:
            NoPlaceError: No zeros make the copy the identity.
        """
        kind = (type(self._block), tuple(self._parameters))
        awake = self._awake()
        zeros = self._seen.zeros.get(kind, ())
        if not zeros or not self._is_identity(zeros, awake):
            zeros = self._fewest(awake)
        if not zeros:
            raise NoPlaceError("it hands its input on already on this example, so that nothing tells which weights do")
        if not self._is_identity(zeros, awake, training=True):
            raise NoPlaceError("a copy is the identity in eval mode, but not in train mode")
        self._seen.zeros[kind] = zeros
        self._set_(zeros, self._values)
        return zeros

    def _fewest(self, values: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Give parameters their values in the order of their use, as long as the copy stays the identity."""
        zeros = tuple(self._parameters)
        if not self._is_identity(zeros, values):
            raise NoPlaceError(self._why_not(values))
        order = used(self.copied, self._call, self._parameters)
        for name in sorted(zeros, key=lambda name: order.index(name) if name in order else -1):
            fewer = tuple(zero for zero in zeros if zero != name)
            zeros = fewer if self._is_identity(fewer, values) else zeros
        return zeros

    def _awake(self) -> dict[str, Tensor]:
        """Values that show in the outcome: noise stands in for parameters that are (about) zero."""
        generator = torch.Generator().manual_seed(0)

        def awake(value: Tensor) -> Tensor:
            if value.numel() and value.abs().max() <= 1e-3:
                return torch.randn(value.shape, generator=generator).mul(0.1).to(value)
            return value

        return {name: awake(value) for name, value in self._values.items()}

    @torch.no_grad()
    def _set_(self, zeros: Collection[str], values: Mapping[str, Tensor]) -> None:
        """Set the copy's parameters: some to zero, the others to values."""
        for name, parameter in self._parameters.items():
            if name in zeros:
                parameter.zero_()
            else:
                parameter.copy_(values[name])

    @torch.no_grad()
    def _is_identity(self, zeros: Collection[str], values: Mapping[str, Tensor], training: bool = False) -> bool:
        """Whether the copy hands on what it gets from the block; True where it can't run in train mode."""
        self._set_(zeros, values)
        call = self._call.again()
        result = _in_mode(self.copied, call, training)
        return result is None or (call.stream is not None and torch.equal(result, call.stream))

    @torch.no_grad()
    def _why_not(self, values: Mapping[str, Tensor]) -> str:
        """Why the copy isn't the identity with all of its weights at zero."""
        norms = {path: part for path, part in self._block.named_modules() if "norm" in type(part).__name__.lower()}
        paths = {part: path for path, part in norms.items()}
        last = next((paths[leaf.module] for leaf in reversed(self._seen.forward.leaves) if leaf.module in paths), "")
        self._set_([name for name in self._parameters if name.rpartition(".")[0] not in norms], values)
        call = self._call.again()
        result, other = (_in_mode(self.copied, c, training=False) for c in (call, call.negated()))
        if last and result is not None and other is not None and not torch.equal(result, other):
            kind = type(norms[last]).__name__
            return f"its shortcut leads through {last} ({kind}), so that no copy hands its input on"
        return "even with all of its weights at zero a copy doesn't hand its input on: no shortcut leads around them"

    def check_learning(self, zeros: Sequence[str], call: Call) -> None:
        """Look whether the zeros of the copy will learn, and whether it uses what the block uses, where it stands.

        Args:
            zeros: The parameters at zero.
            call: How it was called in the model.

        Raises:
            NoPlaceError: It doesn't.
        """
        now = used(self.copied, call, self._parameters)
        unused = [name for name in used(self.copied, self._call, self._parameters) if name not in now]
        if unused:
            raise NoPlaceError(f"a copy behind it would not use its {', '.join(unused)}")
        if frozen := [name for name in zeros if name in self._frozen]:
            raise NoPlaceError(f"a copy would not learn: its {', '.join(frozen)} does not require gradients")
        still = [name for name, gradient in self._gradients(zeros, call).items() if not gradient.any()]
        if still:
            raise NoPlaceError(f"a copy would not learn: the gradient of its {', '.join(still)} is zero")

    @torch.enable_grad()
    def _gradients(self, names: Sequence[str], call: Call) -> dict[str, Tensor]:
        """The gradients of the sum of all outputs with random weights."""
        parameters = [self._parameters[name].requires_grad_() for name in names]
        result = _in_mode(self.copied, call, training=True)
        result = _in_mode(self.copied, call, training=False) if result is None else result
        if result is None or not result.requires_grad:
            raise NoPlaceError("no gradient reaches a copy")
        noise = torch.randn(result.shape, generator=torch.Generator().manual_seed(0)).to(result)
        gradients = torch.autograd.grad((result * noise).sum(), parameters, allow_unused=True, materialize_grads=True)
        return dict(zip(names, gradients, strict=True))


def _in_mode(module: nn.Module, call: Call, training: bool) -> Tensor | None:
    """Run a module in a mode, dropout off; None where train mode can't run on such inputs."""
    try:
        with NoChance():
            return call.run(module.train(training))
    except Exception as error:
        if training and "Expected more than 1" in str(error):
            return None  # a norm can't train on a single value
        raise NoPlaceError(f"a copy fails: {error}") from error
    finally:
        module.eval()  # parts that it shares with the model are in eval mode again, too
