"""A network of the zoo and its axes, found once for all tests of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from net_cases import Case
from outgrow.net.axes import axes
from outgrow.net.axis import Axis
from zoo_properties import opened


@dataclass(frozen=True)
class Known:
    """A network with its name and its axes."""

    name: str
    case: Case
    found: list[Axis]


def known_of(cases: Mapping[str, Case]):
    """Return a fixture that is each network in turn, so that its axes are found once."""

    @pytest.fixture(scope="module", params=cases, name="known")
    def known(request: pytest.FixtureRequest) -> Known:
        case = cases[request.param]
        return Known(request.param, case, axes(*opened(case)))

    return known
