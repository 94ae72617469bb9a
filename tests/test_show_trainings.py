"""Trainings one after the other, as a pipe and as a terminal shows them."""

import io

import pytest

from outgrow.show.trainings import Trainings, screen
from outgrow.show.waiting import waiting

ENTRY = {"epochs": 4, "seconds": 8.0, "validation": {"accuracy": 0.9}, "test": None}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(file, **options):
    with Trainings(steps=10, epochs=2, seconds=4.0, file=file, metric="accuracy") as trainings:
        trainings.announce("1-62 by itself", 1, 2, epochs=4, rest=16)
        trainings.tick(20)
        trainings.tell(ENTRY)
        trainings.announce("uniform widths 3-4, beside 1-62", 2, 2, epochs=16, rest=0)
        trainings.tell({**ENTRY, "epochs": 16, "seconds": 64.0, "test": {"accuracy": 0.875}})
    return file.getvalue()


def test_a_pipe_gets_two_plain_lines_a_training():
    assert shown(io.StringIO()).splitlines() == [
        "1/2  1-62 by itself, 4 epochs; about 40 s left for all",
        "     validation accuracy 90.00 %, 8.0 s",
        "2/2  uniform widths 3-4, beside 1-62, 16 epochs; about 30 s left for all",
        "     validation accuracy 90.00 %, test accuracy 87.50 %, 1 min 4 s",
    ]


def test_a_pipe_gets_no_bar_where_colours_are_forced(monkeypatch):
    plain = shown(io.StringIO())
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.setenv(name, "1")
    assert shown(io.StringIO()) == plain
    file = io.StringIO()
    with waiting("reading digits", file, 60.0):
        pass
    assert not file.getvalue()
    assert not screen(file).is_terminal


def test_a_terminal_gets_a_bar_and_keeps_one_line_a_training(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    written = shown(Terminal())
    assert "1/2  1-62 by itself, 4 epochs: validation accuracy 90.00 %, 8.0 s\n" in written
    assert "about 40 s left" in written
    assert "\x1b[?25l" in written
    assert written.rstrip().endswith(("\x1b[2K", "\x1b[1A", "\x1b[?25h"))


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    assert "\x1b[?25l" not in shown(Terminal())
