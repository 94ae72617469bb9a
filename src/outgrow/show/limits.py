"""The limits of a run and what decides within them, in words."""

from outgrow.show import quantity
from outgrow.show.record import Record

DEFAULT = "outgrow"
"""The policy that needs no mention."""


def limits(start: Record) -> list[str]:
    """Write what the network and its training may cost.

    Args:
        start: The start record of a run.

    Returns:
        One text for each limit that is set.

    >>> limits({"max_params": 60_000, "max_flops": 1_500_000, "max_latency": 0.002, "max_train_flops": 1e12})
    ['60,000 parameters', '1.5 MFLOPs an example', '2 ms an example', '1 TFLOPs of training']
    """
    params, flops = start.get("max_params"), start.get("max_flops")
    latency, train_flops = start.get("max_latency"), start.get("max_train_flops")
    texts = [
        quantity.count(params, "parameter") if params else "",
        f"{quantity.short(flops, 'FLOPs')} an example" if flops else "",
        f"{quantity.milliseconds(latency)} an example" if latency else "",
        f"{quantity.short(train_flops, 'FLOPs')} of training" if train_flops else "",
    ]
    return [text for text in texts if text]


def other_policy(start: Record) -> str:
    """Name the policy of a run where it is another one than outgrow's own, else nothing.

    Args:
        start: The start record of a run.

    Returns:
        Its name.

    >>> other_policy({"policy": "senn"}), other_policy({"policy": "outgrow"}), other_policy({})
    ('senn', '', '')
    """
    name = str(start.get("policy") or DEFAULT)
    return "" if name == DEFAULT else quantity.clean(name)
