"""Folders that are no run, or whose files are damaged: refused in one line, and nothing is written."""

import errno
import json
import os
import re
from pathlib import Path

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
        ("family.json", '{"sizes": [], "total": [1]}', 'family.json: expected an object under "total"'),
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


@pytest.mark.parametrize(
    ("number", "keys", "value", "message"),
    [
        (0, ["axes"], ["fc1"], "line 1: axes: expected an object of whole numbers, received ['fc1']"),
        (0, ["params"], 0, "line 1: params: expected a whole number from 1, received 0"),
        (1, ["validation"], None, "line 2: validation: expected an object of numbers, received None"),
        (1, ["validation", "accuracy"], "good", "line 2: validation: expected an object of numbers, received {"),
        (1, ["seconds"], True, "line 2: seconds: expected a number, received True"),
        (2, ["growths"], None, "line 3: growths: expected a list of objects, received None"),
        (2, ["growths", 0, "params"], "12", "line 3: growths[0].params: expected a whole number, received '12'"),
        (2, ["candidates", 0], {}, "line 3: the event record lacks candidates.kind, candidates.where"),
        (3, ["joules"], {"value": 3}, "line 4: joules: expected an object with a value and how it is known or null"),
        (-1, ["reason"], 3, "reason: expected a text, received 3"),
    ],
)
def test_a_value_that_its_key_can_not_have_is_named_with_its_line(tmp_path, number, keys, value, message):
    records = list(story(every=1))
    record = records[number]
    for key in keys[:-1]:
        record = record[key]
    record[keys[-1]] = value
    damage(tmp_path, "journal.jsonl", "".join(json.dumps(one) + "\n" for one in records))
    with pytest.raises(InputError, match=re.escape(message)):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["journal.jsonl", "family.json"])
def test_a_file_that_can_not_be_read_is_named(tmp_path, monkeypatch, name):
    read = Path.read_bytes

    def refuse(file):
        if file.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return read(file)

    damage(tmp_path, "journal.jsonl", json.dumps(next(iter(story()))) + "\n")
    damage(tmp_path, "family.json", "{}")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=rf"{name}: can't be read \(Permission denied\)"):
        write_report(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "absent")
