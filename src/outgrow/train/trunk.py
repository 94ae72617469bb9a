"""The trunk of a family: the training state of a run at each size that it saved, for branches off it.

trunk/NAME.safetensors   weights, their average, and the optimizer's state
trunk/NAME.json          the rest of the state, and the checksum of the tensors
"""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from outgrow.errors import InputError
from outgrow.net.axis import Axis
from outgrow.train.folder import RunFolder
from outgrow.train.state import captured, restore_

FOLDER = "trunk"


class Trunk:
    """The training states beside the saved sizes of a run.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def keep(self, name: str, model: nn.Module, optimizer: Optimizer, axes: Iterable[Axis]) -> None:
        """Keep the training state of a size; the arguments are those of `captured`, and the name of the size."""
        (self._folder.path / FOLDER).mkdir(exist_ok=True)
        tensors, facts = captured(model, optimizer, None, axes)
        sha256 = self._folder.write_tensors(f"{FOLDER}/{name}.safetensors", tensors)
        self._folder.write_json(f"{FOLDER}/{name}.json", {"tensors": sha256, "facts": facts})

    def has(self, name: str) -> bool:
        """Return whether the state of a size is there."""
        return (self._folder.path / FOLDER / f"{name}.json").exists()

    def restore_(self, name: str, model: nn.Module, optimizer: Optimizer) -> None:
        """Put the training state of a size into a network of the same layers.

        Args:
            name: The size.
            model: As for `outgrow.train.state.restore_`.
            optimizer: As there.

        Raises:
            InputError: The state is not there, or damaged, or of another network.
        """
        kept = self._folder.read_json(f"{FOLDER}/{name}.json")
        try:
            tensors = self._folder.read_tensors(f"{FOLDER}/{name}.safetensors", kept["tensors"])
            restore_(model, optimizer, None, tensors, kept["facts"])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
            raise InputError(f"{self._folder.path / FOLDER / name}.json is damaged ({said})") from error
