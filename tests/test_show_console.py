"""What a run shows while it goes on: plain lines in a pipe, a board on a terminal."""

import io
import json
import re
import subprocess
import sys
import threading
import time

import pytest

from outgrow.cli import main
from outgrow.show import quantity
from outgrow.show.console import Console
from outgrow.show.record import of_kind
from outgrow.show.waiting import waiting
from test_show_records import BLOCK, REMOVAL, UNSEEN, family, story


def shown(records, terminal, closes=True):
    """What the console writes for a whole run."""
    file = io.StringIO()
    with Console("runs/digits", file=file, force_terminal=terminal) as console:
        for record in records:
            console(record)
            console.tick(record.get("step", 0))
    if closes:
        console.finish(family(records), "runs/digits/report.html")
    return file.getvalue()


def without_codes(text):
    """The letters of a terminal's output."""
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text).replace("\r", "")


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")


@pytest.mark.parametrize("metric", ["accuracy", "rmse"])
@pytest.mark.parametrize("every", [0, 3])
def test_plain_output_is_plain_lines(metric, every):
    records = list(story(epochs=12, every=every, metric=metric))
    for event in of_kind(records, "event"):
        event["reason"] = "8 parameters would save 2.0e-03 nats"
    text = shown(records, terminal=False)
    assert text.isascii()
    assert "\x1b" not in text
    assert "\r" not in text
    assert sum(line.startswith("epoch ") for line in text.splitlines()) == 12
    assert sum(line.startswith("size ") for line in text.splitlines()) == len(of_kind(records, "size"))
    assert sum(line.startswith("event ") for line in text.splitlines()) == len(of_kind(records, "event"))
    nats = metric == "accuracy" and every > 0
    assert ("nats" in text) == nats
    assert ("nats" in without_codes(shown(records, terminal=True))) == (nats and len(of_kind(records, "event")) > 3)


def test_plain_lines_hold_the_numbers():
    records = list(story())
    text = shown(records, terminal=False)
    for epoch in of_kind(records, "epoch"):
        assert f"{100 * epoch['validation']['accuracy']:.1f} %  {epoch['params']:,} parameters" in text
    for event in of_kind(records, "event"):
        for growth in event["growths"]:
            assert f"{growth['size_before']} -> {growth['size_after']}: gain {growth['gain']:.4f}" in text
            assert f"realised {growth['realised']:.4f}, +{growth['params']:,} parameters" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_the_end_names_every_size_and_where_things_are(terminal):
    records = list(story())
    text = shown(records, terminal)
    table = text[text.rindex("validation") :]
    for size in of_kind(records, "size"):
        assert size["name"] in table
        assert f"{size['params']:,}" in table
        assert f"{100 * size['test']['accuracy']:.2f} %" in table
    assert text.rstrip().splitlines()[-1].strip() == "report  runs/digits/report.html"


def test_a_family_without_a_test_set_has_no_such_column():
    records = [record | {"test": None} if "test" in record else record for record in story()]
    assert "test accuracy" not in shown(records, terminal=False)


def test_the_board_shows_where_the_run_is():
    text = shown(list(story(epochs=12, every=3, ends=False)), terminal=True, closes=False)
    assert "\x1b[" in text
    text = without_codes(text)
    assert "epoch 12/12" in text
    assert "of 60,000 parameters" in text
    assert "block3.conv1" in text
    assert "▲ 1" in text


def test_removals_and_growths_that_nobody_judged_stand_above_the_board():
    records = list(story())
    event = of_kind(records, "event")[0]
    event["growths"] = [REMOVAL, UNSEEN, BLOCK]
    rows = re.findall(r"[▲▼] 1 .*", without_codes(shown(records, terminal=True)))
    assert [" ".join(row.split()) for row in rows] == [
        "▼ 1 conv1 24 → 20 costs 0.00031 ± 0.00022 -1,152",
        "▲ 1 conv1 20 → 24 +1,152",
        "▲ 1 block1 block gain 0.0210 ± 0.0030 realised 0.0200 +900",
    ]
    assert len({len(row) for row in rows}) == 1  # the columns line up


