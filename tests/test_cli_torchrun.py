"""The command under torchrun: two processes are one, also where they were killed on the way."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from outgrow.cli import main
from outgrow.commands.together import demand_one_process
from outgrow.errors import InputError

WORDS = ["grow", "digits", "--model", "mlp", "--epochs", "4", "--policy-options", "share=0.6", "--device", "cpu"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "outgrow"]


def ranks(*words) -> list[subprocess.Popen]:
    """The processes that torchrun would start, without it, so that they can be killed."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1])}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "outgrow", *WORDS, *words],
            env=os.environ | meet | {"RANK": str(own), "LOCAL_RANK": str(own), "WORLD_SIZE": "2"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in range(2)
    ]


def edits(run: Path) -> list:
    records = map(json.loads, (run / "journal.jsonl").read_text().splitlines())
    return [[(g["kind"], g["where"], g["units"]) for g in one["growths"]] for one in records if "event" in one]


def sizes(run: Path) -> list:
    return [load_file(run / one["file"]) for one in json.loads((run / "family.json").read_text())["sizes"]]


def test_two_processes_leave_what_one_does_and_go_on_after_a_kill(tmp_path):
    alone, run = tmp_path / "alone", tmp_path / "run"
    assert main([*WORDS, "--out", str(alone)]) == 0
    processes = ranks("--out", str(run))
    journal = run / "journal.jsonl"
    while processes[0].poll() is None and not (journal.exists() and '"kind"' in journal.read_text()):
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.communicate()
    again = subprocess.run([*TORCHRUN, *WORDS, "--out", str(run), "--resume"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "resumed at epoch" in again.stdout
    assert again.stdout.count("report  ") == 1  # only the first process speaks
    assert edits(run) == edits(alone)
    assert any(edits(run))
    for mine, theirs in zip(sizes(run), sizes(alone), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(float((mine[k] - v).norm()) <= 1e-4 * float(v.norm()) for k, v in theirs.items())


def test_a_batch_that_cannot_be_shared_is_told(tmp_path):
    for own, process in enumerate(ranks("--out", str(tmp_path / "run"), "--batch-size", "33")):
        _, err = process.communicate()
        assert process.returncode == 2
        who = f"outgrow (rank {own})" if own else "outgrow"
        assert f"{who}: --batch-size: expected a multiple of 2, as so many processes share each batch" in err


def test_commands_of_one_process_say_so(monkeypatch):
    demand_one_process("compare")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="compare runs in one process, received 4 of them"):
        demand_one_process("compare")
