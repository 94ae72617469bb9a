"""Checks of models whose outputs have parts that nothing on trial reaches, or another layout in memory."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from outgrow.errors import InputError
from outgrow.grow.cross import cross_moments, route
from outgrow.grow.objective import OutputLoss
from outgrow.grow.policies.proportional import Proportional
from outgrow.grow.sample import Batch, Sample, counted
from outgrow.net.axes import axes
from outgrow.train.grower import Grower

X = torch.randn(256, 5, generator=torch.Generator().manual_seed(0))
LABELS = (X[:, :3].abs()).argmax(1)


def perceptron(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, outputs))


class Two(nn.Module):
    """Hands out what two parts make of an input."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return self.first(x), self.second(x)


def heads(z, labels):
    return F.cross_entropy(z[0], labels) + F.cross_entropy(z[1], labels)


def taught(z, labels):
    return F.cross_entropy(z[0], labels) + F.mse_loss(z[0], z[1])


def rebuilt(z, labels):
    return F.mse_loss(*z)


@pytest.mark.parametrize(
    ("second", "outputs", "loss"),
    [
        (lambda: nn.Linear(5, 3), 3, heads),
        (lambda: perceptron(3).requires_grad_(False), 3, taught),
        (nn.Identity, 5, rebuilt),
    ],
    ids=["another head", "a teacher", "its input"],
)
@pytest.mark.parametrize("proposal", ["random", "closed", "gradmax"])
def test_parts_of_the_output_that_nothing_on_trial_reaches_are_no_matter(second, outputs, loss, proposal):
    torch.manual_seed(0)
    model = Two(perceptron(outputs), second())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    policy = Proportional(price=-1.0, init=None)
    grower = Grower(model, optimizer, loss, X[:1], policy=policy, proposal=proposal, sample=64)
    event = grower.check([(X, LABELS)])
    assert any(growth.where == "first.0" for growth in event.growths)


def focal(z, y):
    log = z.log_softmax(1).gather(1, y[:, None]).squeeze(1)
    return -((1 - log.exp()) ** 2 * log).mean()


@pytest.mark.parametrize("loss", [focal, F.mse_loss])
def test_a_layout_of_the_outputs_does_not_change_gains(loss):
    x = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    y = x.clone() if loss is F.mse_loss else (x.sum(1) > 0).long()
    events = []
    for form in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).to(memory_format=form)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        policy = Proportional(price=-1.0)
        grower = Grower(model, optimizer, loss, x[:1], policy=policy, sample=32)
        events.append(grower.check([(x.to(memory_format=form), y)]))
    one, other = (candidate.gain for event in events for candidate in event.candidates)
    assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 8), (1, 9), (3, 5)])
def test_cross_moments_of_a_flattened_map_are_those_of_its_places(height, width):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(3 * height * width, 4)).eval()
    x, y = torch.randn(64, 2, height, width), torch.randn(64, 4)
    (axis,) = (axis for axis in axes(model, x[:1]) if axis.growable)
    ((found,),) = cross_moments(model, [route(model, axis)], [Batch(x, y, 64)], OutputLoss(F.mse_loss))
    u = 2 * (model(x) - y).detach() / 4
    torch.testing.assert_close(found.float(), torch.einsum("no,nik->oik", u, x.flatten(2)) / 64)


