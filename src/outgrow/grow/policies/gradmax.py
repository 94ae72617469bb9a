"""GradMax: units with the greatest gradient, at fixed times."""

from dataclasses import dataclass, field

from outgrow.grow.policies.schedule import Init, Schedule


@dataclass(frozen=True)
class GradMax(Schedule):
    """Add the units whose new weights have the greatest gradient, at the times and in the sizes of a schedule.

    Evci et al., *GradMax: Growing Neural Networks using Gradient Information*, arXiv 2201.05125, grow layers in turn on
    a given schedule. There the *incoming* weights of new units are zero, which keeps the function, and the outgoing
    ones W are chosen. With x what a layer reads and u the gradient of the loss where its successor writes, a unit at
    zero has f'(0) times the gradient W^T E[u x^T] in its incoming weights. The greatest norm for orthonormal W has the
    leading left singular vectors of the moment E[u x^T]; its square is the sum of the squares of their singular values.

    Here the *outgoing* weights are zero and the incoming ones V are chosen, as everywhere in outgrow. To first order in
    f the gradient in the outgoing weights is f'(0) E[u x^T] V^T, so that the leading *right* singular vectors of the
    same moment have the same greatest norm. Where f bends at zero, as ReLU does, their form reads a slope at the kink
    itself; in ours the true activation meets the examples, and each direction comes with both signs, since each sees
    one half of them. New rows have the mean norm of those that are there, where theirs are scaled to the mean norm of
    the outgoing weights. All axes grow at each event, where theirs take turns. No gradient decides when or where.
    """

    init: Init = field(default="gradmax", init=False, repr=False)
