"""Objectives of outputs: any nest of tensors, any module, any precision."""

import copy
import warnings
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.grow import derivative
from outgrow.grow.derivative import derivatives_along
from outgrow.grow.gain import judge
from outgrow.grow.objective import OutputLoss
from outgrow.grow.sample import Batch


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype).eval()


def directions(model, count=5, seed=0):
    """Directions of which some move the same weights, some others, and one all."""
    names = [name for name, _ in model.named_parameters()]
    chosen = [names, *([names[i % len(names)]] for i in range(count - 1))]
    generator = seeded(seed)
    return [
        {name: torch.randn(model.get_parameter(name).shape, generator=generator) for name in some} for some in chosen
    ]


def same(a, b, rtol=1e-9):
    for name in ("slopes", "own", "first", "matrix"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=rtol, atol=rtol)


X, Y = torch.randn(10, 4, generator=seeded()).double(), torch.randint(3, (10,), generator=seeded())
BATCH, CE = Batch(X, Y, 10), OutputLoss(F.cross_entropy)


@pytest.mark.parametrize("name", ["cross entropy", "squares", "L1"])
def test_the_expansion_equals_the_dense_gauss_newton_matrix(name):
    loss, target = {
        "cross entropy": (F.cross_entropy, Y),
        "squares": (F.mse_loss, X[:, :3]),
        "L1": (F.l1_loss, X[:, :3]),
    }[name]
    model = network()
    moves = directions(model)
    found = OutputLoss(loss).expand(model, moves, Batch(X, target, 10))
    z = model(X).detach()
    dz = [
        torch.func.jvp(
            lambda w: torch.func.functional_call(model, w, (X,)),
            ({name: model.get_parameter(name).detach() for name in move},),
            ({name: value.double() for name, value in move.items()},),
        )[1]
        for move in moves
    ]
    g = torch.func.grad(lambda z: loss(z, target))(z)
    H = torch.func.hessian(lambda z: loss(z, target))(z).reshape(30, 30)
    if name == "L1":
        size = (z - target).abs().flatten()
        H = torch.diag(1 / 30 / size.clamp_min(0.05 * size.mean()))
    matrix = torch.stack([torch.stack([a.flatten() @ H @ b.flatten() for b in dz]) for a in dz])
    torch.testing.assert_close(found.slopes.mean(0), torch.stack([-(g * d).sum() for d in dz]))
    torch.testing.assert_close(found.matrix, matrix)
    torch.testing.assert_close(found.own.mean(0), matrix.diagonal())
    torch.testing.assert_close(found.first.mean(0), matrix[0])


