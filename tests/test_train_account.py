"""The account of a run: what is set aside is enough, each check is counted once, no limit changes nothing."""

import math

import pytest

from outgrow.errors import InputError
from outgrow.grow.event import Event, Growth
from outgrow.train.account import (
    CHECK_MARGIN,
    CHECK_SHARE,
    FREE_SHARE,
    MOST_CHECK_SHARE,
    Account,
    Course,
    check_allowance,
)

COURSES = [
    Course(steps=200, batch_size=32, saving=640, share=0.3, events=8),
    Course(steps=1_000, batch_size=8, saving=40, share=0.6, events=3),
    Course(steps=7, batch_size=128, saving=1, share=0.5, events=1),
]


def event(flops, growths=(), seconds=0.5):
    return Event(1, 0.1, (), growths, 100, 100, "due", seconds, flops)


def grown():
    return Growth("widen", "0", 1, 2, 3, 0.1, 0.0, 0.1, 0.0, 5)


@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("times", [1.3, 4.0])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_largest_network_that_is_allowed_can_be_checked_trained_and_saved(course, times, share):
    flops, step = 1_000, int(share * course.steps)
    account = Account(course, times * flops * course.passes_left(0))
    for _ in range(step):
        account.train(flops, course.batch_size)
    checking = int(0.01 * account.limit)
    most = account.most_after_check(flops, step, lambda: checking)
    assert most > flops
    account.check_early(int(CHECK_MARGIN * checking))
    account.settle(flops)
    account.check([event(int(CHECK_MARGIN * checking), (grown(),)), event(int(CHECK_MARGIN * checking * most / flops))])
    for _ in range(step, course.steps):
        account.train(most, course.batch_size)
    account.settle(most)
    unused = (account.limit - account.train_flops) / (course.passes_left(step) + CHECK_MARGIN * checking / flops)
    assert 0 <= unused < 1 + 1e-9  # nor would one FLOP more be affordable


@pytest.mark.parametrize("course", COURSES)
def test_a_check_happens_while_the_rest_of_the_run_is_affordable_after_it(course):
    least = 1_000 * course.passes_left(0)
    for beside, allowed in ((CHECK_MARGIN * 500, True), (CHECK_MARGIN * 500 - 1, False)):
        assert bool(Account(course, least + beside).most_after_check(1_000, 0, lambda: 500)) == allowed


@pytest.mark.parametrize("course", COURSES)
def test_a_seed_is_refused_just_where_training_it_is_too_much(course):
    least = 1_000 * course.passes_left(0)
    Account(course, least).demand_affordable(1_000, 5)
    with pytest.raises(InputError, match="training the seed for 5 epochs takes"):
        Account(course, least - 1).demand_affordable(1_000, 5)


def test_without_a_limit_everything_is_affordable_and_no_check_is_looked_up():
    account = Account(COURSES[0])
    account.demand_affordable(10**18, 5)
    assert account.most_after_check(10**18, 0, lambda: pytest.fail("it was looked up")) == math.inf
    assert account.most_after_growth(10**18, 0) == math.inf


@pytest.mark.parametrize("early", [[], [30], [30, 40]])
def test_a_check_is_counted_once_whether_early_or_late(early):
    account = Account(COURSES[0])
    for flops in early:
        account.check_early(flops)
    account.check([event(30), event(40), event(5)])
    account.check([event(7)])
    assert account.spent() == {"train_flops": 82, "check_seconds": 2.0, "check_flops": 82}


def test_checks_that_took_more_than_was_expected_have_more_set_aside():
    course = COURSES[0]
    account, like = (Account(course, 10.0 * 1_000 * course.passes_left(0)) for _ in range(2))
    account.most_after_check(1_000, 0, lambda: 1_000)
    account.check([event(3_000)])
    like.check([event(3_000)])
    assert account.most_after_check(1_000, 0, lambda: 1_000) == like.most_after_check(1_000, 0, lambda: 3_000)


@pytest.mark.parametrize("course", COURSES)
def test_events_are_fewer_where_checks_would_take_too_large_a_share(course):
    found = [course.fitting_events(1_000, 50.0, check) for check in (0.0, 1e5, 1e6, 1e7, 1e12)]
    assert found == sorted(found, reverse=True)
    assert 1 <= found[-1] <= found[0] <= course.events
    for events, check in zip(found, (0.0, 1e5, 1e6, 1e7, 1e12), strict=True):
        assert events == 1 or check <= MOST_CHECK_SHARE * course.training(events, 1_000, 50.0)


def test_a_check_of_a_longer_training_may_take_more():
    allowed = [check_allowance(training) for training in (1e8, 1e10, 1e11, 2e11, 1e12, 1e13)]
    assert allowed == sorted(allowed)
    assert all(
        CHECK_SHARE <= a / t <= FREE_SHARE for a, t in zip(allowed, (1e8, 1e10, 1e11, 2e11, 1e12, 1e13), strict=True)
    )
