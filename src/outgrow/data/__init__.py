"""Data sets in memory: readers of the layouts that people have, splits, batched augmentation."""

from outgrow.data.batches import Batches
from outgrow.data.dataset import Dataset, Split
from outgrow.data.registry import load

__all__ = ["Batches", "Dataset", "Split", "load"]
