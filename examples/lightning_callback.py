"""A LightningModule that grows in Lightning's own loop, and comes back from its checkpoint.

python examples/lightning_callback.py
"""

import tempfile
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from outgrow.lightning import Growing, regrow_


class Digits(pl.LightningModule):
    """A module as any; the two lines of `on_load_checkpoint` let it read checkpoints of all sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        regrow_(self, checkpoint)


def main() -> None:
    """Train with and without the callback, and load what has grown."""
    images, labels = load_digits(return_X_y=True)
    rows = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    train, validation, test = random_split(rows, [0.7, 0.1, 0.2], torch.Generator().manual_seed(0))
    x, y = next(iter(DataLoader(test, len(test))))
    folder = Path(tempfile.mkdtemp())
    for name, callbacks in {"as it is": [], "growing": [Growing(F.cross_entropy, max_params=3_000)]}.items():
        pl.seed_everything(0, verbose=False)
        saved = ModelCheckpoint(folder / name, monitor="accuracy", mode="max")
        trainer = pl.Trainer(
            max_epochs=15,
            accelerator="cpu",
            callbacks=[*callbacks, saved],
            logger=CSVLogger(folder),
            log_every_n_steps=10,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Digits(), DataLoader(train, 64, shuffle=True), DataLoader(validation, 256))
        best = Digits.load_from_checkpoint(saved.best_model_path)
        right = (best(x).argmax(1) == y).float().mean()
        params = sum(parameter.numel() for parameter in best.parameters())
        print(f"{name}: {params:,} parameters, accuracy {right:.3f} on the test part")
        for callback in callbacks:
            print(*callback.history, sep="\n")


if __name__ == "__main__":
    main()
