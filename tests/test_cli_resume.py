"""Resuming on the command line: after a kill, a stop or an end, and what is refused."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outgrow.cli import main
from outgrow.train.lock import locked
from outgrow.train.trainer import Trainer
from test_train_resume import left

WORDS = ["grow", "digits", "--model", "mlp", "--epochs", "4", "--policy-options", "share=0.6", "--out", "run"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the command."""
    path = tmp_path_factory.mktemp("finished")
    assert main([*WORDS[:-1], str(path / "run")]) == 0
    return path / "run"


def said(capsys, *words: str) -> tuple[int, str, str]:
    """The exit code of the command with further words, and what it printed."""
    capsys.readouterr()
    code = main([*WORDS, *words])
    return code, *capsys.readouterr()


def test_a_killed_command_is_resumed(here, finished, capsys):
    for growths in (1, 2):
        words = [*WORDS, *["--resume"] * (growths > 1)]
        process = subprocess.Popen([sys.executable, "-m", "outgrow.cli", *words], stdout=subprocess.DEVNULL)
        journal = here / "run" / "journal.jsonl"
        while process.poll() is None and (not journal.exists() or journal.read_text().count('"kind"') < growths):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    code, out, err = said(capsys, "--resume")
    assert code == 0
    assert "resumed at epoch" in out
    assert "damaged" not in err
    assert left(here / "run") == left(finished)


def test_a_finished_run_says_so_and_shows_its_sizes(here, finished, capsys):
    shutil.copytree(finished, "run")
    before = {file: file.read_bytes() for file in sorted(Path("run").rglob("*.json*"))}
    code, out, err = said(capsys, "--resume")
    assert code == 0
    assert "outgrow: the run in run is finished\n" in err
    assert "parameters" in out
    assert before == {file: file.read_bytes() for file in sorted(Path("run").rglob("*.json*"))}


def test_a_run_from_before_early_stopping_is_the_same_where_epochs_are_given(here, finished, capsys):
    shutil.copytree(finished, "run")
    config = json.loads(Path("run/config.json").read_text())
    del config["recipe"]["early_stopping"]
    Path("run/config.json").write_text(json.dumps(config))
    assert said(capsys, "--resume")[0] == 0


