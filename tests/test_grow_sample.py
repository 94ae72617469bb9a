"""Examples of a check: two parts that share none."""

import pytest
import torch

from outgrow.errors import InputError
from outgrow.grow.sample import draw, examples_in

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
