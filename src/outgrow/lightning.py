"""A Lightning callback that lets a LightningModule grow, and what loads its checkpoints."""

from outgrow.integrations.lightning import Growing
from outgrow.integrations.lightning_checkpoint import regrow_, regrown

__all__ = ["Growing", "regrow_", "regrown"]
