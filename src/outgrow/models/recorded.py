"""The seed network of a run, as its config.json has it."""

from collections.abc import Mapping
from typing import Any

from outgrow.errors import InputError
from outgrow.models.imported import Factory, ImportedSeed
from outgrow.models.seed import Seed
from outgrow.models.seed_network import SeedNetwork
from outgrow.stored import Stored


def seed_from_json(values: Mapping[str, Any] | Stored, factory: Factory | None = None) -> SeedNetwork:
    """Read a seed network back; a module that the values name is never imported by itself.

    Args:
        values: What `to_json` gave.
        factory: What makes the network where it is one of the user's own.

    Returns:
        The seed network.

    Raises:
        InputError: The values are damaged, or the network is the user's own and no factory is given, or it is built in
            and one is.

    Examples:
        >>> seed_from_json(Seed("mlp", (4,), 3).to_json()) == Seed("mlp", (4,), 3)
        True
    """
    stored = values if isinstance(values, Stored) else Stored(values, "seed network")
    if "factory" not in stored:
        if factory is not None:
            raise InputError(f"the seed network of this run is the built-in {stored.text('model')}: give no other")
        return Seed.from_json(stored)
    if factory is None:
        name = stored.text("factory")
        raise InputError(
            f"the seed network of this run is code of your own, and no module is imported because a file names it: "
            f"give it as seed={name.replace(':', '.')} or seed='{name}' (on the command line, --model {name})"
        )
    return ImportedSeed.from_json(stored, factory)
