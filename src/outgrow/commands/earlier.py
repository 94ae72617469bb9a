"""The run that a folder holds already: whether it can go on, and whether it is the same."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from outgrow.errors import InputError
from outgrow.train.checkpoints import FOLDER, Checkpoint, Checkpoints
from outgrow.train.circumstances import of_machine
from outgrow.train.folder import RunFolder, finite

MAY_DIFFER = {"out", "overwrite", "resume", "data_dir", "tensorboard"}
"""Options that say where files are, and which are written: whether the data are the same, their digest tells."""

TOLD = {"start", "resume", "epoch", "end"}
"""The records that tell how far a run is; branches of one that is finished come behind its end."""

STOPPED = "interrupted"
"""The reason of an end that is none."""


def is_there(folder: RunFolder) -> bool:
    """Whether a folder holds a run that has begun: its journal is made first, and may be empty yet."""
    journal = folder.path / "journal.jsonl"
    begun = journal.is_file() and journal.stat().st_size > 0
    return begun or _has_sizes(folder) or (folder.path / FOLDER).exists()


def is_finished(folder: RunFolder) -> bool:
    """Whether the run in a folder came to its end.

    Args:
        folder: The run folder.

    Returns:
        Whether it did; not for one that was stopped.

    Raises:
        InputError: Its loss was no longer finite in the end, so that it can't go on.
    """
    last = next((record for record in folder.records()[::-1] if record.get("record") in TOLD), {})
    if last.get("record") != "end" or last.get("reason") == STOPPED:
        return False
    if last.get("reason") != "finished":
        raise InputError(
            f"the run in {folder.path} can't go on, since {last.get('reason')}; start anew with --overwrite"
        )
    return True


def demand_same(folder: RunFolder, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check that the run in a folder was started as this one would be.

    Args:
        folder: The run folder.
        config: What config.json would hold now.
        defaults: The default of each option, for those that the run did not know.

    Raises:
        InputError: An option, the data, or what follows from both is another one, or config.json is damaged.
    """
    then, now = folder.read_json("config.json"), json.loads(json.dumps(finite(config)))
    if found := list(_other_options(then, now, finite(defaults))) or list(_other_consequences(then, now)):
        raise InputError(
            f"{'; '.join(found)}: go on with what the run in {folder.path} was started with, or start anew "
            f"with --overwrite"
        )


def demand_journal(folder: RunFolder) -> None:
    """Check that the journal of a run tells how far it is.

    Args:
        folder: The run folder.

    Raises:
        InputError: It is missing, empty or damaged.
    """
    journal = folder.path / "journal.jsonl"
    lacks = f"{journal}: {'no whole record in it' if journal.exists() else 'no such file'}"
    if wrong := folder.damage() or ("" if folder.records() else lacks):
        raise InputError(
            f"{wrong}; so nothing tells how far the run is: put its journal back, or grow anew in another folder"
        )


def last_state(folder: RunFolder, device: str) -> Checkpoint | None:
    """Return the last whole state of a run; say which files are damaged, and what may change its last bits.

    Args:
        folder: The run folder.
        device: Where the run would go on.

    Returns:
        The state; None where the run stopped before it did anything.

    Raises:
        InputError: It did something, and there is no whole state of it.
    """
    checkpoint, wrong = Checkpoints(folder).newest()
    if checkpoint is None:
        only_start = all(record.get("record") == "start" for record in folder.records())
        if only_start and not (wrong or folder.damage() or _has_sizes(folder)):
            return None
        demand_journal(folder)
        why = "; ".join(dict.fromkeys(wrong)) or f"{folder.path / FOLDER} holds none"
        raise InputError(f"no state of the run is whole ({why}): start anew with --overwrite")
    for line in wrong:
        _say(f"{line}; going on from the state before, of step {checkpoint.step:,}")
    try:
        if (folder.path / "family.json").exists():
            folder.read_json("family.json")
    except InputError as error:
        _say(f"{error}; it is written anew")
    told = [record for record in checkpoint.records if "versions" in record][-1]
    if changed := list(_changes(told, of_machine(device))):
        _say(f"{'; '.join(changed)}: the end may differ in the last bits from that of a run without a stop")
    return checkpoint


def _has_sizes(folder: RunFolder) -> bool:
    return (folder.path / "family.json").exists() or any(folder.path.glob("sizes/*"))


def _other_options(then: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    before = then.get("options", {})
    for name, value in now["options"].items():
        was = before.get(name, defaults.get(name))
        if name not in MAY_DIFFER and was != value:
            word = "DATA" if name == "data" else f"--{name.replace('_', '-')}"
            yield f"{word} was {_written(was)} and is {_written(value)} now"


def _other_consequences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What is another one though the options are the same: files or programs have changed."""
    if then.get("data", {}).get("sha256") != now["data"]["sha256"]:
        yield f"the data of {now['data']['name']} have changed"
    if isinstance(recipe := then.get("recipe"), Mapping):
        then = {**then, "recipe": {"early_stopping": False, "smoothing": 0.0, **recipe}}  # older runs don't tell
    for key in ("seed_network", "recipe", "policy"):
        if then.get(key) != now[key]:
            yield f"the same options make another {key.replace('_', ' ')} now"


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in ("device", "threads", "processes"):
        if (was := then.get(name, 1)) != now[name]:
            yield f"{name} was {was} and is {now[name]} now"
    for name in ("outgrow", "torch"):
        if then["versions"][name] != now["versions"][name]:
            yield f"{name} was {then['versions'][name]} and is {now['versions'][name]} now"


def _written(value: Any) -> str:
    if value is None or value in ([], ""):
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _say(line: str) -> None:
    print(f"outgrow: {line}", file=sys.stderr)
