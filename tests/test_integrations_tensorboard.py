"""TensorBoard's files: they hold what the journal holds, at its steps."""

import importlib.util
import sys

import pytest

from outgrow.cli import main
from outgrow.errors import InputError
from outgrow.integrations.tensorboard import TensorBoard
from outgrow.show.record import of_kind
from outgrow.show.run import read_run
from test_show_records import BLOCK, REMOVAL, UNSEEN, story

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the package tensorboard is not installed"
)


@pytest.fixture
def scalars_in():
    """Read the scalars of a folder: for every name its values by step."""

    def read(folder):
        reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        found = reading.EventAccumulator(str(folder))
        found.Reload()
        return {name: {e.step: e.value for e in found.Scalars(name)} for name in found.Tags()["scalars"]}

    return read


def written(folder, records):
    files = TensorBoard(folder)
    for record in records:
        files(record)
    files.close()


@needs_tensorboard
@pytest.mark.parametrize("metric", ["accuracy", "rmse"])
def test_the_files_hold_what_the_journal_holds(tmp_path, scalars_in, metric):
    records = list(story(metric=metric))
    written(tmp_path, records)
    found = scalars_in(tmp_path)
    for epoch in of_kind(records, "epoch"):
        step = epoch["step"]
        assert found["loss/train"][step] == pytest.approx(epoch["train_loss"])
        assert found["loss/validation"][step] == pytest.approx(epoch["validation"]["loss"])
        assert found[f"validation/{metric}"][step] == pytest.approx(epoch["validation"][metric])
        assert found["rate"][step] == pytest.approx(epoch["rate"])
        assert found["spent/seconds"][step] == pytest.approx(epoch["seconds"])
    last = of_kind(records, "epoch")[-2]
    for name, units in last["axes"].items():
        assert found[f"units/{name}"][last["step"]] == units
    for event in of_kind(records, "event"):
        assert found["network/parameters"][event["step"]] == event["params_after"]
        if event["growths"]:
            gain = sum(growth["gain"] for growth in event["growths"])
            assert found["gain/promised"][event["step"]] == pytest.approx(gain)
    assert set(found["saved/parameters"].values()) <= {size["params"] for size in of_kind(records, "size")}


@needs_tensorboard
def test_the_share_of_checks_is_that_of_each_epoch(tmp_path, scalars_in):
    axes = {"fc1": 8}
    epoch = {"record": "epoch", "train_loss": 1.0, "validation": {"loss": 1.0}, "params": 9, "axes": axes, "seconds": 1}
    event = {"event": 1, "epoch": 0.5, "growths": [], "reason": "", "flops": 100}
    records = [{"record": "start", "params": 9, "axes": axes}, event | {"step": 3}, event | {"step": 4}]
    records += [epoch | {"epoch": 1, "step": 8, "train_flops": 1000}, event | {"step": 9}]
    records += [epoch | {"epoch": 2, "step": 16, "train_flops": 1400}, epoch | {"epoch": 3, "step": 24}]
    written(tmp_path, records)
    assert scalars_in(tmp_path)["check/share"] == pytest.approx({8: 0.2, 16: 0.25})


@needs_tensorboard
def test_what_is_not_known_is_left_out(tmp_path, scalars_in):
    records = list(story(epochs=3))
    for event in of_kind(records, "event"):
        event["growths"] = [UNSEEN, REMOVAL, BLOCK | {"realised": None}]
    of_kind(records, "epoch")[0]["train_loss"] = float("nan")
    written(tmp_path, records)
    found = scalars_in(tmp_path)
    assert not [name for name in found if name.startswith("gain/")]
    assert len(found["loss/train"]) == 2


@needs_tensorboard
def test_a_run_that_is_taken_up_again_leaves_no_later_steps_behind(tmp_path, scalars_in):
    records = list(story(every=0))
    epochs = of_kind(records, "epoch")
    written(tmp_path, [records[0], *(epoch | {"train_loss": 7.0} for epoch in epochs[:8])])
    written(tmp_path, [{"record": "resume", "epoch": 5.0, "step": epochs[4]["step"]}, *epochs[5:], records[-1]])
    losses = scalars_in(tmp_path)["loss/train"]
    assert list(losses) == [epoch["step"] for epoch in epochs]
    assert [loss == 7.0 for loss in losses.values()] == [True] * 5 + [False] * 7


@needs_tensorboard
def test_a_run_from_the_command_line_writes_both(tmp_path, scalars_in, capsys):
    run = tmp_path / "run"
    assert main(["grow", "digits", "--epochs", "1", "--out", str(run), "--tensorboard"]) == 0
    assert "epoch 1/1" in capsys.readouterr().out
    losses = scalars_in(run / "tensorboard")["loss/train"]
    assert losses == pytest.approx({epoch["step"]: epoch["train_loss"] for epoch in read_run(run).epochs})


def test_without_the_package_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "outgrow\[tensorboard\]"'):
        TensorBoard(tmp_path / "tensorboard")
    assert main(["grow", "digits", "--epochs", "1", "--out", str(tmp_path / "run"), "--tensorboard"]) == 2
    assert 'pip install "outgrow[tensorboard]"' in capsys.readouterr().err
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_the_package_is_imported_only_when_something_is_written(tmp_path):
    assert "outgrow.integrations.tensorboard" in sys.modules
    TensorBoard(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