def test_the_board_follows_an_axis_down():
    start = next(iter(story(axes=1))) | {"axes": {"conv1": 24}}
    event = {"event": 1, "epoch": 1.0, "reason": "", "growths": [REMOVAL], "params_after": 4711}
    text = without_codes(shown([start, event], terminal=True, closes=False))
    assert re.search(r"conv1 +━+ +24 → 20", text)
    assert "4,711 of 60,000 parameters" in text


BRANCH = {"record": "branch", "of": "2-1380", "params": 1380, "steps": 400, "start": "4-9000", "number": 1, "count": 3}


def test_a_branch_has_a_progress_of_its_own():
    records = list(story())
    end, branch = records.pop(), BRANCH | {"steps": 40}
    size = of_kind(records, "size")[1] | {"quality": "branch"}
    after = [*records, end, branch, size, branch, size]
    told = [line for line in shown(after, terminal=False, closes=False).splitlines() if "finishing" in line]
    assert len(told) == 2
    for line in told:
        assert re.fullmatch(
            r"finishing 2-1380 \(1 of 3\), cut out of 4-9000: 1,380 parameters, 40 steps, (about|a few) .*s left", line
        )
    board = without_codes(shown([*records, end, branch], terminal=True, closes=False))
    assert re.search(r"│ finishing 2-1380 \(1/3\) .* 0 %", board)
    cut = of_kind(records, "size")[2] | {"quality": "cut"}
    last = without_codes(shown([*after, cut], terminal=True, closes=False)).split("╭")[-1]
    assert re.search(r"│ finished 2-1380 \(1/3\) +━+ +100 % ", last)
    assert "left" not in last


def test_what_a_run_told_before_tells_how_long_the_rest_takes():
    records, file = list(story()), io.StringIO()
    console = Console("runs/digits", file=file, force_terminal=False)
    console.recall(records[:8])
    console(BRANCH)
    assert re.search(r"400 steps, about \d+ s left", file.getvalue())


def test_a_run_that_ended_early_has_no_time_left():
    start, *rest = story(epochs=12)
    epochs = of_kind(rest, "epoch")[:5]
    stop = {"record": "overfitted", "epoch": 5, "best_epoch": 2}
    end = {"record": "end", "reason": "finished", "epoch": 5, "seconds": epochs[-1]["seconds"] + 1}
    file = io.StringIO()
    with Console("runs/digits", file=file, force_terminal=True) as console:
        for record in (start, *epochs, stop, end):
            console(record)
    board = without_codes(file.getvalue())
    assert "left" in board
    assert "overfitted: validation has become worse since epoch 2, whose averaged weights are kept" in board
    last = board[board.rindex("╭") :]
    assert "left" not in last
    assert re.search(r"│ epoch 5/12 +━+ +100 % ", last)


@pytest.mark.parametrize(("reason", "share"), [("finished", 100), ("the loss was no longer finite at step 90", 42)])
def test_the_board_of_a_run_that_is_done_is_full(reason, share):
    start, *rest = story(epochs=12)
    epochs = of_kind(rest, "epoch")[:5]
    end = {"record": "end", "reason": reason, "epoch": 5.0, "seconds": epochs[-1]["seconds"] + 1}
    last = without_codes(shown([start, *epochs, end], terminal=True, closes=False)).split("╭")[-1]
    assert re.search(rf"│ epoch 5/12 .* {share} % ", last)


def test_a_wait_is_told_where_it_is_long():
    for terminal, patience, told in ((False, 60.0, False), (False, 0.0, True), (True, 60.0, True)):
        file = io.StringIO()
        file.isatty = lambda terminal=terminal: terminal
        with waiting("reading di[gits]\x1b", file, patience):
            time.sleep(0.05)
        assert ("reading di[gits]?" in without_codes(file.getvalue())) == told
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


