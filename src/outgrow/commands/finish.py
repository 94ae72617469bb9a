"""`outgrow finish`: a branch for each size of a run that is done."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.commands import earlier
from outgrow.commands.given import dataset_of, device_of, sizes_of
from outgrow.commands.stop import tell_stop
from outgrow.commands.together import demand_one_process
from outgrow.data.digest import digest
from outgrow.data.registry import NAMES
from outgrow.errors import InputError
from outgrow.models import seed_from_json
from outgrow.show.console import Console
from outgrow.show.report import write_report
from outgrow.show.run import read_run
from outgrow.show.waiting import waiting
from outgrow.stored import Stored
from outgrow.train.branch import Branches
from outgrow.train.checkpoints import FOLDER
from outgrow.train.comparison import renew
from outgrow.train.family import Family
from outgrow.train.finish import Finishing, spaced, wanted
from outgrow.train.folder import RunFolder
from outgrow.train.lock import locked
from outgrow.train.recipe import Recipe

if TYPE_CHECKING:
    from outgrow.cli import Finish, Grow


def finish(options: "Finish") -> int:
    """Run `outgrow finish`.

    Args:
        options: What the command line said.

    Returns:
        The exit code: 0, or 130 where the user stopped it.

    Raises:
        InputError: The run is not done, or its data or its network are not there or have changed, or a file is damaged,
            or another option can't work.
    """
    demand_one_process("finish")
    folder = RunFolder(options.run)
    config = Stored(Family(options.run).config, str(folder.path / "config.json"))
    asked, how = sizes_of(options.sizes), Finishing(options.length, options.distil)
    grown = _options_of(config, options)
    earlier.demand_journal(folder)
    if not earlier.is_finished(folder):
        go_on = "go on with it by outgrow grow --resume first"
        if not (folder.path / FOLDER).exists():
            go_on = "its journal tells of no end, and no state is left to go on from; put its whole journal back"
        raise InputError(f"the run in {folder.path} is not finished: {go_on}")
    if options.data is None and grown.data not in NAMES and not Path(grown.data).expanduser().exists():
        raise InputError(
            f"the data of the run in {folder.path}, {grown.data}, are not there: say where they are with --data, or do "
            f"this in the folder where the run was started"
        )
    with waiting(f"reading {grown.data}"):
        dataset = dataset_of(grown)
    if digest(dataset) != config.within("data").text("sha256"):
        elsewhere = "" if grown.data in NAMES else "; say where those are with --data"
        raise InputError(f"the data of {dataset.name} are not those that the run in {folder.path} learned{elsewhere}")
    network = seed_from_json(config.within("seed_network"), options.model)
    recipe = Recipe.from_json(config.within("recipe"))
    console, device = Console(folder.path), device_of(options.device)
    console.recall(read_run(folder.path).records)
    run: dict[str, Any] = {
        "seed": grown.seed,
        "device": device,
        "precision": grown.precision,
        "compiled": grown.compile,
        "on_record": console,
        "on_step": console.tick,
    }
    with locked(folder.path):
        branches = Branches(dataset, network, recipe, folder, how, **run)
        names = wanted(branches.sizes, asked) if asked else spaced(branches.sizes)
        for line in _left_out(branches, names):
            print(f"outgrow: {line}", file=sys.stderr)
        return finished(branches, names, folder, console, "the same command goes on", between=not asked)


def finished(
    branches: Branches, names: Sequence[str], folder: RunFolder, console: Console, again: str, between: bool = True
) -> int:
    """Train the branches, and say how it ended.

    Args:
        branches: Trains them.
        names: Sizes to finish.
        folder: The run folder.
        console: Shows how it goes.
        again: What to do after a stop.
        between: Whether other sizes are cut out of them.

    Returns:
        The exit code: 0, or 130 where the user stopped it.
    """
    try:
        with console:
            family = branches.run(names, between)
    except KeyboardInterrupt:
        tell_stop("interrupted", f"sizes that are finished are saved; {again}", folder.path)
        return 130
    renew(folder, family["total"])
    console.finish(family, write_report(folder.path))
    return 0


def _left_out(branches: Branches, names: Sequence[str]) -> Iterator[str]:
    """Say which of some sizes get no branch, and why.

    Args:
        branches: Would train them.
        names: Sizes to finish.

    Yields:
        A line for each.
    """
    entries = {entry["name"]: entry for entry in branches.sizes}
    for name in names:
        if entries[name] is branches.sizes[-1]:
            yield f"{name} is what the run ended with: it needs no branch"
        elif not branches.is_due(entries[name]):
            yield f"{name} is finished already; a longer --length gives it another branch"


def _options_of(config: Stored, options: "Finish") -> "Grow":
    """The options of `outgrow grow` that a run was started with, but for the place of the data where one is given."""
    from outgrow.cli import Grow

    known = {field.name for field in fields(Grow)}
    said: dict[str, Any] = {name: value for name, value in config.within("options").values.items() if name in known}
    if options.data is not None:
        said |= {"data": options.data, "data_dir": None}
    if place := options.data_dir or said.get("data_dir"):
        said["data_dir"] = Path(place)
    return Grow(**said)
