"""Seed networks in plain torch, to be grown."""

from outgrow.models.convnet import ConvNet
from outgrow.models.mlp import MLP
from outgrow.models.resnet import ResNet
from outgrow.models.seed import NAMES, Seed

__all__ = ["MLP", "NAMES", "ConvNet", "ResNet", "Seed"]
