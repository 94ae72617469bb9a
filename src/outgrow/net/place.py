"""One place: where a model can take another block, and what that block is made of."""

from dataclasses import dataclass
from typing import Literal

from outgrow.net.setting import Setting


@dataclass(frozen=True)
class BlockCopy:
    """A copy of a residual block behind it.

    Args:
        zeros: Parameters of the copy that are zero at first, by their names in the block, so that it is the identity.
    """

    zeros: tuple[str, ...]


@dataclass(frozen=True)
class NewLayer:
    """A layer that starts as the identity, and an activation, behind an activation.

    Args:
        like: Path of the layer before the activation, whose options of the optimizer the new one shares.
        channels: How many come in and go out.
        kernel: Sizes of the convolution's kernel; empty for a linear layer.
        norm: Path of the neighbouring BatchNorm; empty where there is none. With one, the new layer has one too and
            stands in a residual connection.
        repeats: Whether the new activation is a copy of the one before it, which changes nothing a second time; else
            it is a `Rational` at the identity.
    """

    like: str
    channels: int
    kernel: tuple[int, ...]
    norm: str
    repeats: bool


@dataclass(frozen=True, eq=False)
class Place:
    """Where a block can go, or why none can.

    Args:
        name: Path of the module that the block comes behind; of the container, where no block can go.
        kind: `residual` for a copy of a block with a shortcut, `chain` for a plain layer and activation.
        parent: Path of the module that has the child.
        child: Name of the child that the block comes behind.
        what: What would come in, in words.
        growable: Whether a block can go here.
        reason: Why not, or empty.
        recipe: How the block is made; None where none can be.
        settings: Attributes to set with it, such as the number of layers of a configuration.
    """

    name: str
    kind: Literal["residual", "chain"]
    parent: str
    child: str
    what: str = ""
    growable: bool = True
    reason: str = ""
    recipe: BlockCopy | NewLayer | None = None
    settings: tuple[Setting, ...] = ()

    def __repr__(self) -> str:
        name = self.name or "the model"
        return f"{name} ({self.kind}): {self.what}" if self.growable else f"{name} (none: {self.reason})"


class NoPlaceError(Exception):
    """No block can go here; the message says why."""
