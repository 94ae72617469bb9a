"""Examples of a check: two parts that share none."""

import pytest
import torch

from outgrow.errors import InputError
from outgrow.grow.sample import draw, draw_batches, examples_in

CPU = torch.device("cpu")


def numbered(n, size=7):
    """A loader of n examples that are their own numbers."""
    x = torch.arange(n)
    return [(x[i : i + size, None].float(), x[i : i + size]) for i in range(0, n, size)]


def numbers(batches):
    return torch.cat([batch.target for batch in batches]).tolist()


@pytest.mark.parametrize(("n", "count", "chunk"), [(100, 20, 8), (100, 50, 50), (33, 40, 5), (4, 10, 1), (41, 20, 64)])
def test_the_parts_are_disjoint_of_equal_size_and_in_batches_of_nearly_equal_size(n, count, chunk):
    sample = draw(numbered(n), count, CPU, chunk)
    a, b = numbers(sample.a), numbers(sample.b)
    assert len(a) == len(b) == examples_in(sample.a) == min(count, n // 2)
    assert len(set(a + b)) == 2 * len(a)
    sizes = [batch.size for batch in (*sample.a, *sample.b)]
    assert max(sizes) <= chunk
    assert max(sizes) - min(sizes) <= 1
    assert all(torch.equal(batch.inputs[:, 0].long(), batch.target) for batch in (*sample.a, *sample.b))


def test_no_more_is_read_than_needed():
    read = []

    def loader():
        for item in numbered(1000, 10):
            read.append(1)
            yield item

    draw(loader(), 25, CPU)
    assert len(read) == 5


def test_tuples_lists_and_dicts_of_tensors_are_sliced_together():
    x = torch.arange(12.0)
    for wrap in (lambda t: (t, t + 1), lambda t: [t, t + 1], lambda t: {"a": t, "b": t + 1, "flag": True}):
        sample = draw([[wrap(x[:6]), x[:6]], [wrap(x[6:]), x[6:]]], 3, CPU)
        inputs = sample.b[0].inputs
        first, second = (inputs["a"], inputs["b"]) if isinstance(inputs, dict) else inputs
        assert torch.equal(first, torch.tensor([1.0, 3.0, 5.0]))
        assert torch.equal(second, first + 1)
        assert not isinstance(inputs, dict) or inputs["flag"] is True


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        ([torch.zeros(8, 2)], "pairs, received Tensor"),
        ([(torch.zeros(8, 2), torch.zeros(8), torch.zeros(8))], "pairs, received tuple"),
        ([{"x": torch.zeros(8, 2)}], "pairs, received dict"),
        ([("a", torch.zeros(8))], r"received str and \[8\]"),
        ([(torch.zeros(8, 2), [1, 2])], r"received \[8, 2\] and list"),
        ([(torch.zeros(8, 2), torch.zeros(4))], r"as many in both, received \[8, 2\] and \[4\]"),
        ([(torch.zeros(8, 2), torch.tensor(1.0))], r"received \[8, 2\] and \[\]"),
        ([(torch.zeros(8, 2), torch.zeros(8)), (torch.zeros(8, 3), torch.zeros(8))], "can't be put together"),
        ([], "at least four examples, the loader gave 0"),
        (numbered(3), "at least four examples, the loader gave 3"),
    ],
)
def test_other_loaders_are_refused(loader, said):
    with pytest.raises(InputError, match=said):
        draw(loader, 10, CPU)


def step_numbers(parts):
    return torch.cat([batch.inputs["n"] for batch in parts]).tolist()


@pytest.mark.parametrize(("n", "count", "chunk"), [(100, 40, 256), (1000, 128, 10), (9, 40, 256), (64, 1000, 4)])
def test_batches_of_tensors_are_split_by_examples_into_eight_or_more(n, count, chunk):
    loader = [{"n": torch.arange(i, min(i + 10, n)), "scale": 2.0, "none": None} for i in range(0, n, 10)]
    sample = draw_batches(loader, count, CPU, chunk)
    a, b = step_numbers(sample.a), step_numbers(sample.b)
    assert len(a) == len(b) == examples_in(sample.a) == min(count, n // 2)
    assert len(set(a + b)) == 2 * len(a)
    for part in (sample.a, sample.b):
        assert len(part) >= min(8, len(a))
        assert all(batch.size == len(batch.inputs["n"]) <= chunk for batch in part)
        assert all(batch.inputs["scale"] == 2.0 for batch in part)


def test_batches_that_do_not_fit_together_are_split_one_by_one():
    loader = [{"n": torch.arange(10) + 10 * i, "x": torch.zeros(10, 3 + i)} for i in range(4)]
    sample = draw_batches(loader, 16, CPU)
    assert set(step_numbers(sample.a)).isdisjoint(step_numbers(sample.b))
    assert len(step_numbers(sample.a)) == len(step_numbers(sample.b)) == 20
    assert min(len(sample.a), len(sample.b)) >= 8
    assert all(len(batch.inputs["x"]) == batch.size for batch in sample.a)


class Graph:
    def __init__(self, number):
        self.number = number

    def to(self, device):
        assert device == CPU
        return self


@pytest.mark.parametrize(
    "make",
    [str, Graph, lambda i: ["a", "b"], lambda i: (torch.zeros(3, 2), [1, 2, 3]), lambda i: {"x": torch.zeros(1, 2)}],
)
def test_batches_that_can_not_be_split_go_to_the_parts_in_turn(make):
    items = [make(i) for i in range(200)]
    sample = draw_batches(iter(items), 1000, CPU)
    assert len(sample.a) == len(sample.b) == 64
    if make in (str, Graph):
        assert [batch.inputs for batch in sample.a] == items[:128:2]
        assert [batch.inputs for batch in sample.b] == items[1:128:2]
    assert len(draw_batches(items, 5, CPU).a) == 5


@pytest.mark.parametrize("loader", [[], ["a", "b", "c"], [torch.zeros(3)], [{"x": torch.zeros(1)}] * 3])
def test_too_few_batches_are_refused(loader):
    with pytest.raises(InputError, match="at least two batches to propose and two to judge"):
        draw_batches(loader, 10, CPU)


@pytest.mark.parametrize("read", [draw, draw_batches])
def test_a_loader_that_can_be_read_only_once_is_told(read):
    batches = iter(numbered(8))
    read(batches, 4, CPU)
    with pytest.raises(InputError, match=r"gave 0.*it can be read only once"):
        read(batches, 4, CPU)
    with pytest.raises(InputError, match=r"the loader gave \d( and \d)?$"):
        read(numbered(1), 4, CPU)
