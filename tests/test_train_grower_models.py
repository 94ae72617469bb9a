"""What models may do while a Grower looks: keep what they computed, draw, mask; and loaders with workers go on."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from outgrow.grow.policies.proportional import Proportional
from outgrow.train.grower import Grower
from test_train_grower import rings, train, trained


class Keeping(nn.Module):
    """Keeps what it has computed, and a weight that pruning computes."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 3)
        self.c = nn.Linear(3, 3)
        prune.l1_unstructured(self.c, "weight", 0.3)

    def forward(self, x):
        self.hidden = self.a(x).relu()
        return self.c(self.b(self.hidden))


def test_results_that_a_model_keeps_are_no_matter():
    torch.manual_seed(0)
    model, (x, y) = Keeping(), rings()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer, x, y, 10)
    grower = Grower(model, optimizer, F.cross_entropy, x[:1], policy=Proportional(price=-1.0))
    train(model, optimizer, x, y, 10)
    assert grower.check([(x, y)], progress=0.1).growths


class Noisy(nn.Module):
    """Draws in every mode."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = self.a(x).relu()
        return self.b(x + torch.randn_like(x))


@pytest.mark.parametrize("by_step", [False, True])
def test_what_a_model_draws_is_a_matter_of_the_seed(by_step):
    def looked(state):
        torch.manual_seed(0)
        model, (x, y) = Noisy(), rings()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        step = {"step": lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])} if by_step else {}
        grower = Grower(model, optimizer, None if by_step else F.cross_entropy, x[:1], **step)
        train(model, optimizer, x, y, 20)
        torch.manual_seed(state)
        before = torch.get_rng_state()
        event = grower.check([(x, y)], progress=0.1)
        assert torch.equal(torch.get_rng_state(), before)
        return [(c.gain, c.realised) for c in event.candidates]

    assert looked(1) == looked(2)


def test_a_check_leaves_the_workers_of_the_loop_alone():
    _, _, x, y, grower = trained()
    loader = DataLoader(TensorDataset(x, y), 60, num_workers=1, persistent_workers=True)
    steps = 0
    for _ in loader:
        steps += 1
        if steps == 5:
            grower.check(loader)
        if steps > 20:
            break
    assert steps == 10


class Masked(nn.Module):
    """An encoder of words, some of which are padding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0)
        self.body, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(8, 3)

    def forward(self, ids, padded):
        return self.head(self.body(self.embed(ids), src_key_padding_mask=padded)[:, 0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_with_padding_grows():
    torch.manual_seed(0)
    ids = torch.randint(0, 20, (200, 6))
    padded, y = torch.arange(6) >= torch.randint(2, 7, (200, 1)), ids[:, 0] % 3
    model = Masked()
    optimizer = torch.optim.AdamW(model.parameters())
    example = ids[:4], padded[:4]
    grower = Grower(model, optimizer, F.cross_entropy, example, policy=Proportional(price=-1.0))
    assert grower.check([((ids, padded), y)], progress=0.1).growths