def test_a_step_that_leaves_the_model_it_is_given_alone_is_refused():
    model = perceptron(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    grower = Grower(model, optimizer, None, X[:1], step=lambda _, batch: model(batch[0]).square().mean())
    with pytest.raises(InputError, match=r"expected step\(model, batch\) to use the model that it is given"):
        grower.check([(X, LABELS)])


class Cut(nn.Module):
    """A network whose answer has lost its graph."""

    def __init__(self):
        super().__init__()
        self.net = perceptron(1)

    def forward(self, x):
        return self.net(x).detach()


def test_outputs_without_a_graph_are_refused():
    model = Cut()
    grower = Grower(model, torch.optim.SGD(model.parameters(), lr=0.01), F.mse_loss, X[:1])
    with pytest.raises(InputError, match="expected outputs of Cut that depend on its weights"):
        grower.check([(X, X[:, :1])])


def test_a_step_may_use_weights_without_calling_the_model():
    model = perceptron(1)

    def step(net, batch):
        hidden = F.linear(batch[0], net[0].weight, net[0].bias).relu()
        return F.linear(hidden, net[2].weight, net[2].bias).square().mean()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    assert Grower(model, optimizer, None, X[:1], step=step).check([(X, LABELS)]).candidates


def test_fewer_examples_than_planned_give_as_many_rows():
    x = torch.randn(100, 3, 16, 16)
    found = []
    for sample in (50, 1_024):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        grower = Grower(model, optimizer, lambda z, y: z.square().mean(), x[:1], sample=sample)
        found.append(grower._setup(grower.plan(), [(x, torch.zeros(100))]).positions)
    enough, given = found
    assert all(given[path] >= count for path, count in enough.items())


def test_an_example_without_rows_is_told():
    model = perceptron(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    grower = Grower(model, optimizer, F.mse_loss, X[0])
    with pytest.raises(InputError, match=r"like the inputs of the loader, \[\d+, 5\], .* received \[5\]: give some"):
        grower.check([(X, X[:, :1])])


@pytest.mark.parametrize(
    ("loss", "ignored"),
    [
        (F.cross_entropy, -100),
        (nn.CrossEntropyLoss(ignore_index=2), 2),
        (partial(F.cross_entropy, ignore_index=2, label_smoothing=0.1), 2),
    ],
)
def test_targets_that_do_not_count_are_counted_over_all_batches(monkeypatch, loss, ignored):
    labels = LABELS.clone()
    labels[:120], labels[130:140] = ignored, ignored
    model = perceptron(3)
    (whole,) = OutputLoss(loss).answer(model, Batch(X, labels, 256)).gradient()
    batches = [Batch(X[i : i + 4], labels[i : i + 4], 4) for i in range(0, 256, 4)]
    left = counted(Sample(batches, []), loss).a
    parts = torch.cat([OutputLoss(loss).answer(model, batch).gradient()[0] for batch in left])
    some = (labels.view(-1, 4) != ignored).any(1).repeat_interleave(4)  # those in a batch with a target that counts
    assert torch.equal(torch.cat([batch.inputs for batch in left]), X[some])
    torch.testing.assert_close(parts / len(parts), whole[some] / 256)

    monkeypatch.setattr("outgrow.grow.sample.CHUNK_FLOPS", 1.0)
    expected = loss(model(X[1::2]), labels[1::2]).item()
    grower = Grower(model, torch.optim.SGD(model.parameters(), lr=0.01), loss, X[:1])
    assert grower.check([(X, labels)]).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("target", [{"y": LABELS, "mask": LABELS % 2}, -LABELS - 99, LABELS.float()])
def test_where_all_targets_count_batches_are_as_they_were(target):
    batches = [Batch(X, target, 256)]
    assert counted(Sample(batches, []), F.cross_entropy).a is batches


def over_all(z, y):
    return F.cross_entropy(z, y, reduction="none").mean()


def test_a_loss_over_all_targets_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr("outgrow.grow.sample.CHUNK_FLOPS", 1.0)
    labels = LABELS.clone()
    labels[:120] = -100
    model = perceptron(3)
    expected = over_all(model(X[1::2]), labels[1::2]).item()
    grower = Grower(model, torch.optim.SGD(model.parameters(), lr=0.01), over_all, X[:1])
    assert grower.check([(X, labels)]).loss == pytest.approx(expected, rel=1e-5)


def ctc(z, words):
    return F.ctc_loss(z.transpose(0, 1), words, torch.full((len(z),), 12), torch.full((len(z),), 4))


def test_curvature_may_come_in_another_layout():
    class Sequences(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(4, 5, 1)

        def forward(self, x):
            return self.b(F.relu(self.a(x))).transpose(1, 2).log_softmax(-1)

    torch.manual_seed(0)
    model = Sequences()
    grower = Grower(model, torch.optim.SGD(model.parameters(), lr=0.01), ctc, torch.zeros(1, 3, 12))
    event = grower.check([(torch.randn(64, 3, 12), torch.randint(1, 5, (64, 4)))])
    assert event.gain_now > 0


@pytest.mark.parametrize("depth", [False, True])
def test_examples_whose_loss_is_not_finite_are_told(depth):
    model, x = perceptron(3), X.clone()
    x[5] = torch.nan
    grower = Grower(model, torch.optim.SGD(model.parameters(), lr=0.01), F.cross_entropy, X[:1])
    grower.policy = Proportional(price=-1.0, depth=depth)
    with pytest.raises(FloatingPointError, match="the loss of the check's examples is nan, though the weights are fin"):
        grower.check([(x, LABELS)])
