"""An epoch is a permutation of the part, seeded runs repeat bit for bit, and augmentation only moves pixels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_samples import pixels
from outgrow.data import Batches, Split
from outgrow.data.augment import augment, reflect, take
from outgrow.data.batches import drawn
from outgrow.errors import InputError

IMAGES = torch.from_numpy(pixels(50, 3, 16, 12))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=50):
    return Split(IMAGES[:n], torch.arange(n))


@pytest.mark.parametrize("batch_size", [1, 7, 25, 50, 1000])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_is_a_permutation_with_labels_in_step(batch_size, shuffle):
    batches = Batches(images(), batch_size, shuffle=shuffle, generator=seeded())
    for _ in range(2):
        epoch = list(batches)
        y = torch.cat([y for _, y in epoch])
        assert len(epoch) == len(batches)
        assert y.sort().values.tolist() == list(range(50))
        assert torch.equal(torch.cat([x for x, _ in epoch]), IMAGES[y].float() / 255)


WEIGHTS = st.lists(st.floats(0.01, 10), min_size=1, max_size=30).map(torch.tensor)


@given(WEIGHTS, st.floats(0, 0.999))
def test_examples_are_drawn_as_often_as_their_weights_ask_for(weight, start):
    asked = weight.double() * len(weight) / weight.double().sum()
    found = torch.bincount(drawn(weight, start), minlength=len(weight))
    assert found.sum() == len(weight)
    assert ((found - asked).abs() < 1 + 1e-6).all()  # rounded up or down
    assert torch.equal(drawn(torch.ones(len(weight)), start), torch.arange(len(weight)))


@given(WEIGHTS)
def test_over_all_starts_the_counts_are_exact(weight):
    draws = torch.cat([drawn(weight, start / 100) for start in range(100)])
    found = torch.bincount(draws, minlength=len(weight)) / 100
    asked = weight * len(weight) / weight.sum()
    assert (found - asked).abs().max() <= 0.021  # two steps of the starts


def test_weights_choose_the_examples_of_an_epoch_which_can_be_taken_up_again():
    part = Split(torch.arange(20.0)[:, None], torch.arange(20), torch.arange(20) + 1.0)
    batches = Batches(part, 4, shuffle=True, generator=seeded())
    first, second = (torch.cat([y for _, y in epoch]) for epoch in (batches, batches))
    assert len(first) == len(second) == 20
    assert not torch.equal(first.sort().values, second.sort().values)  # drawn anew
    assert torch.stack([first, second]).float().mean() > 11  # 9.5 without weights
    epoch = iter(batches)
    _, place = next(epoch), epoch.bookmark()
    rest = [y.tolist() for _, y in epoch]
    assert [y.tolist() for _, y in batches.resumed(place)] == rest
    plain = [torch.cat([y for _, y in Batches(part, 4)]) for _ in range(2)]
    assert torch.equal(*plain)
    assert part.part(torch.tensor([3, 5])).weight.tolist() == [4, 6]


def test_each_epoch_has_a_new_order():
    batches = Batches(images(), 50, shuffle=True, generator=seeded())
    (_, first), (_, second) = next(iter(batches)), next(iter(batches))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"), [(50, 16, [16] * 3), (33, 16, [16] * 2), (5, 16, [5]), (1, 16, [1])]
)
def test_drop_last_leaves_out_the_smaller_batch_but_never_all(n, batch_size, sizes):
    batches = Batches(images(n), batch_size, drop_last=True)
    assert [len(y) for _, y in batches] == sizes
    assert len(batches) == len(sizes)


@pytest.mark.parametrize("augmented", [False, True])
def test_seeded_runs_repeat_bit_for_bit(augmented):
    runs = [Batches(images(), 8, shuffle=True, augment=augmented, generator=seeded(3)) for _ in range(2)]
    for _ in range(3):
        for (x1, y1), (x2, y2) in zip(*runs, strict=True):
            assert torch.equal(x1, x2)
            assert torch.equal(y1, y2)


def test_tables_come_out_as_they_are():
    split = Split(torch.randn(9, 4, generator=seeded()), torch.randn(9, 2, generator=seeded(1)))
    x, y = next(iter(Batches(split, 100)))
    assert torch.equal(x, split.x)
    assert torch.equal(y, split.y)


def test_images_are_scaled_to_the_unit_interval():
    x, _ = next(iter(Batches(Split(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1), torch.arange(2)), 2)))
    assert x.dtype == torch.float32
    assert x.flatten().tolist() == [0.0, 1.0]


def test_an_empty_part_has_no_batches():
    assert list(Batches(images(0), 4)) == []


@pytest.mark.parametrize(("options", "words"), [({"batch_size": 0}, "batch size 0"), ({"augment": True}, "3 features")])
def test_what_batches_refuse(options, words):
    with pytest.raises(InputError, match=words):
        Batches(Split(torch.zeros(4, 3), torch.zeros(4)), **{"batch_size": 2} | options)


@pytest.mark.parametrize("seed", range(3))
def test_without_a_shift_an_image_is_itself_or_its_mirror_image(seed):
    moved = augment(IMAGES, 0, seeded(seed))
    kept, mirrored = ((moved == x).flatten(1).all(1) for x in (IMAGES, IMAGES.flip(3)))
    assert (kept ^ mirrored).all()
    assert kept.any()
    assert mirrored.any()
    assert torch.equal(moved.flatten(1).sort(1).values, IMAGES.flatten(1).sort(1).values)


def test_augmentation_is_a_crop_of_the_padded_image():
    """The slow way: pad, try all shifts and both mirror images, and find each result among them."""
    pad, (height, width) = 2, IMAGES.shape[2:]
    padded = torch.nn.functional.pad(IMAGES.float(), [pad] * 4, mode="reflect").to(torch.uint8)
    crops = [padded[:, :, i : i + height, j : j + width] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
    candidates = torch.stack(crops + [crop.flip(3) for crop in crops], 1)
    moved = augment(IMAGES, pad, seeded())
    matches = (candidates == moved[:, None]).flatten(2).all(2)
    assert matches.any(1).all()
    assert (matches.any(0)).sum() > 20  # of 50 kinds of crop, by 50 images


def test_mirroring_twice_gives_the_image_back():
    rows, columns = torch.arange(16).expand(50, -1), torch.arange(12).flip(0).expand(50, -1)
    assert torch.equal(take(IMAGES, rows, columns), IMAGES.flip(3))
    assert torch.equal(take(take(IMAGES, rows, columns), rows, columns), IMAGES)


def test_reflection_agrees_with_torch():
    line = torch.arange(6.0)
    expected = torch.nn.functional.pad(line[None, None], (5, 5), mode="reflect").flatten()
    assert torch.equal(line[reflect(torch.arange(-5, 11), 6)], expected)


def test_augmentation_keeps_type_and_leaves_its_input_alone():
    before = IMAGES.clone()
    assert augment(IMAGES, 3, seeded()).dtype == torch.uint8
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("pad", [-1, 12])
def test_a_shift_has_to_fit(pad):
    with pytest.raises(ValueError, match="16 x 12"):
        augment(IMAGES, pad)
