"""Kill a run again and again at random moments, resume it, and check that nothing is lost.

    python benchmarks/kills.py --kills 50

`outgrow grow digits` runs once without a stop. Then it is started again and again, killed (SIGKILL) at a moment that is
uniform over the processor time that is left of its life, from shortly before it writes its first file to shortly after
its end, and resumed until it gets there. After each kill every file of the run folder must be readable; each end must
be that of the run without a stop, bit for bit, but for times, energies and the records that tell of resuming. Runs save
states in turn as seldom as they do on their own, every 5 steps and at every step, so that kills fall into training,
checks, edits and saving alike.

The processes are forked from one that has imported torch, which would take most of their time.

Every kill adds a line to results/kills.jsonl, with what the folder tells of the moment, and all of them a last one.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grow import commit, hardware
from safetensors.torch import load_file

from outgrow.cli import main
from outgrow.commands import grow
from outgrow.show.run import read_run
from outgrow.train.checkpoints import Checkpoints
from outgrow.train.folder import RunFolder

RESULTS = Path(__file__).resolve().parent / "results" / "kills.jsonl"
COMMAND = ["grow", "digits", "--model", "mlp", "--epochs", "6", "--policy-options", "share=0.8"]
EVERY = (None, 5, 1)  # steps from one state to the next
PAUSE = 0.002  # seconds between two looks at a process
LATE = 1.3  # times what is left of a life, lest a run that is slower than the first never ends
EARLY = 0.8  # of the time until a run writes its first file: what is before that only reads


@dataclass(frozen=True)
class Whole:
    """The run without a stop.

    Args:
        end: What it left.
        began: When it wrote its first record [seconds of processor time since the command].
        trained: When it wrote its last one.
        took: The whole command, with the report.
    """

    end: Mapping[str, Any]
    began: float
    trained: float
    took: float

    def left(self, done: float) -> float:
        """Return how long a run lives that goes on when a share of its steps is done [seconds]."""
        return self.began + (1 - done) * (self.trained - self.began) + self.took - self.trained


def kills() -> None:
    """Kill as often as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.results.parent.mkdir(exist_ok=True)
    moments, lines, ends = random.Random(options.seed), [], []
    with tempfile.TemporaryDirectory() as folder, open(options.results, "a") as results:
        whole = uninterrupted(Path(folder) / "whole")
        print(f"without a stop: {whole.took:.1f} s, sizes {[size['params'] for size in whole.end['family']['sizes']]}")
        while len(lines) < options.kills:
            every = EVERY[len(ends) % len(EVERY)]
            before = len(lines)
            ends.append(killed(Path(folder) / "run", whole, every, moments, lines) == whole.end)
            results.writelines(json.dumps(line) + "\n" for line in lines[before:])
            results.flush()
            print(
                f"run {len(ends)}, states {every or 'as usual'}: {len(lines)} kills, identical {ends[-1]}", flush=True
            )
        results.write(json.dumps(summary(whole, lines, ends, options.seed)) + "\n")
    if not all(ends) or any(line["unreadable"] for line in lines):
        sys.exit("a run did not end as the one without a stop, or a file was not readable")


def uninterrupted(out: Path) -> Whole:
    """Run the command once to its end."""
    process, journal = Process(out, None), out / "journal.jsonl"
    began = trained = took = 0.0
    size = 0
    while not process.ended(took + PAUSE):
        took = process.seconds()
        now = journal.stat().st_size if journal.exists() else 0
        if now > size:
            began, trained, size = began or took, took, now
    return Whole(left(out), began, trained, took)


def killed(out: Path, whole: Whole, every: int | None, moments: random.Random, lines: list[dict]) -> Mapping[str, Any]:
    """Start the command, kill it and resume it until it ends; add a line for each kill, and return what it left."""
    shutil.rmtree(out, ignore_errors=True)
    done = 0.0  # share of the run
    while True:
        moment = moments.uniform(EARLY * whole.began, LATE * whole.left(done))
        process = Process(out, every)
        if process.ended(moment):
            return left(out)
        process.kill()
        line = {"kill": len(lines) + 1, "every": every, "seconds": round(moment, 3), **after_kill(out)}
        lines.append(line)
        done = (line["state"] or 0) / whole.end["journal"][0]["steps"]