@pytest.mark.parametrize(
    ("columns", "dropped"),
    [
        (120, []),
        (70, []),
        (65, ["widths"]),
        (60, ["widths", "FLOPs"]),
        (40, ["widths", "FLOPs", "parameters"]),
        (35, ["widths", "FLOPs", "parameters", "time"]),
    ],
)
def test_a_narrow_terminal_goes_without_columns_that_tell_less(monkeypatch, columns, dropped):
    monkeypatch.setenv("COLUMNS", str(columns))
    file, records = io.StringIO(), list(story())
    Console("runs/digits", file=file, force_terminal=True).finish(family(records), "runs/digits/report.html")
    text = without_codes(file.getvalue())
    shown = {"size", "parameters", "FLOPs", "widths", "validation", "test", "time"} - {*dropped}
    assert {word for word in re.findall(r"[A-Za-z]+", text[: text.index("─")]) if word != "accuracy"} == shown
    for size in of_kind(records, "size"):
        (row,) = re.findall(rf"^ {size['name']} .*", text, re.MULTILINE)
        assert len(row) <= columns
        told = {"parameters": f"{size['params']:,}", "time": quantity.duration(size["seconds"])}
        told |= {part: f"{100 * size[part]['accuracy']:.2f} %" for part in ("validation", "test")}
        assert all(value in row for name, value in told.items() if name not in dropped)


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("axes", [1, 40])
def test_the_board_keeps_to_its_place(monkeypatch, columns, axes):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = shown(list(story(axes=axes, names="a.very.long.name.of.an.axis.{}")), terminal=True, closes=False)
    boards = [line for line in without_codes(text).splitlines() if line.startswith("│")]
    assert {len(line) for line in boards} == {columns}
    growths = [line for line in without_codes(text).splitlines() if line.startswith("▲")]
    assert all(len(line) <= max(columns, 73) for line in growths)


def test_ticks_between_two_drawings_write_nothing():
    file, records = io.StringIO(), list(story())
    with Console("runs/digits", file=file, force_terminal=True) as console:
        console(records[0])
        before = file.getvalue()
        for step in range(1000):
            console.tick(step)
        assert len(file.getvalue()) - len(before) < 5 * len(before)
    assert Console("runs/digits", file=io.StringIO(), force_terminal=False).tick(3) is None


def test_names_bring_no_escape_codes_and_no_markup():
    records = list(story(names="[bold]x\x1b[31m{}\n", data="d\x1b]0;title\x07"))
    text = shown(records, terminal=False)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]x?[31m" in text
    assert "\x1b[31m" not in shown(records, terminal=True).replace("\x1b[31m━", "")


def test_an_error_in_the_run_passes_and_leaves_the_terminal_whole():
    file, error = io.StringIO(), RuntimeError("the loss is NaN")

    def run():
        with Console("runs/digits", file=file, force_terminal=True) as console:
            console(next(iter(story())))
            raise error

    with pytest.raises(RuntimeError, match="the loss is NaN"):
        run()
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")  # the cursor is shown again


def test_a_path_is_printed_with_the_letters_that_the_output_has(tmp_path, monkeypatch):
    run, out = tmp_path / "größe", io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    run.mkdir()
    (run / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in story()))
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["report", str(run)]) == 0
    out.seek(0)
    assert out.read().endswith("gr??e/report.html\n")


def test_an_output_that_knows_few_letters_gets_question_marks():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Console("runs/ü", file=file) as console:
        for record in story(data="größe"):
            console(record)
    file.seek(0)
    assert "gr??e: classification" in file.read()


def test_the_console_is_cheap_to_import():
    heavy = "'torch', 'numpy', 'matplotlib', 'jinja2'"
    code = f"import sys, outgrow.show.console; print([name for name in ({heavy}) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
