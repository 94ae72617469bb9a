"""Runs of a benchmark, side by side: which are done, what those that failed said, and a line each as they end."""

import json
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol, TypeVar

from grow import commit


class Job(Protocol):
    """A run to be done."""

    def key(self) -> dict:
        """Return what makes two runs the same, as JSON."""


Kind = TypeVar("Kind", bound=Job)


def lines(file: Path) -> list[dict]:
    """What was measured so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def done(job: Job, found: Sequence[Mapping]) -> bool:
    """Whether a run is among the results, and did not fail."""
    key = job.key()
    return any("failed" not in line and key.items() <= line.items() for line in found)


def add(file: Path, line: Mapping) -> None:
    """Write one more line behind what is there."""
    with open(file, "a") as out:
        out.write(json.dumps(line) + "\n")


def results(
    todo: Sequence[Kind], run: Callable[[Kind], dict], workers: int, threads: int = 1
) -> Iterator[tuple[Kind, dict]]:
    """Do runs in processes of so many threads each; yield them with their lines as they come."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read where a process imports torch
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(min(workers, len(todo)), 1), mp_context=context) as pool:
        running = {pool.submit(attempted, run, job): job for job in todo}
        for number, future in enumerate(as_completed(running), 1):
            print(f"{number}/{len(todo)} ", end="", flush=True)
            yield running[future], future.result()


def attempted(run: Callable[[Kind], dict], job: Kind) -> dict:
    """A run's line; one that fails says why and does not stop the others."""
    try:
        return run(job)
    except Exception as error:
        traceback.print_exc()
        return {**job.key(), "failed": f"{type(error).__name__}: {error}", "commit": commit()}
