"""Net2Net: copies of units that divide their outgoing weights, at fixed times."""

from dataclasses import dataclass, field

from outgrow.grow.policies.schedule import Init, Schedule


@dataclass(frozen=True)
class Net2Net(Schedule):
    """Add copies of units that take a part of their outgoing weights, at the times and in the sizes of a schedule.

    Chen et al., *Net2Net: Accelerating Learning via Knowledge Transfer*, arXiv 1511.05641, widen a trained network
    once: each new unit copies one at random with replacement (Net2WiderNet), and outgoing weights are divided by the
    number of copies. A little noise, or dropout, lets copies part.

    Here the network is widened at several events while it trains, by small factors instead of one large one. Copies
    take unequal parts of the outgoing weights in place of noise, which keeps the function exactly and yet lets them
    part, see `outgrow.net.inits`. Axes that can't be divided get random units.
    """

    init: Init = field(default="net2net", init=False, repr=False)
