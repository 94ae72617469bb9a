"""Seed networks, to be grown: some in plain torch, and those of a factory of the user's own."""

from outgrow.models.convnet import ConvNet
from outgrow.models.imported import Factory, ImportedSeed, imported_seed
from outgrow.models.mlp import MLP
from outgrow.models.recorded import seed_from_json
from outgrow.models.resnet import ResNet
from outgrow.models.seed import NAMES, Seed
from outgrow.models.seed_network import SeedNetwork

__all__ = [
    "MLP",
    "NAMES",
    "ConvNet",
    "Factory",
    "ImportedSeed",
    "ResNet",
    "Seed",
    "SeedNetwork",
    "imported_seed",
    "seed_from_json",
]
