"""What the README and the docs show runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from outgrow.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_loop_of_the_readme_runs_and_prints_what_it_says(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    loop = next(block for block in blocks if "grower.check" in block)
    result = subprocess.run([sys.executable, "-c", loop], capture_output=True, text=True, check=True, cwd=tmp_path)
    line = r"grew \S+ \d+ -> \d+: gain \d\.\d{4} \+- \d\.\d{4} nats, realised -?\d\.\d{4}, \+[\d,]+ parameters"
    assert re.search(rf"^{line}$", result.stdout, re.MULTILINE)
    assert re.search(rf"`{line}`", README)


def test_the_edits_of_the_readme_print_what_it_says(printed):
    shown = re.search(r"```python\n([^`]*deepen_[^`]*)```\n\nprints\n\n((?:    .*\n)+)", README)
    edits, said = shown.groups()
    assert [line.strip() for line in said.splitlines()] == printed(edits).splitlines()


def test_ci_runs_the_second_command_word_for_word():
    shown = README.split("<!-- second command -->")[1].split("```sh\n")[1].split("\n```")[0]
    script = (ROOT / ".ci" / "run").read_text()
    command = next(line for line in script.splitlines() if line.startswith("command="))
    found = subprocess.run(
        ["bash", "-c", f'{command}; printf %s "$command"'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == shown
    assert "pytest" in shown


@pytest.mark.parametrize(
    "page", ["README.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").glob("*.md")))]
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
        assert link.startswith("https://") or (ROOT / page).parent.joinpath(link.partition("#")[0]).exists(), link


def test_the_estimator_of_the_readme_runs_as_shown(printed):
    shown = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "sklearn import" in block)
    page = (ROOT / "docs" / "sklearn.md").read_text().split("<!-- sklearn -->")[1].split("```python\n")[1]
    for code in (shown, page.split("```")[0]):
        assert re.match(r"0\.9\d+ \[\d+", printed(code))


def test_new_rows_are_encoded_as_shown(printed, tmp_path):
    rows = [f"{rooms},{'north' if rooms % 3 else 'south'},{50 * rooms}" for rooms in range(1, 61)]
    (tmp_path / "houses.csv").write_text("\n".join(["rooms,side,price", *rows]))
    (tmp_path / "new.csv").write_text("side,rooms\nsouth,7\nwest,\n")
    out = str(tmp_path / "runs" / "houses")
    assert main(["grow", str(tmp_path / "houses.csv"), "--target", "price", "--epochs", "1", "--out", out]) == 0
    page = (ROOT / "docs" / "data.md").read_text().split("<!-- rows -->")[1].split("```python\n")[1]
    assert re.search(r"^tensor\(\[\[.*\],\n +\[.*\]\]\)$", printed(page.split("```")[0]), re.MULTILINE)


def test_a_loop_goes_on_as_shown(printed):
    page = (ROOT / "docs" / "loops.md").read_text().split("<!-- going on -->")[1].split("```python\n")[1]
    assert printed(page.split("```")[0]) == "True 1\n"


def test_the_example_of_several_processes_is_short_and_runs():
    example = ROOT / "examples" / "several_processes.py"
    assert len(example.read_text().splitlines()) <= 80
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(example)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.count("grew 0 4 -> ") == 1


def test_the_example_of_a_table_is_short_and_runs(printed):
    example = (ROOT / "examples" / "sklearn_table.py").read_text()
    assert len(example.splitlines()) <= 80
    assert printed(example).count("on the test part") == 2


def test_the_trainer_of_hugging_face_runs_as_shown(printed, tmp_path):
    page = (ROOT / "docs" / "huggingface.md").read_text().split("<!-- huggingface -->")[1].split("```python\n")[1]
    assert re.search(r"^\d+ parameters, \d+ wide$", printed(page.split("```")[0]), re.MULTILINE)
    assert (tmp_path / "run" / "checkpoint-64").is_dir()


def test_the_example_of_a_trainer_is_short_and_runs(printed):
    example = (ROOT / "examples" / "huggingface_trainer.py").read_text()
    assert len(example.splitlines()) <= 80
    found = re.findall(r"([\d,]+) parameters, .* on the test part", printed(example))
    sizes = [int(size.replace(",", "")) for size in found]
    assert sizes[0] < sizes[1] <= 20_000
