"""After any edits a model is like any other: what torch does with models, it does with this one."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from net_cases import CASES, IMAGE, ROW, noise
from outgrow.net.deepen import deepen_
from outgrow.net.newborns import Newborns
from outgrow.net.remove import remove_
from outgrow.net.widen import widen_

Edits = list[Callable[..., object]]


def wider(axis: str, units: int) -> Callable[..., object]:
    return lambda model, **options: widen_(model, axis, units, **options)


def narrower(axis: str, *units: int) -> Callable[..., object]:
    return lambda model, **options: remove_(model, axis, units, **options)


def deeper(place: str) -> Callable[..., object]:
    return lambda model, **options: deepen_(model, place, **options)


class Encoder(nn.Module):
    """Two layers of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)).mean(1))


@dataclass(frozen=True)
class Life:
    """A model, an input, and what is done to it, in this order."""

    build: Callable[[], nn.Module]
    example: Tensor
    edits: Edits

    def model(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.build()

    def edit_(self, model: nn.Module, **options: object) -> nn.Module:
        for edit in self.edits:
            edit(model, example=self.example, **options)
        return model


LIVES = {
    "chain": Life(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
        ROW,
        [wider("0", 2), narrower("2", 0, 3), deeper("1"), wider("2", 1)],
    ),
    "images": Life(
        CASES["resnet"].build,
        IMAGE,
        [
            wider("resnet.stem.0", 2),
            wider("resnet.stages.1.0.conv1", 2),
            deeper("resnet.stages.0.0"),
            narrower("resnet.stages.1.0.conv1", 0, 5),
            wider("resnet.stages.0.1.conv1", 3),
        ],
    ),
    "sequences": Life(
        Encoder,
        noise(4, 5, 3),
        [
            wider("layers.layers.0.linear1", 2),
            deeper("layers.layers.1"),
            narrower("layers.layers.0.linear1", 1),
            wider("layers.layers.2.linear1", 1),
        ],
    ),
}
every_life = pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
some_lives = pytest.mark.parametrize("life", [LIVES["chain"], LIVES["images"]], ids=["chain", "images"])


def adam(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)


def train(model: nn.Module, example: Tensor, optimizer: Optimizer, steps: int = 2) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(example) - 0.5).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def lived(life: Life) -> tuple[nn.Module, Optimizer]:
    """Trained, edited and trained a little more."""
    model = life.model()
    optimizer = adam(model)
    train(model, life.example, optimizer)
    life.edit_(model, optimizer=optimizer)
    train(model, life.example, optimizer)
    return model, optimizer


def same(model: nn.Module, other: nn.Module) -> bool:
    state, twin = model.state_dict(), other.state_dict()
    return list(state) == list(twin) and all(
        torch.equal(a, b) for a, b in zip(state.values(), twin.values(), strict=True)
    )


