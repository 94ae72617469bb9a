"""Data sets in memory: readers of the layouts that people have, splits, batched augmentation."""
