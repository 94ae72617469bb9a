"""The rooms of the package: who may know whom, what files are called, what is public."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import outgrow

SOURCE = Path(outgrow.__file__).parent

MAY_KNOW = {
    "errors": set(),
    "factory": {"errors"},
    "option": {"errors"},
    "pareto": set(),
    "stored": {"errors"},
    "values": {"errors"},
    "data": {"errors"},
    "models": {"errors", "factory", "stored"},
    "net": {"errors", "models"},
    "grow": {"errors", "models", "net"},
    "show": {"errors", "pareto"},
    "registry": {"errors", "factory", "grow", "option"},
    "integrations": {"data", "errors", "grow", "models", "net", "registry", "show", "train"},
    "train": {"errors", "net", "grow", "data", "models", "pareto", "stored"},
    "export": {"errors", "net", "train", "models", "stored"},
}
"""For each room, the other rooms that it may import; the commands and `outgrow` itself may import all."""


def imported_rooms(path: Path) -> set[str]:
    """The rooms of outgrow that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = {name.split(".")[1] for name in names if name.startswith("outgrow.")}
    return {name for name in found if (SOURCE / name).exists() or (SOURCE / f"{name}.py").exists()}


def files_of(room: str) -> list[Path]:
    return [SOURCE / f"{room}.py"] if (SOURCE / f"{room}.py").exists() else sorted((SOURCE / room).rglob("*.py"))


def test_every_room_is_known():
    rooms = {path.stem for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= {*MAY_KNOW, "commands"}


@pytest.mark.parametrize("room", MAY_KNOW)
def test_imports_point_one_way(room):
    for path in files_of(room):
        assert imported_rooms(path) <= MAY_KNOW[room] | {room}, path


def test_the_rooms_have_an_order():
    known: set[str] = set()
    for room in (
        "errors",
        "factory",
        "option",
        "pareto",
        "stored",
        "data",
        "models",
        "net",
        "grow",
        "show",
        "train",
        "export",
        "registry",
        "integrations",
    ):
        assert MAY_KNOW[room] <= known
        known.add(room)


def test_files_are_named_by_what_they_define():
    vague = {"utils", "util", "helpers", "helper", "common", "core", "misc", "manager", "base", "tools"}
    assert not [path for path in SOURCE.rglob("*") if path.stem in vague]


def test_importing_outgrow_does_not_wait_for_torch():
    code = (
        "import sys, outgrow; dir(outgrow); print([m for m in ('torch', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in outgrow.__all__ if not name.startswith("__")])
def test_public_names_are_there_and_explained(name):
    assert name in dir(outgrow)
    thing = getattr(outgrow, name)
    assert thing.__doc__
    assert thing.__doc__.strip()


def test_other_names_are_not():
    assert isinstance(outgrow.__version__, str)
    with pytest.raises(AttributeError, match="module 'outgrow' has no attribute 'nothing'"):
        _ = outgrow.nothing
