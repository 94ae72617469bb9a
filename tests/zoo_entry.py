"""One network of the zoo."""

from dataclasses import dataclass, field

import torch
from torch import nn

from net_cases import Case


@dataclass(frozen=True)
class Entry(Case):
    """A network, one input, the size of every axis that can grow, and whether it rounds to float32 on its way."""

    growable: dict[str, int] = field(default_factory=dict)
    single: bool = False

    def model(self) -> nn.Module:
        """Return the network as it might be after training; instance norms have statistics, too."""
        model = super().model()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.running_mean is not None:
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2.0)
        return model
