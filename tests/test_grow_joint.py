"""Steps that are taken together."""

import math

import pytest
import torch
import torch.nn.functional as F

from gain_cases import along, counts_of, descent, judgement_of, problem, several
from outgrow.grow import gain
from outgrow.grow.objective import OutputLoss


def test_steps_together_solve_the_normal_equations():
    model, batches, x, y = problem(n=300)
    directions = several(model, x, y)[:3]
    judged = gain.judge(model, directions, batches, OutputLoss(F.cross_entropy))
    for chosen in ([0], [2], [0, 2], [2, 0], [1, 2]):
        steps = judged.together(chosen)
        solved = torch.linalg.solve(judged.matrix[chosen][:, chosen], judged.slopes.mean(0)[chosen])
        assert bool((solved > 0).all())
        assert steps == pytest.approx(solved.tolist(), rel=1e-6)
    assert judged.together([]) == []
    assert judged.together([2])[0] == pytest.approx(judged.alone(2).step)


def test_those_that_would_not_descend_are_left_out():
    climbing = judgement_of([1.0, -1.0, 2.0], [[1.0, 0.2, 0.0], [0.2, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert climbing.together([0, 1, 2]) == pytest.approx([1, 0, 2])
    assert climbing.together([1]) == [0]
    covered = judgement_of([1.0, 0.5, 2.0], [[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert covered.together([0, 1, 2]) == pytest.approx([1, 0, 2])  # the first does all that the second would
    flat = judgement_of([1.0, 1.0], [[1.0, 0.0], [0.0, 0.0]])
    assert flat.together([0, 1]) == pytest.approx([1, 0])


def test_copies_share_one_step():
    twice = judgement_of([1.0, 1.0], [[2.0, 2.0], [2.0, 2.0]])
    assert sum(twice.together([0, 1])) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(20))
def test_steps_together_lower_the_parabola_at_least_as_much_as_the_best_alone(seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(5, 8, generator=generator).double()
    matrix, slopes = root @ root.mT, 3 * torch.randn(5, generator=generator).double()
    judged = judgement_of(slopes.tolist(), matrix.tolist())
    steps = torch.tensor(judged.together(range(5))).double()
    drop = float(slopes @ steps - steps @ matrix @ steps / 2)
    assert bool((steps >= 0).all())
    assert drop >= max(judged.alone(d).gain for d in range(5)) * (1 - 1e-6)


def test_a_joint_step_of_squares_saves_its_parabola():
    model, batches, x, y = problem("squares", n=200)
    objective, present = OutputLoss(F.mse_loss), descent(model, x, y, F.mse_loss)
    directions = [present, {"3.weight": present["3.weight"]}, {"3.bias": present["3.bias"]}]
    judged = gain.judge(model, directions, batches, objective)
    steps = gain.joint(model, judged, {1: directions[1], 2: directions[2]}, batches, objective)
    assert steps == pytest.approx(judged.together([1, 2]))
    whole = {key: step * value for step, one in zip(steps, directions[1:], strict=True) for key, value in one.items()}
    drop = along(model, whole, x, y, F.mse_loss, 0.0) - along(model, whole, x, y, F.mse_loss, 1.0)
    slopes = judged.slopes.mean(0)[1:]
    assert drop == pytest.approx(float(slopes @ torch.linalg.solve(judged.matrix[1:, 1:], slopes)) / 2)


@pytest.mark.parametrize("rate", [1.2, 3.0, 10.0, 60.0, 1000.0])
def test_a_joint_step_is_cut_where_the_loss_bends_more(rate):
    model, batches, tangent = counts_of(rate)
    objective = OutputLoss(F.poisson_nll_loss)
    judged = gain.judge(model, [{}, tangent, {key: -value for key, value in tangent.items()}], batches, objective)
    steps = gain.joint(model, judged, {2: {}, 1: tangent}, batches, objective)
    assert steps[0] == 0
    assert 0 <= steps[1] <= rate - 1
    assert 1 - (math.exp(steps[1]) - rate * steps[1]) >= 0
    assert gain.joint(model, judged, {}, batches, objective) == []
