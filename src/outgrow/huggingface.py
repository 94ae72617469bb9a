"""Hugging Face: the model of a Trainer grows while it trains."""

import importlib.util

from outgrow.errors import InputError

if missing := [name for name in ("transformers", "accelerate") if importlib.util.find_spec(name) is None]:
    raise InputError(
        f"outgrow.huggingface takes the package {missing[0]}, which is not installed: "
        'pip install "outgrow[huggingface]"'
    )

from outgrow.integrations.huggingface import Growing
from outgrow.integrations.reloaded import load

__all__ = ["Growing", "load"]