@pytest.mark.parametrize("numbers", [1, 60, 150, 10**9])
def test_the_expansion_does_not_depend_on_how_directions_are_grouped(numbers, monkeypatch):
    model = network()
    moves = directions(model, 9)
    whole = CE.expand(model, moves, BATCH)
    sizes = []
    together, singly = derivative._together, derivative._singly
    monkeypatch.setattr(derivative, "GROUP_NUMBERS", numbers)
    monkeypatch.setattr(derivative, "_together", lambda run, some: sizes.append(len(some)) or together(run, some))
    monkeypatch.setattr(derivative, "_singly", lambda run, some: sizes.append(len(some)) or singly(run, some))
    same(CE.expand(model, moves, BATCH), whole)
    assert sum(sizes) == 9
    assert len(sizes) == (1 if numbers == 10**9 else 7 if numbers > 60 else 9)  # 6 parameters, and all of them
    assert max(sizes) <= max(numbers // 60, 1)  # of [10, 6]


class Square(torch.autograd.Function):
    """Has neither a forward-mode formula nor a rule for vmap."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, u):
        (x,) = ctx.saved_tensors
        return 2 * x * u


class Activation(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Tanh(torch.autograd.Function):
    """Has a forward-mode formula, but no rule for vmap."""

    @staticmethod
    def forward(ctx, x):
        y = x.tanh()
        ctx.save_for_forward(y)
        return y

    @staticmethod
    def jvp(ctx, dx):
        (y,) = ctx.saved_tensors
        return dx * (1 - y.square())


def with_activation(function, dtype=torch.float64):
    model = network(dtype)
    model[1] = Activation(function)
    return model


def test_what_vmap_can_not_follow_goes_one_direction_at_a_time():
    model, plain = with_activation(Tanh.apply), network()
    with pytest.raises(RuntimeError):
        derivative._together(derivative._Run(model, X), directions(model))
    same(CE.expand(model, directions(model), BATCH), CE.expand(plain, directions(plain), BATCH), 1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-6), (torch.float32, 2e-2)])
def test_what_has_no_forward_mode_is_differentiated_by_differences(dtype, rtol):
    model, plain = with_activation(Square.apply, dtype), with_activation(torch.square, dtype)
    with pytest.raises(RuntimeError):
        derivative._singly(derivative._Run(model, X.to(dtype)), directions(model))
    batch = Batch(X.to(dtype), Y, 10)
    same(CE.expand(model, directions(model), batch), CE.expand(plain, directions(plain), batch), rtol)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_differences_do_not_depend_on_the_scale_of_a_direction(scale):
    model = with_activation(Square.apply)
    (move,) = directions(model, 1)
    _, one = derivatives_along(model, [move], X)
    _, other = derivatives_along(model, [{name: scale * value for name, value in move.items()}], X)
    torch.testing.assert_close(other[0], scale * one[0], rtol=1e-6, atol=1e-7 * scale)


def test_an_error_of_the_models_own_is_raised():
    def broken(x):
        raise KeyError("a name")

    with pytest.raises(KeyError, match="a name"):
        CE.expand(with_activation(broken), directions(network()), BATCH)


class Wrapped(nn.Module):
    """A model whose answer is a nest around the logits."""

    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = network(), wrap

    def forward(self, x):
        return self.wrap(self.net(x), x)


NESTS = {
    "a tuple": (lambda z, x: (z, x), lambda out: out[0]),
    "a dict": (lambda z, x: {"aux": x.sum(), "logits": z, "name": "n", "no": None}, lambda out: out["logits"]),
    "a nest": (lambda z, x: [None, {"deep": (x, (z, 3))}], lambda out: out[1]["deep"][1][0]),
    "leaves of many types": (lambda z, x: (z.argmax(1), z > 0, z.half(), z), lambda out: out[3]),
    "the same tensor twice": (lambda z, x: (z, z), lambda out: out[1]),
    "two parts of it": (lambda z, x: (z[:, :1], z[:, 1:]), lambda out: torch.cat(out, 1)),
}


@pytest.mark.parametrize("name", NESTS)
def test_nests_of_outputs_are_judged_and_drawn_like_the_tensor(name):
    wrap, pick = NESTS[name]
    model, plain = Wrapped(wrap), network()
    objective = OutputLoss(lambda out, y: F.cross_entropy(pick(out), y))
    moves = directions(plain)
    nested = [{f"net.{k}": v for k, v in move.items()} for move in moves]
    same(objective.expand(model, nested, BATCH), CE.expand(plain, moves, BATCH))
    assert objective.mean(model, BATCH, {}) == pytest.approx(CE.mean(plain, BATCH, {}))
    weights = model.net[4].weight, plain[4].weight
    for a, b in zip(objective.answer(model, BATCH).values, objective.answer(model, BATCH).gradient(), strict=True):
        assert a.shape == b.shape
    grads = [
        torch.autograd.grad(answer.values, weight, answer.gradient())[0]
        for answer, weight in zip((objective.answer(model, BATCH), CE.answer(plain, BATCH)), weights, strict=True)
    ]
    torch.testing.assert_close(*grads)
    roots = []
    for answer, weight in zip((objective.answer(model, BATCH), CE.answer(plain, BATCH)), weights, strict=True):
        generator = seeded(1)
        draws = [
            torch.autograd.grad(answer.values, weight, answer.draw(generator), retain_graph=True)[0].flatten()
            for _ in range(300)
        ]
        roots.append(torch.stack(draws).square().sum(1))
    error = (roots[0].var() / 300 + roots[1].var() / 300).sqrt()
    assert abs(roots[0].mean() - roots[1].mean()) < 4.5 * error


def bert(transformers):
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, num_labels=3
    )
    return transformers.BertForSequenceClassification(config), torch.randint(3, (6,), generator=seeded(2))


def gpt2(transformers):
    config = transformers.GPT2Config(vocab_size=30, n_embd=8, n_layer=2, n_head=2, n_positions=16)
    return transformers.GPT2LMHeadModel(config), torch.randint(30, (6, 5), generator=seeded(2))


def token_loss(z, y):
    return F.cross_entropy(z[:, :-1].flatten(0, 1), y[:, 1:].flatten())


@pytest.mark.parametrize(("make", "loss"), [(bert, F.cross_entropy), (gpt2, token_loss)])
@pytest.mark.parametrize("labels", [False, True])
def test_transformers_models_are_judged_like_their_logits(make, loss, labels):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, y = make(transformers)
    model = model.double().eval()
    for parameter in model.parameters():  # fresh ones hardly speak
        parameter.data.normal_(0, 0.3, generator=seeded(parameter.numel()))
    ids = torch.randint(30, (6, 5), generator=seeded(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **({"labels": y} if labels else {})}
    batch = Batch(inputs, y, 6)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, **inputs):
            return self.inner(**inputs).logits

    names = [name for name, _ in model.named_parameters() if name.endswith("weight")]
    moves = [
        {name: torch.randn(model.get_parameter(name).shape, generator=seeded(i))} for i, name in enumerate(names[-8:])
    ]
    found = OutputLoss(lambda out, y: loss(out.logits, y)).expand(model, moves, batch)
    inner = [{f"inner.{k}": v for k, v in move.items()} for move in moves]
    same(found, OutputLoss(loss).expand(Logits().eval(), inner, batch))
    assert found.own.sum() > 0
    gains = [
        judge(m, some, [batch], OutputLoss(f)).alone(1)
        for m, some, f in ((model, moves, lambda out, y: loss(out.logits, y)), (Logits().eval(), inner, loss))
    ]
    assert gains[0].se == pytest.approx(gains[1].se)
    assert gains[0].gain == pytest.approx(gains[1].gain)


@pytest.mark.parametrize("loss", [F.mse_loss, lambda z, y: (z @ z.mT).diagonal().mean() - (z * y).mean()])
def test_autocast_changes_nothing(loss):
    model = network(torch.float32)
    batch, moves = Batch(X.float(), X[:, :3].float(), 10), directions(model)
    objective, results = OutputLoss(loss), []
    for context in (nullcontext(), torch.autocast("cpu", dtype=torch.bfloat16)):
        with context:
            answer = objective.answer(model, batch)
            drawn = answer.draw(seeded())
            results.append([answer.values, answer.gradient(), drawn, objective.mean(model, batch, {})])
            results[-1].append(vars(objective.expand(model, moves, batch)))
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert all(t.dtype == torch.float32 for t in (*results[1][0], *results[1][1], *results[1][2]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_models_in_half_precision_have_terms_in_full(dtype, autocast):
    model, target = network(torch.float32).to(dtype), X[:, :3].to(dtype)
    full = copy.deepcopy(model).double()
    objective, moves = OutputLoss(F.huber_loss), directions(model)
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        batch = Batch(X.to(dtype), target, 10)
        answer = objective.answer(model, batch)
        drawn, found = answer.draw(seeded()), objective.expand(model, moves, batch)
        mean = objective.mean(model, batch, {})
    assert all(t.dtype == torch.float32 for t in (*answer.values, *answer.gradient(), *drawn))
    torch.autograd.grad(answer.values, model[0].weight, drawn)
    exact_batch = Batch(X.to(dtype).double(), target.double(), 10)
    exact = objective.expand(full, moves, exact_batch)
    assert mean == pytest.approx(objective.mean(full, exact_batch, {}), rel=0.05)
    for name in ("slopes", "own", "first", "matrix"):
        got, right = getattr(found, name), getattr(exact, name)
        assert got.dtype == torch.float64
        assert float((got - right).norm()) < 0.05 * float(right.norm())


def test_nothing_warns_and_the_model_stays():
    model = with_activation(Square.apply)
    before = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CE.expand(model, directions(model), BATCH)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
