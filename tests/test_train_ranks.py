"""Several processes grow one model as one process does."""

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from outgrow.errors import InputError
from outgrow.train.grower import Grower
from outgrow.train.ranks import Ranks, _in_turn

RANKS, BATCH = 2, 64


def digits():
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)


def share(own: int, count: int, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A rank's part of every batch, as a DistributedSampler deals it."""
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
    order = order[: len(x) // BATCH * BATCH][own::count]
    for at in order.split(BATCH // count):
        yield x[at], y[at]


def grown(own: int, count: int):
    """Train for some epochs on a share of every batch; return the weights and the events."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    grower = Grower(model, optimizer, F.cross_entropy, torch.zeros(1, 64), max_params=2_000, sample=256)
    wrapped = DistributedDataParallel(model) if count > 1 else model
    for epoch in range(6):
        for x, y in share(own, count, epoch):
            optimizer.zero_grad()
            F.cross_entropy(wrapped(x), y).backward()
            optimizer.step()
        if grower.check(share(own, count, 100 + epoch), held_out=float(own)).growths and count > 1:
            wrapped = DistributedDataParallel(model)
    return {"weights": model.state_dict(), "history": grower.history}


def work(own: int, folder: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=own, world_size=RANKS)
    result = grown(own, RANKS)
    torch.manual_seed(own)
    model = nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    grower = Grower(model, torch.optim.SGD(model.parameters(), 0.1), F.cross_entropy, torch.zeros(1, 64))
    try:
        grower.check(share(own, RANKS, 0))
    except InputError as error:
        result["apart"] = str(error)
    try:
        Ranks().level_([torch.zeros(3 + own)])
    except InputError as error:
        result["edits"] = str(error)
    strings = Ranks().together([f"{own}a", f"{own}b", *["0c"] * (own == 0)])
    torch.save(result | {"strings": list(strings)}, Path(folder) / f"{own}.pt")
    gc.collect()  # DDP's reducers, before the group that they talk through
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results():
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (folder,), nprocs=RANKS)
        return [torch.load(Path(folder) / f"{own}.pt", weights_only=False) for own in range(RANKS)]


def test_ranks_are_equal_bit_for_bit(results):
    first, second = results
    assert all(map(torch.equal, first["weights"].values(), second["weights"].values()))
    assert [event.to_json() for event in first["history"]] == [event.to_json() for event in second["history"]]
    looks = [event for event in first["history"] if event.candidates]
    assert {event.held_out for event in looks} == {0.5}  # the mean over ranks


def test_two_processes_are_one_with_the_same_batches(results):
    alone, together = grown(0, 1), results[0]
    edits = [[(g.kind, g.where, g.units) for g in event.growths] for event in alone["history"]]
    assert any(edits)
    assert edits == [[(g.kind, g.where, g.units) for g in event.growths] for event in together["history"]]
    for name, weight in alone["weights"].items():
        assert float((together["weights"][name] - weight).norm() / weight.norm()) < 1e-4, name


def test_ranks_that_disagree_are_told(results):
    for result in results:
        assert "before a check, rank 1 has other weights than rank 0 (0.weight, 0.bias, 2.weight" in result["apart"]
        assert "wrap the model anew after each growth" in result["apart"]


def test_ranks_with_other_edits_are_told(results):
    for result in results:
        assert "rank 1 has other shapes than rank 0: an edit was made on one of them" in result["edits"]


def test_batches_of_anything_follow_one_another_until_a_rank_has_no_more(results):
    assert results[0]["strings"] == results[1]["strings"] == ["0a", "1a", "0b", "1b"]


def test_examples_of_tensors_come_from_the_ranks_in_turn():
    x, y = torch.arange(12).view(6, 2), torch.arange(6)
    (mixed,) = _in_turn([{"x": x[own::3], "y": y[own::3]} for own in range(3)])
    assert torch.equal(mixed["x"], x)
    assert torch.equal(mixed["y"], y)


def test_one_process_is_by_itself():
    ranks = Ranks()
    assert (ranks.count, ranks.is_first, ranks.agreed("x"), ranks.gathered("x"), ranks.mean(2.0)) == (
        1,
        True,
        "x",
        ["x"],
        2.0,
    )


def test_a_wrapped_model_is_told():
    model = nn.DataParallel(nn.Linear(3, 3))
    with pytest.raises(InputError, match=r"received DataParallel around it: pass model\.module"):
        Grower(model, torch.optim.SGD(model.parameters(), 0.1), F.mse_loss, torch.zeros(1, 3))
