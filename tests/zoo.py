"""The zoo: small networks as data, for each thing that a network may do with its channels, alone and combined."""

from dataclasses import replace

from zoo_attention import ATTENTION
from zoo_convolution import CONVOLUTION
from zoo_entry import Entry
from zoo_growable import GROWABLE
from zoo_linear import LINEAR
from zoo_residual import RESIDUAL
from zoo_stream import STREAM

ZOO: dict[str, Entry] = {
    name: replace(entry, growable=GROWABLE.get(name, {}))
    for name, entry in {**LINEAR, **CONVOLUTION, **ATTENTION, **STREAM, **RESIDUAL}.items()
}
