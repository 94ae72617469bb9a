"""`outgrow finish`: a branch for each size of a run that is done."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.commands import earlier
from outgrow.data.digest import digest
from outgrow.errors import InputError
from outgrow.models import seed_from_json
from outgrow.show.console import Console
from outgrow.show.report import write_report
from outgrow.show.run import read_run
from outgrow.show.waiting import waiting
from outgrow.stored import Stored
from outgrow.train.branch import Branches
from outgrow.train.divergence import DivergedError
from outgrow.train.finish import Finish, spaced, wanted
from outgrow.train.folder import RunFolder
from outgrow.train.lock import locked
from outgrow.train.recipe import Recipe
from outgrow.values import count

if TYPE_CHECKING:
    from outgrow.cli import Finish as Options
    from outgrow.cli import Grow


def finish(options: "Options") -> int:
    """Run `outgrow finish`.

    Args:
        options: What the command line said.

    Returns:
        The exit code: 0, 1 where a loss diverged, or 130 where the user stopped it.

    Raises:
        InputError: The run is not done, or its data or its network are not there or have changed, or another option
            can't work.
    """
    from outgrow.commands.grow import dataset_of, device_of  # which finishes its runs by this module

    folder = RunFolder(options.run)
    config = Stored(folder.read_json("config.json"), str(folder.path / "config.json"))
    asked, how = sizes_of(options.sizes), Finish(options.length, options.distil)
    grown = _options_of(config, options)
    if not earlier.is_finished(folder):
        raise InputError(f"the run in {folder.path} is not finished: go on with it by outgrow grow --resume first")
    with waiting(f"reading {grown.data}"):
        dataset = dataset_of(grown)
    if digest(dataset) != config.within("data").text("sha256"):
        raise InputError(f"the data of {dataset.name} are not those that the run in {folder.path} learned")
    network = seed_from_json(config.within("seed_network"), options.model)
    console, device = Console(folder.path), device_of(options.device)
    console.recall(read_run(folder.path).records)
    with locked(folder.path):
        branches = Branches(
            dataset,
            network,
            Recipe(**config.within("recipe").values),
            folder,
            how,
            seed=grown.seed,
            device=device,
            on_record=console,
            on_step=console.tick,
        )
        return finished(branches, asked, folder, console)


def sizes_of(words: Sequence[str]) -> tuple[int, ...]:
    """Read the sizes that a command line asks for.

    Args:
        words: Numbers, apart by commas where a word holds several.

    Returns:
        The sizes [parameters].

    Examples:
        >>> sizes_of(["10k,30k", "1.5M"])
        (10000, 30000, 1500000)
    """
    return tuple(count(word, "--sizes") for words_ in words for word in words_.split(",") if word)


def finished(branches: Branches, asked: Sequence[int], folder: RunFolder, console: Console) -> int:
    """Train the branches, and say how it ended.

    Args:
        branches: Trains them.
        asked: Sizes that are wanted; none for some that are well apart.
        folder: The run folder.
        console: Shows how it goes.

    Returns:
        The exit code: 0, 1 where a loss diverged, or 130 where the user stopped it.

    Raises:
        InputError: No size is as small as one that is wanted.
    """
    names = wanted(branches.sizes, asked) if asked else spaced(branches.sizes)
    out = folder.path
    try:
        with console:
            family = branches.run(names)
    except DivergedError as error:
        print(f"outgrow: {error}; the other sizes are saved; report: {write_report(out)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        told = f"sizes that are finished are saved; outgrow finish {out} goes on"
        print(f"outgrow: interrupted; {told}; report: {write_report(out)}", file=sys.stderr)
        return 130
    console.finish(family, write_report(out))
    return 0


def _options_of(config: Stored, options: "Options") -> "Grow":
    """The options of `outgrow grow` that a run was started with, with another place of the data if one is given."""
    from outgrow.cli import Grow

    known = {field.name for field in fields(Grow)}
    said: dict[str, Any] = {name: value for name, value in config.within("options").values.items() if name in known}
    if place := options.data_dir or said.get("data_dir"):
        said["data_dir"] = Path(place)
    return Grow(**said)
