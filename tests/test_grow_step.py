"""A step of the user's own as the objective: the loss with respect to the weights, and nothing else known."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.errors import InputError
from outgrow.grow.gain import judge, mean_loss, realised
from outgrow.grow.moments import take_moments
from outgrow.grow.objective import OutputLoss
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.sample import Batch
from outgrow.grow.step import StepLoss, objective_of
from outgrow.train.grower import Grower


def problem(seed=0, n=24):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    return model, torch.randn(n, 4).double(), torch.randint(3, (n,))


def step(model, batch):
    return F.cross_entropy(model(batch["x"]), batch["y"])


CE, STEP = OutputLoss(F.cross_entropy), StepLoss(step)


def batches(x, y, size=6):
    pieces = [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]
    return [Batch(a, b, len(a)) for a, b in pieces], [Batch({"x": a, "y": b}, None, len(a)) for a, b in pieces]


def last_layer(model, x, y, seed=0):
    names = ["2.weight", "2.bias"]
    grads = torch.autograd.grad(F.cross_entropy(model(x), y), [model.get_parameter(name) for name in names])
    noise = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)).double()
    return [{n: -g for n, g in zip(names, grads, strict=True)}, {"2.weight": -grads[0] + 0.1 * noise}]


def test_in_the_last_layer_a_step_is_judged_like_the_loss_of_the_outputs():
    model, x, y = problem()
    of_outputs, of_steps = batches(x, y)
    directions = last_layer(model, x, y)
    a, b = judge(model, directions, of_outputs, CE), judge(model, directions, of_steps, STEP)
    torch.testing.assert_close(a.matrix, b.matrix)
    torch.testing.assert_close(a.slopes.view(4, 6, 2).mean(1), b.slopes)
    for d in range(2):
        assert b.alone(d).gain == pytest.approx(a.alone(d).gain)
        assert b.alone(d).step == pytest.approx(a.alone(d).step)
        assert b.alone(d).se > 0
    assert b.beyond(1).gain == pytest.approx(a.beyond(1).gain)
    assert b.together([0, 1]) == pytest.approx(a.together([0, 1]))
    before = mean_loss(model, of_steps, STEP)
    assert before == pytest.approx(mean_loss(model, of_outputs, CE))
    drop = realised(model, directions[0], b.alone(0).step, of_steps, STEP, before)
    assert drop == pytest.approx(realised(model, directions[0], b.alone(0).step, of_outputs, CE, before))


class Cubed(torch.autograd.Function):
    """Can be differentiated once only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.pow(3)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, u):
        (x,) = ctx.saved_tensors
        return 3 * x.square() * u


@pytest.mark.parametrize("power", [Cubed.apply, lambda x: x.pow(3)])
def test_curvature_is_the_hessian_of_the_loss_by_two_derivatives_or_by_differences(power):
    model, x, _ = problem()
    objective = StepLoss(lambda model, batch: power(model(batch) - 2).mean())
    weights = {name: p.detach() for name, p in model.named_parameters()}
    torch.manual_seed(1)
    directions = [{name: torch.randn_like(w) for name, w in weights.items()}, {"0.weight": torch.randn(5, 4).double()}]

    def along(t):
        moved = {
            name: w + sum(s * d[name] for s, d in zip(t, directions, strict=True) if name in d)
            for name, w in weights.items()
        }
        return (torch.func.functional_call(model, moved, (x,)) - 2).pow(3).mean()

    zero = torch.zeros(2, dtype=torch.float64)
    found = objective.expand(model, directions, Batch(x, None, len(x)))
    torch.testing.assert_close(found.slopes[0], -torch.func.grad(along)(zero))
    torch.testing.assert_close(found.matrix, torch.func.hessian(along)(zero), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.own[0], found.matrix.diagonal())
    torch.testing.assert_close(found.first[0], found.matrix[0])


def test_negative_curvature_gains_nothing():
    model, x, _ = problem()
    concave = StepLoss(lambda model, batch: -model(batch).square().mean())
    judged = judge(model, [{"2.bias": torch.ones(3).double()}], [Batch(x, None, len(x))], concave)
    assert float(judged.own) < 0
    assert judged.alone(0).gain == 0


