"""Grows a LightningModule on two processes, each of which runs this script; writes what each of them ends with."""

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_cases import Net, digits, quiet
from outgrow.lightning import Growing


def main(folder: Path) -> None:
    """Train, and save the weights and the events of this process."""
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    net, growing = Net(), Growing(F.cross_entropy, max_params=2_000, sample=256)
    loader = DataLoader(TensorDataset(*digits()), 32, shuffle=True)
    trainer = quiet(folder, [growing], max_epochs=3, devices=2, strategy="ddp")
    trainer.fit(net, loader)
    events = [event.to_json() for event in growing.history]
    torch.save({"weights": net.state_dict(), "events": events}, folder / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
