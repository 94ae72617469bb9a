"""Folders that are no run, or whose files are damaged: refused in one line, and nothing is written."""

import json

import pytest

from outgrow.errors import InputError
from outgrow.show.report import write_report
from test_show_records import story


def damage(folder, name, text):
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (None, "", r"no journal\.jsonl in it; expected a run folder"),
        ("journal.jsonl", "", "no start record; expected a run folder"),
        ("journal.jsonl", "a log of something else\n", "no start record"),
        ("journal.jsonl", '{"record": "start"}\n', "line 1: the start record lacks data, task"),
        ("journal.jsonl", "{broken\n[]\n", r"line 1: expected a JSON object, got b'\{broken'"),
        ("journal.jsonl", "[1]\n", "line 1: expected a JSON object"),
        ("family.json", "{", "family.json: expected a JSON object, but it is damaged"),
        ("family.json", "[]", "family.json: expected a JSON object, got list"),
        ("family.json", '{"sizes": [{"name": "a"}]}', "family.json: the size record lacks params"),
        ("family.json", '{"sizes": 3}', "expected a list of sizes"),
        ("config.json", "\x00", "config.json: expected a JSON object"),
        ("compare.json", '{"uniform": {"a": 1}}', 'compare.json: expected a list of trainings under "uniform"'),
        ("compare.json", '{"sweep": [{"size": "a"}]}', "compare.json: the trained record lacks params, epochs"),
    ],
)
def test_what_is_no_run_folder_is_refused_in_one_line(tmp_path, name, text, message):
    if name not in {None, "journal.jsonl"}:
        damage(tmp_path, "journal.jsonl", json.dumps(next(iter(story()))) + "\n")
    if name is not None:
        damage(tmp_path, name, text)
    with pytest.raises(InputError, match=message) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "absent")
