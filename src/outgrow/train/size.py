"""A saved size: what family.json says of it, and how to load it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from outgrow.models import Factory
from outgrow.net.setting import Setting
from outgrow.stored import Stored

QUALITIES = ("average", "cut", "branch")
"""What a size may be: averaged weights of the run, or cut out of a larger size, or trained after the run."""


@dataclass(frozen=True)
class Size:
    """One size of a family.

    Args:
        name: Its name, which no other size of the run has.
        params: Parameters.
        flops: FLOPs of one example's forward pass (a multiply-add counts 2).
        axes: Units of every axis by name.
        blocks: Places of the blocks that were inserted, in order.
        settings: Sizes that modules keep beside their weights, such as numbers of heads.
        validation: Loss and metrics on the validation part; None for what was not finite.
        test: The same on the test part; None where there is none.
        train_flops: FLOPs of training until it was saved.
        seconds: Seconds of training until then.
        joules: Energy of training until then, and how it was measured; None where it was not.
        epoch: Epochs until then.
        file: Its tensors, a path from the run folder.
        sha256: Checksum of that file.
        quality: `average`, or `cut` for one that was cut out of a larger one, or `branch` for one that was trained.
        loader: Loads it; see `load`.
    """

    name: str
    params: int
    flops: int
    axes: Mapping[str, int]
    blocks: tuple[str, ...]
    settings: tuple[Setting, ...]
    validation: Mapping[str, float | None]
    test: Mapping[str, float | None] | None
    train_flops: float
    seconds: float
    joules: Mapping[str, Any] | None
    epoch: float
    file: str
    sha256: str
    quality: str
    loader: Callable[["Size", Factory | None], nn.Module] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, stored: Stored, loader: Callable[["Size", Factory | None], nn.Module]) -> "Size":
        """Read an entry of family.json.

        Args:
            stored: The entry.
            loader: What loads a size.

        Returns:
            The size.
        """
        settings = [
            Setting(one.text("module", empty=True), one.text("attribute"), one.scalar("value"))
            for one in stored.each("settings")
        ]
        return cls(
            name=stored.text("name"),
            params=stored.whole("params"),
            flops=stored.whole("flops"),
            axes=stored.whole_of_each("axes"),
            blocks=stored.texts("blocks"),
            settings=tuple(settings),
            validation=stored.number_of_each("validation"),
            test=stored.number_of_each("test") if "test" in stored else None,
            train_flops=stored.number("train_flops"),
            seconds=stored.number("seconds"),
            joules=stored.within("joules").values if "joules" in stored else None,
            epoch=stored.number("epoch"),
            file=stored.text("file"),
            sha256=stored.text("sha256"),
            quality=stored.one_of("quality", *QUALITIES) if "quality" in stored else QUALITIES[0],
            loader=loader,
        )

    def load(self, seed: Factory | None = None) -> nn.Module:
        """Load the network, in eval mode, on the CPU.

        Args:
            seed: What makes the seed network, where it is one of the user's own; see `Family.load`.

        Returns:
            The network.
        """
        return self.loader(self, seed)
