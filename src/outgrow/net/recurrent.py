"""Rules of recurrent layers: a hidden unit has one row in each gate, and one column in what the next step reads."""

from typing import Any

import torch
from torch import Tensor

from outgrow.net.numbers import Stored, along, spread
from outgrow.net.site import Bound, Shape, Site, blank, contract, plain

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_ONLY = "outgrow knows it without projections and packed sequences only"
GATES |= {f"{kind}_cell": gates for kind, gates in GATES.items()}


def recurrent(site: Site, bound: Bound, shape: Shape) -> Any:
    """LSTM, GRU and plain recurrent layers, stacked and in both directions; the hidden size is an axis of each."""
    if "input" not in bound:
        return blank(site, bound, shape, _ONLY)
    x, states = plain(site, bound["input"]), plain(site, bound["hx"])
    weights, biased = bound["params"], 2 if bound["has_biases"] else 0
    layers, ways = bound["num_layers"], 2 if bound["bidirectional"] else 1
    states = states if isinstance(states, (list, tuple)) else [states]
    channels = along(x, -1)
    per = 2 + biased
    if len(weights) != layers * ways * per or channels is None or not all(isinstance(w, Stored) for w in weights):
        return blank(site, bound, shape, _ONLY)
    last: list[Tensor] = []
    for layer in range(layers):
        hidden = [_cell(site, channels, weights[(layer * ways + way) * per :][:per]) for way in range(ways)]
        last += hidden
        for run in last[1:]:  # one hidden size for all layers and both directions
            site.numbers.join(last[0], run, "hidden size")
        channels = torch.cat(hidden)
    ends = torch.stack([spread(run, -1, states[0].shape[1:]) for run in last])
    for state in states:
        if state.any():  # else it is new
            site.numbers.join(state, ends, "state")
    site.note(ends)  # the size of the first state may stand in the code
    return [spread(channels, -1, shape), *[ends] * len(states)]


def cell(site: Site, bound: Bound, shape: Shape) -> Any:
    """One step of a recurrent layer; where its state comes from other steps, they have the same units."""
    x, states = plain(site, bound["input"]), bound["hx"]
    states = states if isinstance(states, (list, tuple)) else [states]
    channels = along(x, -1)
    weights = [bound[key] for key in ("w_ih", "w_hh", "b_ih", "b_hh") if bound.get(key) is not None]
    if channels is None or not all(isinstance(weight, Stored) for weight in weights):
        return blank(site, bound, shape, "its channels differ between positions, or its weights are computed")
    units = spread(_cell(site, channels, weights), -1, shape)
    for state in states:
        if state.any():  # else it is new, of a size that stands in the code
            site.numbers.join(state, units, "state")
    site.note(units)
    return [units] * len(states) if site.op == "lstm_cell" else units


def _cell(site: Site, channels: Tensor, weights: list[Stored]) -> Tensor:
    """One layer in one direction; returns the numbers of its hidden units [hidden]."""
    reads, repeats, *biases = weights
    contract(site, channels, reads, (1, 0), None)
    units = site.numbers.tie(reads.runs[0].view(GATES[site.op], -1), 0)[0]
    contract(site, units, repeats, (1, 0), None)
    for tensor in (repeats, *biases):
        site.numbers.join(reads.runs[0], tensor.runs[0], "gates")
    for bias in biases:
        site.role(bias, 0, "channel")
    return site.numbers.roots(units)