def test_moments_hold_the_gradient_and_the_empirical_fisher():
    model, x, y = problem()
    _, of_steps = batches(x, y)
    moments = take_moments(model, ["2"], of_steps, STEP, torch.Generator())["2"]
    z = model(x).detach().requires_grad_()
    u = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), z)[0]
    torch.testing.assert_close(moments.S, u.mT @ u / len(u))
    expected = torch.autograd.grad(F.cross_entropy(model(x), y), model[2].weight)[0]
    torch.testing.assert_close(moments.G[:, :5], expected)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda loss: loss.expand(4), r"the mean loss, one number, received shape \[4\]"),
        (lambda loss: None, "one number, received NoneType"),
        (lambda loss: {"loss": loss}, "one number, received dict"),
        (lambda loss: loss.item(), "one number, received float"),
        (lambda loss: loss.detach(), "with its graph, received one that depends on no weight"),
    ],
)
def test_what_is_no_mean_loss_with_a_graph_is_named(returned, said):
    model, x, y = problem()
    objective = StepLoss(lambda model, batch: returned(step(model, batch)))
    with pytest.raises(InputError, match=said):
        objective.answer(model, batches(x, y)[1][0])


def test_a_step_may_not_read_the_weights_of_a_direction():
    model, x, _ = problem()
    objective = StepLoss(lambda model, batch: model[0](batch).square().mean())
    found = objective.expand(model, [{"2.bias": torch.ones(3).double()}], Batch(x, None, len(x)))
    assert not found.slopes.any()
    assert not found.matrix.any()


def test_autocast_changes_nothing():
    model, x, y = problem()
    model, x = model.float(), x.float()
    directions, batch = last_layer(model, x, y), Batch({"x": x, "y": y}, None, len(x))
    plain = STEP.expand(model, directions, batch).matrix, STEP.mean(model, batch, {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = STEP.expand(model, directions, batch).matrix, STEP.mean(model, batch, {})
        assert STEP.answer(model, batch).values[0].dtype == torch.float32
    assert torch.equal(plain[0], found[0])
    assert plain[1] == found[1]


def test_either_a_loss_or_a_step():
    assert objective_of(F.mse_loss, None) == OutputLoss(F.mse_loss)
    assert objective_of(None, step) == StepLoss(step)
    for loss, given, said in ((F.mse_loss, step, "received both"), (None, None, "received neither"), (3, None, "int")):
        with pytest.raises(InputError, match=said):
            objective_of(loss, given)


class Answer:
    """An output that is no nest of tensors."""

    def __init__(self, loss, logits):
        self.loss, self.logits = loss, logits


class Labelled(nn.Module):
    """Computes its own loss, as Hugging Face's models do."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3))

    def forward(self, x, labels=None):
        logits = self.net(x)
        return logits if labels is None else Answer(F.cross_entropy(logits, labels), logits)


@pytest.mark.parametrize("strings", [False, True])
def test_a_network_grows_through_a_step_as_through_its_loss(strings):
    torch.manual_seed(1)
    x = torch.randn(2000, 4)
    radius = x[:, :2].norm(dim=1)
    y = (radius > 0.9).long() + (radius > 1.5).long()
    model = Labelled()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)

    def own_step(model, batch):
        x, labels = batch if strings else (batch["x"], batch["labels"])
        if strings:
            x = torch.tensor([[float(word) for word in line.split()] for line in x])
            labels = torch.tensor([int(label) for label in labels])
        return model(x, labels=labels).loss

    def loader():
        for i in range(0, 2000, 50):
            lines = [" ".join(f"{v:.4f}" for v in row) for row in x[i : i + 50].tolist()]
            labels = [str(int(label)) for label in y[i : i + 50]]
            yield (lines, labels) if strings else {"x": x[i : i + 50], "labels": y[i : i + 50], "epoch": 3}

    for _ in range(8):
        for batch in loader():
            optimizer.zero_grad()
            own_step(model, batch).backward()
            optimizer.step()
    twin = copy.deepcopy(model)
    free = {"max_params": 300, "policy": Proportional(price=-1.0, init=None)}  # grows whatever it gains
    other = Grower(twin, torch.optim.Adam(twin.parameters()), F.cross_entropy, x[:2], **free)
    expected = other.check([(x, y)]).growths
    growths = Grower(model, optimizer, None, x[:2], step=own_step, **free).check(loader()).growths
    assert len(growths) == len(expected) == 1
    assert model.net[0].out_features > 3
    within = 3 * expected[0].se if strings else 0.05 * expected[0].gain  # strings are split otherwise
    assert growths[0].gain == pytest.approx(expected[0].gain, abs=within + 1e-3)
    assert growths[0].realised == pytest.approx(growths[0].gain, rel=0.5)
    assert 0.3 < growths[0].se / expected[0].se < 3
    own_step(model, next(loader())).backward()
    optimizer.step()