def out(model: nn.Module, example: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(example)


def by_deepcopy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def by_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def by_torch(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_life
def test_it_can_be_copied(life: Life):
    model, _ = lived(life)
    for duplicate in (by_deepcopy, by_pickle, by_torch):
        twin = duplicate(model)
        assert repr(twin) == repr(model)
        assert same(twin, model)
        assert torch.equal(out(twin, life.example), out(model, life.example))
    life.edits[0](twin, example=life.example)  # the copy goes on to grow
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert all(parameter.any() for parameter in model.parameters())


@every_life
def test_its_state_fits_an_equally_grown_model(life: Life):
    model, optimizer = lived(life)
    twin = life.edit_(life.model(seed=1))
    twin.load_state_dict(model.state_dict())
    other = adam(twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    Newborns.follow(other)
    assert same(twin, model)
    assert train(twin.train(), life.example, other, 3) == train(model.train(), life.example, optimizer, 3)
    assert same(twin, model)


@every_life
def test_it_trains(life: Life):
    model, optimizer = lived(life)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = train(model, life.example, optimizer, 15)
    assert losses[-1] < losses[0]
    assert not [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]


@every_life
def test_it_can_be_exported(life: Life):
    model, _ = lived(life)
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(model.eval(), (life.example,), dynamic_shapes=({0: batch},), strict=False)
    larger = torch.cat([life.example] * 2)
    torch.testing.assert_close(exported.module()(larger), out(model, larger))


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("compiled_anew")
@every_life
def test_it_can_be_compiled(life: Life):
    model, optimizer = lived(life)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    twin = copy.deepcopy(model)
    other = adam(twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    Newborns.follow(other)
    losses = train(compiled, life.example, optimizer, 3)
    assert losses == pytest.approx(train(twin, life.example, other, 3), rel=1e-4)


AGAIN_AND_AGAIN = {"wider": wider("0", 1), "narrower": narrower("0", 0), "deeper": deeper("1")}


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("edit", AGAIN_AND_AGAIN.values(), ids=AGAIN_AND_AGAIN)
def test_a_compiled_model_is_compiled_anew_at_each_edit(edit: Callable[..., object]):
    """Dynamo runs a function uncompiled after eight shapes, and does not say so."""
    model = nn.Sequential(nn.Linear(3, 14), nn.ReLU(), nn.Linear(14, 2))
    optimizer = adam(model)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter)
    for edits in range(11):
        train(compiled, ROW, optimizer, 1)
        assert counter.frame_count == edits + 1
        torch.testing.assert_close(compiled(ROW), model(ROW))
        assert counter.frame_count == edits + 1
        edit(model, example=ROW, optimizer=optimizer)


# torch scripts a class of its own when it first looks for graphs of a device
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.usefixtures("compiled_anew")
def test_a_compiled_step_corrects_newborns_too():
    life = LIVES["chain"]
    model, optimizer = lived(life)
    twin = copy.deepcopy(model)
    other = adam(twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    Newborns.follow(other)
    step = torch.compile(optimizer.step, backend="eager")
    for parameter, mirrored in zip(model.parameters(), twin.parameters(), strict=True):
        parameter.grad = torch.ones_like(parameter)
        mirrored.grad = torch.ones_like(parameter)
    for _ in range(3):
        step()
        other.step()
    for parameter, mirrored in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, mirrored)


@every_life
def test_it_runs_under_autocast(life: Life):
    model, optimizer = lived(life)
    exact = model(life.example)
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(life.example)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.05)
    rounded.float().square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    optimizer.step()


@some_lives
def test_a_scaler_goes_on(life: Life):
    """Steps through a scaler are those without it, edits between them."""
    models = [life.model(), life.model()]
    optimizers = [adam(model) for model in models]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for edit in (lambda model, **_: None, *life.edits):
        for model, optimizer in zip(models, optimizers, strict=True):
            torch.manual_seed(1)
            edit(model, example=life.example, optimizer=optimizer)
        for _ in range(2):
            train(models[0], life.example, optimizers[0], 1)
            optimizers[1].zero_grad()
            scaler.scale((models[1](life.example) - 0.5).square().mean()).backward()
            scaler.step(optimizers[1])
            scaler.update()
    for parameter, scaled in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(parameter, scaled, rtol=1e-4, atol=1e-5)


SCHEDULES = {
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.02, total_steps=20),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 20),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_goes_on(schedule: Callable[[Optimizer], object]):
    life = LIVES["chain"]
    optimizer = adam(model := life.model())
    other = adam(alone := life.model())
    schedules = [schedule(optimizer), schedule(other)]
    for edit in (lambda model, **_: None, *life.edits):
        edit(model, example=life.example, optimizer=optimizer)
        for net, own, each in zip((model, alone), (optimizer, other), schedules, strict=True):
            train(net, life.example, own)
            each.step(*([1.0] if isinstance(each, lr_scheduler.ReduceLROnPlateau) else []))
        groups = [{k: v for k, v in o.param_groups[0].items() if k != "params"} for o in (optimizer, other)]
        assert groups[0] == groups[1]


@every_life
def test_averages_go_on(life: Life):
    model = life.model()
    optimizer = adam(model)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    train(model, life.example, optimizer)
    averaged.update_parameters(model)
    life.edit_(model, optimizer=optimizer, averages=[averaged])
    assert [tensor.shape for tensor in averaged.module.state_dict().values()] == [
        tensor.shape for tensor in model.state_dict().values()
    ]
    assert repr(averaged.module) == repr(model)
    for _ in range(40):
        averaged.update_parameters(model)
    update_bn([life.example], averaged)
    for parameter, live in zip(averaged.module.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(parameter, live)
    averaged(life.example)


@pytest.fixture
def alone_in_a_group(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone_in_a_group")
@some_lives
def test_it_can_be_wrapped_for_several_processes_again(life: Life):
    model, plain = life.model(), life.model()
    optimizer, other = adam(model), adam(plain)
    for edit in (lambda model, **_: None, *life.edits):
        for net, own in ((model, optimizer), (plain, other)):
            torch.manual_seed(1)
            edit(net, example=life.example, optimizer=own)
        wrapped = DistributedDataParallel(model)
        assert train(wrapped, life.example, optimizer) == train(plain, life.example, other)
    assert same(model, plain)