@pytest.mark.parametrize("leftover", ["nothing", "an empty folder", "an empty journal", "a start"])
def test_a_run_that_has_not_begun_is_started(here, finished, capsys, leftover):
    if leftover != "nothing":
        (here / "run").mkdir()
    if leftover.endswith(("journal", "start")):
        shutil.copy(finished / "config.json", "run")
        start = (finished / "journal.jsonl").read_text().splitlines(keepends=True)[0]
        (here / "run" / "journal.jsonl").write_text(start if leftover == "a start" else "")
    code, _, err = said(capsys, "--resume")
    assert code == 0
    assert "outgrow: run holds no run to go on with: this one starts\n" in err
    assert left(here / "run") == left(finished)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--overwrite"], "--resume and --overwrite: expected one of them"),
        (["--rate", "0.1"], "outgrow: --rate was not given and is 0.1 now: go on with what"),
        (["--epochs", "9", "--seed", "4"], "--epochs was 4 and is 9 now; --seed was 0 and is 4 now: go on"),
    ],
)
def test_other_options_are_named(here, finished, capsys, words, message):
    shutil.copytree(finished, "run")
    code, out, err = said(capsys, "--resume", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("outgrow:") == 1


def test_other_data_are_named(here, capsys):
    rows = [f"{i},{i % 7},{'no' if i % 3 else 'yes'}" for i in range(60)]
    words = ["grow", "table.csv", "--target", "y", "--epochs", "1", "--out", "run"]
    Path("table.csv").write_text("\n".join(["a,b,y", *rows]))
    assert main(words) == 0
    Path("table.csv").write_text("\n".join(["a,b,y", *rows[:-1], "59,5,no"]))
    capsys.readouterr()
    assert main([*words, "--resume"]) == 2
    assert "the data of table have changed" in capsys.readouterr().err


def rewritten(journal: Path, reason: str) -> None:
    """Give a journal's end another reason, and cut off what came after it."""
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    end = next(i for i, record in enumerate(records) if record.get("record") == "end")
    told = [*records[:end], records[end] | {"reason": reason}]
    journal.write_text("".join(json.dumps(record) + "\n" for record in told))


def test_a_run_that_diverged_or_lost_its_states_can_not_go_on(here, finished, capsys):
    shutil.copytree(finished, "run")
    rewritten(here / "run" / "journal.jsonl", "the loss was no longer finite at step 7: lower the learning rate")
    code, _, err = said(capsys, "--resume")
    assert code == 2
    assert "can't go on, since the loss was no longer finite at step 7: lower the learning rate" in err
    rewritten(here / "run" / "journal.jsonl", "interrupted")
    code, _, err = said(capsys, "--resume")
    assert code == 2
    assert f"no state of the run is whole ({Path('run/resume')} holds none)" in err
    (here / "run" / "config.json").write_text("{")
    code, _, err = said(capsys, "--resume")
    assert code == 2
    assert "config.json is damaged" in err


def hit(journal: Path, damage: str) -> None:
    """Damage a journal."""
    first, *rest = journal.read_bytes().splitlines(keepends=True)
    texts = {
        "emptied": b"",
        "cut after its start": first,
        "damaged in its first line": b"x" + journal.read_bytes(),
        "damaged in its last line": b"".join([first, *rest[:-1], b"[1]\n"]),
    }
    if damage == "removed":
        journal.unlink()
    else:
        journal.write_bytes(texts[damage])


LOST = {
    "removed": "journal.jsonl: no such file",
    "emptied": "journal.jsonl: no whole record in it",
    "cut after its start": "no state of the run is whole",
    "damaged in its first line": "journal.jsonl, line 1: expected an object, received b'x",
    "damaged in its last line": "expected an object, received b'[1]",
}


@pytest.mark.parametrize("command", ["grow", "compare", "finish"])
@pytest.mark.parametrize("damage", LOST)
def test_a_finished_run_outlives_the_damage_of_its_journal(here, finished, capsys, command, damage):
    shutil.copytree(finished, "run")
    hit(here / "run" / "journal.jsonl", damage)
    before = {file: file.read_bytes() for file in sorted(Path("run").rglob("*")) if file.is_file()}
    words = {"grow": [*WORDS, "--resume"], "compare": ["compare", *WORDS[1:]], "finish": ["finish", "run"]}
    assert main(words[command]) == 2
    error = capsys.readouterr().err
    message = "its journal tells of no end" if (command, damage) == ("finish", "cut after its start") else LOST[damage]
    assert message in error
    assert "--resume" not in error
    assert len(error.splitlines()) == 1
    assert before == {file: file.read_bytes() for file in sorted(Path("run").rglob("*")) if file.is_file()}


def test_sizes_without_a_journal_are_no_folder_to_start_in(here, finished, capsys):
    shutil.copytree(finished, "run")
    (here / "run" / "journal.jsonl").write_text("")
    (here / "run" / "family.json").unlink()
    code, _, err = said(capsys, "--resume")
    assert code == 2
    assert "journal.jsonl: no whole record in it" in err
    assert list((here / "run" / "sizes").iterdir())


def test_blank_lines_of_a_journal_are_passed_over(here, finished, capsys):
    shutil.copytree(finished, "run")
    journal = here / "run" / "journal.jsonl"
    first, *rest = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(["\n", first, "  \n", *rest]))
    code, _, err = said(capsys, "--resume")
    assert code == 0
    assert "the run in run is finished" in err
    assert main(["finish", "run"]) == 0
    assert main(["report", "run"]) == 0


def test_ctrl_c_tells_of_resuming_and_the_run_goes_on(here, finished, capsys, monkeypatch):
    original = Trainer._epoch_record

    def interrupted(self, epoch, mean):
        if epoch == 2:
            raise KeyboardInterrupt
        return original(self, epoch, mean)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_epoch_record", interrupted)
        code, _, err = said(capsys)
    assert code == 130
    assert "the same command with --resume goes on" in err
    file = next(file for file in (here / "run" / "resume").glob("*.json"))
    (here / "run" / "family.json").write_text("{")
    code, _, err = said(capsys, "--resume")
    assert code == 0
    assert "family.json is damaged" in err
    assert "it is written anew" in err
    assert not file.exists()
    assert left(here / "run") == left(finished)


@pytest.mark.parametrize(
    ("words", "again"),
    [
        (["grow"], "the same command with --resume goes on"),
        (["grow", "--overwrite"], "the same command with --resume in place of --overwrite goes on"),
        (["compare"], "the same command goes on"),
        (["compare", "--overwrite"], "the same command without --overwrite goes on"),
    ],
)
def test_ctrl_c_before_anything_is_written_is_an_interruption_too(here, capsys, monkeypatch, words, again):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_start", interrupted)
    assert main([words[0], *WORDS[1:], *words[1:]]) == 130
    assert capsys.readouterr().err == f"outgrow: interrupted; what was saved before is whole; {again}\n"


def test_one_process_at_a_time_writes_to_a_folder(here, capsys):
    with locked(here / "run"):
        code, _, err = said(capsys, "--resume")
    assert code == 2
    assert "another outgrow is writing to run" in err
    assert not list((here / "run").iterdir())
    with locked(here / "run"):
        pass


# the parts
