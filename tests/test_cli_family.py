"""Sizes on the command line: asked for, finished with the run or afterwards, gone on with after a stop."""

import json
import shutil
from pathlib import Path

import pytest

import outgrow
from outgrow.cli import main
from outgrow.train.branch import Branches

GROW = ["grow", "digits", "--epochs", "3", "--model", "mlp", "--out", "run"]


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A run with two sizes that were asked for, none of them finished."""
    path = tmp_path_factory.mktemp("grown")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert main([*GROW, "--sizes", "800,1.5k", "--family-quality", "average"]) == 0
    return path


@pytest.fixture
def here(grown, tmp_path, monkeypatch):
    shutil.copytree(grown / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def entries():
    return json.loads(Path("run/family.json").read_text())["sizes"]


def told(entry):
    """What does not depend on how long it took, and after how much it came."""
    return {key: value for key, value in entry.items() if key not in {"seconds", "joules", "train_flops"}}


def test_sizes_are_finished_afterwards(here, capsys):
    sizes = [entry["params"] for entry in entries()]
    assert all(any(0.9 * most <= size <= most for size in sizes) for most in (800, 1_500))
    assert not any("quality" in entry for entry in entries())
    assert main(["finish", "run", "--sizes", "800"]) == 0
    printed = capsys.readouterr().out
    after = entries()
    done = [entry for entry in after if "finished" in entry]
    assert [entry["params"] for entry in done] == [max(size for size in sizes if size <= 800)]
    assert f"finishing {done[0]['name']}" in printed
    assert "report.html" in printed
    for size in outgrow.Family("run"):
        assert sum(p.numel() for p in size.load().parameters()) == size.params
    capsys.readouterr()
    assert main(["finish", "run", "--sizes", "800", "5k"]) == 0  # nothing is left to do
    assert entries() == after
    said = capsys.readouterr().err
    assert f"{done[0]['name']} is finished already" in said
    assert f"{after[-1]['name']} is what the run ended with: it needs no branch" in said
    assert main(["finish", "run", "--sizes", "800", "--length", "0.3"]) == 0  # a longer one
    (longer,) = (entry for entry in entries() if entry["name"] == done[0]["name"])
    assert longer["branch_steps"] > 3 * done[0]["branch_steps"]
    assert "already" not in capsys.readouterr().err


def test_a_run_that_was_stopped_in_a_branch_goes_on_or_is_finished_afterwards(here, capsys, monkeypatch):
    shutil.rmtree("run")
    words = [*GROW, "--sizes", "800,1.5k"]
    begin = Branches.run

    def stopped(self, names, between):
        raise KeyboardInterrupt

    monkeypatch.setattr(Branches, "run", stopped)
    assert main(words) == 130
    assert "the same command with --resume goes on" in capsys.readouterr().err
    monkeypatch.setattr(Branches, "run", begin)
    shutil.copytree("run", "afterwards")
    assert main([*words, "--resume"]) == 0
    after = entries()
    assert any("quality" in entry for entry in after)
    assert main(["finish", "afterwards", "--sizes", "800,1.5k"]) == 0
    shutil.rmtree("run")
    shutil.copytree("afterwards", "run")
    pairs = zip(entries(), after, strict=True)
    assert all(told(mine) == told(other) for mine, other in pairs if "finished" in other)
    assert main([*words, "--overwrite"]) == 0
    assert list(map(told, entries())) == list(map(told, after))


BAD = {
    "no run": ["finish", "nowhere"],
    "a size below all": ["finish", "run", "--sizes", "20"],
    "a size that is no number": ["finish", "run", "--sizes", "small"],
    "no length": ["finish", "run", "--length", "0"],
    "a weight above 1": ["finish", "run", "--distil", "2"],
    "another network": ["finish", "run", "--model", "mynets:small"],
    "an unknown quality": [*GROW, "--family-quality", "great", "--overwrite"],
    "a size below the seed's": [*GROW, "--sizes", "20", "--overwrite"],
    "a policy that chooses sizes of its own": [*GROW, "--sizes", "2k", "--policy", "schedule", "--overwrite"],
    "a size above the budget": [*GROW, "--sizes", "5k", "--max-params", "2k", "--overwrite"],
}


@pytest.mark.parametrize("case", BAD)
def test_what_can_not_work_is_one_line_and_changes_nothing(here, capsys, case):
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert main(BAD[case]) == 2
    error = capsys.readouterr().err
    assert error.startswith("outgrow: ")
    assert len(error.splitlines()) == 1
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("key", ["options", "data", "recipe", "seed_network"])
def test_a_config_that_lacks_something_is_named(here, capsys, key):
    config = json.loads(Path("run/config.json").read_text())
    del config[key]
    Path("run/config.json").write_text(json.dumps(config))
    assert main(["finish", "run"]) == 2
    error = capsys.readouterr().err
    assert "config.json" in error
    assert key in error


def test_half_a_line_of_the_journal_is_cut_off(here, capsys):
    with open("run/journal.jsonl", "a") as journal:
        journal.write('{"record": "si')
    assert main(["finish", "run", "--sizes", "800"]) == 0
    assert all(json.loads(line) for line in Path("run/journal.jsonl").read_text().splitlines())
    assert main(["report", "run"]) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda family: family["sizes"][0].update(file="../victim.txt"), "victim.txt"),
        (lambda family: family.update(format=7), "newer"),
        (lambda family: family.pop("total"), "total"),
    ],
)
def test_a_family_that_was_tampered_with_is_refused_and_nothing_is_removed(here, capsys, change, told):
    Path("victim.txt").write_text("mine")
    family = json.loads(Path("run/family.json").read_text())
    change(family)
    Path("run/family.json").write_text(json.dumps(family))
    assert main(["finish", "run", "--sizes", "800"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
    assert Path("victim.txt").read_text() == "mine"


def test_data_of_ones_own_are_found_from_another_folder(tmp_path, monkeypatch, capsys):
    rows = [f"{i},{i % 7},{'no' if i % 3 else 'yes'}" for i in range(60)]
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("table.csv").write_text("\n".join(["a,b,y", *rows]))
    Path("other.csv").write_text("\n".join(["a,b,y", *rows[1:]]))
    assert main(["grow", "table.csv", "--target", "y", "--epochs", "1", "--out", "run"]) == 0
    monkeypatch.chdir(tmp_path / "there")
    capsys.readouterr()
    assert main(["finish", "../here/run"]) == 2
    assert "the data of the run in ../here/run, table.csv, are not there: say where they are" in capsys.readouterr().err
    assert main(["finish", "../here/run", "--data", "../here/other.csv"]) == 2
    assert "are not those that the run in ../here/run learned" in capsys.readouterr().err
    assert main(["finish", "../here/run", "--data", "../here/table.csv"]) == 0


def test_data_that_have_changed_are_refused(here, capsys):
    config = json.loads(Path("run/config.json").read_text())
    config["data"]["sha256"] = "0" * 64
    Path("run/config.json").write_text(json.dumps(config))
    assert main(["finish", "run"]) == 2
    assert "the data of digits" in capsys.readouterr().err
