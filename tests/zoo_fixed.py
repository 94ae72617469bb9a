"""What can't change in the networks of the zoo: gaps, and what is right as it is."""

from collections.abc import Sequence

from outgrow.net.axis import Axis

PINNED = ("it reads the input", "it is an output", "the size of a vocabulary", "no layer", "all heads share it")
MEETS = ("with an input or a constant", "stretches its single channel")

RIGHT = ("layer_norm:", "softmax:", "log_softmax:", "sum:", "max:", "sort:", "pad:")
"""Operations over channels that compute something else when there are more of them."""

GAPS: dict[tuple[str, str], str] = {
    ("einsum across", "0.weight"): "einsum: outgrow reads it for two operands and with an arrow only",
    ("einsum across", "2.weight"): "einsum: outgrow reads it for two operands and with an arrow only",
    ("einsum across", "0.bias"): "add with an input or a constant",
    ("einsum across", "2.bias"): "add with an input or a constant",
    ("tensordot", "0.weight"): "tensordot: outgrow has no rule",
    ("tensordot", "2.weight"): "tensordot: outgrow has no rule",
    ("tensordot", "0.bias"): "add with an input or a constant",
    ("tensordot", "2.bias"): "add with an input or a constant",
    ("sum of products", "0.bias"): "add with an input or a constant",
    ("sum of products", "2.bias"): "add with an input or a constant",
    ("split", "a"): "cut: split_with_sizes",
    ("split", "a:2"): "cut: split_with_sizes",
    ("spatial gate", "up"): "conv1d: its channels differ between positions",
    ("mixer without norm", "token_up.weight"): "linear: it mixes positions, whose number the input sets",
    ("weight norm", "0"): "_weight_norm: it computes a weight",
    ("weight norm", "2"): "_weight_norm: it computes a weight",
    ("weight norm, convolution", "0"): "_weight_norm: it computes a weight",
    ("weight norm, convolution", "2"): "_weight_norm: it computes a weight",
    ("weight norm, old", "0.weight_v"): "_weight_norm: it computes a weight",
    ("weight norm, old", "2.weight_v"): "_weight_norm: it computes a weight",
    ("factored embedding", "embed"): "both hands it out and reads it",
    ("experts", "stem"): "einsum: outgrow has no rule for such a product",
    ("experts", "up"): "einsum: outgrow has no rule for such a product",
    ("channel shuffle", "stem.0"): "cut: channel_shuffle",
    ("channel shuffle by hand", "stem.0"): "cut: view",
    ("flatten, constant", "b"): "cut: view",
    ("generator", "first"): "cut: unflatten",
    ("fold", "0"): "im2col: outgrow has no rule",
    ("attention, constants", "block.q"): "cut: reshape",
    ("attention, merged by constant", "block.q"): "cut: view",
    ("attention, split and stack", "block.q"): "not whole heads",
    ("attention, split and stack", "block.k"): "not whole heads",
    ("attention, split and stack", "block.v"): "cut: split",
    ("learned queries", "v"): "each of its values belongs to two channels",
    ("rms norm by length", "stem"): "linalg_vector_norm: it sums over channels",
    ("rms norm, no gain", "stem"): "it has no gains that could make up",
    ("unit length", "stem"): "linalg_vector_norm: it sums over channels",
    ("batch norm of rows", "0"): "batch_norm: its channels differ between positions",
    ("lstm, projected", "embed"): "lstm: outgrow knows it without projections",
    ("chosen rows", "b"): "index_add: outgrow has no rule",
    ("complex", "first"): "fft_rfft: outgrow has no rule",
    ("code book", "a"): "cdist: outgrow has no rule",
    ("first channels", "first"): "cut: slice",
}
"""By network and axis, what a person would call growable, and part of the reason why outgrow does not grow it."""

SETTLED: dict[tuple[str, str], str] = {
    ("standardised weight", "0.weight"): "mean: it sums over channels",
    ("standardised weight", "2.weight"): "mean: it sums over channels",
    ("standardised weight", "4.weight"): "mean: it sums over channels",
    ("einsum across", "4.weight"): "einsum: outgrow reads it for two operands and with an arrow only",
    ("tensordot", "4.weight"): "tensordot: outgrow has no rule",
    ("experts", "down"): "einsum: outgrow has no rule for such a product",
    ("spatial gate", "mix.weight"): "conv1d: its channels differ between positions",
    ("mixer without norm", "token_down.weight"): "linear: it mixes positions, whose number the input sets",
    ("lstm, projected", "layer.weight_ih_l0"): "lstm: outgrow knows it without projections",
    ("lstm, projected", "layer.weight_hh_l0"): "lstm: outgrow knows it without projections",
    ("lstm, projected", "layer.weight_hr_l0"): "lstm: outgrow knows it without projections",
    ("spectral norm", "0"): "mv: outgrow has no rule",
    ("spectral norm", "2"): "mv: outgrow has no rule",
    ("spectral norm, old", "0.weight_orig"): "mv: outgrow has no rule",
    ("spectral norm, old", "2.weight_orig"): "mv: outgrow has no rule",
    ("orthogonal", "0"): "tril: it normalises over channels",
    ("orthogonal", "0:2"): "its weight is computed",
    ("orthogonal", "2"): "tril: it normalises over channels",
    ("orthogonal", "2:2"): "its weight is computed",
    ("one head", "block.q"): "not whole heads",
    ("one head", "block.k"): "not whole heads",
    ("learned queries", "queries"): "each of its values belongs to two channels",
    ("rms norm inside", "up"): "zeros that never learn",
    ("layer norm by hand", "stem"): "mean: it sums over channels",
    ("global response", "stem"): "mean: it sums over channels",
    ("to a named tuple", "c"): "mean: it sums over channels",
    ("code book", "codes (input)"): "cdist: outgrow has no rule",
}
"""The other cut or frozen axes: an RMS norm in front of a ReLU, whose slope at zero is zero; a weight that is
normalised as a whole; a head's size under a scale that depends on it; a mean over channels; a number of queries or of
codes."""


def kind(axis: Axis) -> str:
    """Whether an axis is growable, pinned by what it meets, cut by a size in the code, or frozen by an operation."""
    if axis.growable:
        return "growable"
    if axis.reason.startswith(PINNED) or any(words in axis.reason for words in MEETS):
        return "pinned"
    return "cut" if axis.reason.startswith("cut") else "frozen"


def unlisted(network: str, found: Sequence[Axis]) -> dict[str, str]:
    """Return in what an analysis and the lists above differ, by axis; empty where they agree."""
    listed = {axis: why for (name, axis), why in {**GAPS, **SETTLED}.items() if name == network}
    reasons = {axis.name: axis.reason for axis in found}  # empty where it can grow
    grown = {name: f"it is listed as '{why}'" for name, why in listed.items() if why not in reasons.get(name, "")}
    news = {
        axis.name: f"it is not listed: {axis.reason}"
        for axis in found
        if kind(axis) in ("cut", "frozen") and not axis.reason.startswith(RIGHT) and axis.name not in listed
    }
    return {**grown, **news}