class Process:
    """A process that starts a run, or resumes it if its folder is there.

    Args:
        out: The run folder.
        every: Steps from one state to the next; as usual if None.
    """

    def __init__(self, out: Path, every: int | None) -> None:
        words = [*COMMAND, "--out", str(out), *["--resume"] * out.exists()]
        self._pid = os.fork()
        if self._pid:
            return
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            grow.Trainer = partial(grow.Trainer, checkpoint_every=every)
            code = main(words)
        finally:
            os._exit(code)

    def ended(self, seconds: float) -> bool:
        """Wait for its end until it took so much processor time; return whether it came."""
        while True:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                return not status or sys.exit("the command failed")
            if self.seconds() >= seconds:
                return False
            time.sleep(PAUSE)

    def seconds(self) -> float:
        """The processor time that it took so far, which other processes do not change."""
        words = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def after_kill(out: Path) -> dict[str, Any]:
    """What a folder tells of the moment at which its run was killed."""
    found, damaged = Checkpoints(RunFolder(out)).newest() if out.exists() else (None, [])
    journal = out / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    last = json.loads(lines[-1]) if lines and lines[-1].endswith(b"\n") else {}
    return {
        "state": None if found is None else found.step,
        "last_record": "event" if "event" in last else last.get("record"),
        "half_a_record": bool(lines) and not lines[-1].endswith(b"\n"),
        "while_writing": sorted(str(file.relative_to(out)) for file in out.rglob(".*.part")),
        "unreadable": sorted({*damaged, *unreadable(out)}),
    }


def unreadable(out: Path) -> list[str]:
    """The files of a run folder that can't be read; what was being written aside is none of them yet."""
    wrong = []
    for file in [file for file in out.rglob("*") if file.is_file() and not file.name.endswith(".part")]:
        try:
            if file.suffix == ".json":
                json.loads(file.read_text())
            elif file.suffix == ".safetensors":
                load_file(file)
            elif file.suffix == ".jsonl" and file.stat().st_size:
                read_run(out)
        except Exception as error:
            wrong.append(f"{file.name}: {error}")
    family = json.loads((out / "family.json").read_text()) if (out / "family.json").exists() else {"sizes": []}
    return wrong + [f"{one['file']} is missing" for one in family["sizes"] if not (out / one["file"]).exists()]


def left(out: Path) -> dict[str, Any]:
    """What a run left, without what differs between equal runs: times, energies, and that it was resumed."""
    records = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    return {
        "journal": [untimed(record) for record in records if record.get("record") != "resume"],
        "family": untimed(json.loads((out / "family.json").read_text())),
        "sizes": {file.name: file.read_bytes() for file in sorted((out / "sizes").iterdir())},
        "files": sorted(str(file.relative_to(out)) for file in out.rglob("*")),
    }


def untimed(value: Any) -> Any:
    """A JSON value without times and energies."""
    if isinstance(value, dict):
        return {key: untimed(one) for key, one in value.items() if not key.endswith(("seconds", "joules"))}
    return [untimed(one) for one in value] if isinstance(value, list) else value


def summary(whole: Whole, lines: list[dict], ends: list[bool], seed: int) -> dict[str, Any]:
    """What came of all of it."""
    start = whole.end["journal"][0]
    return {
        "kills": len(lines),
        "runs": len(ends),
        "identical": sum(ends),
        "unreadable": sum(bool(line["unreadable"]) for line in lines),
        "while_writing": sum(bool(line["while_writing"]) for line in lines),
        "last_records": Counter(str(line["last_record"]) for line in lines),
        "command": " ".join(["outgrow", *COMMAND]),
        "steps": start["steps"],
        "growths": [r["step"] for r in whole.end["journal"] if r.get("growths")],
        "seconds": round(whole.took, 1),
        "seed": seed,
        "commit": commit(),
        "versions": start["versions"],
        "hardware": hardware(),
    }


if __name__ == "__main__":
    kills()
