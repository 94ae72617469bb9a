"""`outgrow inspect`: what of a model can grow."""

from typing import TYPE_CHECKING, Any

from outgrow.errors import InputError
from outgrow.factory import example_of, model_of
from outgrow.net.axes import axes
from outgrow.net.axis import Axis
from outgrow.net.cost import parameters
from outgrow.net.places import places
from outgrow.show.structure import print_structure

if TYPE_CHECKING:
    from outgrow.cli import Inspect


def inspect(options: "Inspect") -> int:
    """Run `outgrow inspect`.

    Args:
        options: What the command line said.

    Returns:
        The exit code, 0.

    Raises:
        InputError: There is no such factory, or its model does not run on the example.
    """
    model, example = model_of(options.factory)
    if options.example:
        example = example_of(options.example)
    if example is None:
        raise InputError(f"{options.factory} gives no example of an input: add --example, such as --example 1x3x32x32")
    found = axes(model, example)  # says what is wrong with a model
    title = f"{options.factory}: {type(model).__name__}, {parameters(model):,} parameters"
    print_structure(title, [_axis_row(axis) for axis in found], [vars(place) for place in places(model, example)])
    return 0


def _axis_row(axis: Axis) -> dict[str, Any]:
    return {
        "name": axis.name,
        "size": axis.size,
        "unit": "one channel" if axis.channels == 1 else f"{axis.channels} channels",
        "where": [*axis.places, *(f"{s.module}.{s.attribute}".lstrip(".") for s in axis.settings)],
        "growable": axis.growable,
        "reason": axis.reason,
    }
