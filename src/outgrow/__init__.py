"""Neural networks that find their own size: train once, grow while training, keep a checkpoint at every size."""

__version__ = "0.1.0"
