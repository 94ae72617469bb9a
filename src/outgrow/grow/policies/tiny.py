"""TINY: units in closed form that are used at once, with an amplitude by line search, at fixed times."""

from dataclasses import dataclass, field

from outgrow.grow.policies.schedule import Init, Schedule
from outgrow.grow.policy import Evidence


@dataclass(frozen=True)
class Tiny(Schedule):
    """Add the units that fix the expressivity bottleneck best and take their step at once, at fixed times.

    Verbockhaven et al., *Growing Tiny Networks: Spotting Expressivity Bottlenecks and Fixing Them Optimally*, arXiv
    2405.19816. The bottleneck of a layer is what is left of the gradient at its outputs once the best update of the
    present weights is taken out. New units are the best low-rank approximation of that rest, in closed form by singular
    vectors; they come in together with the update of the present weights, both times an amplitude that a line search
    on the loss finds. Layers are visited in turn, with training in between.

    Here the closed form gives the incoming weights and the joint natural-gradient step V of new columns and present
    weights (method.md, sections 4 and 5) the outgoing ones. The amplitude is the best multiple of V on fresh examples,
    where theirs is found on those that made the units: the vertex of the parabola of slope and curvature, then, where
    the loss does not fall as promised, of one through the measured losses; zero for a step that climbs there. All axes
    grow at each event, as in the plain schedule, so that times and sizes are the same; their steps are solved for
    together. The units on trial all come in, whatever they gain: what their thresholds on singular values leave out
    would make other sizes.
    """

    init: Init = field(default="closed", init=False, repr=False)
    evidence: Evidence = field(default="gain", init=False, repr=False)
    jump_start: bool | None = field(default=True, init=False, repr=False)
