"""A loop of your own on several processes: each trains on its share, and all grow alike.

torchrun --nproc-per-node 2 examples/several_processes.py

On GPUs: "nccl", torch.cuda.set_device(rank) before all else, model and batches .to(f"cuda:{rank}").
"""

import gc

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import outgrow

EPOCHS = 5


def train() -> None:
    """Train, and let the network grow after each epoch."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    sampler = DistributedSampler(data)
    loader = DataLoader(data, batch_size=32, sampler=sampler)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    grower = outgrow.Grower(model, optimizer, F.cross_entropy, example=data[:1][0], max_params=2_000)  # the plain model
    ddp = DistributedDataParallel(model)

    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for inputs, target in loader:
            optimizer.zero_grad()
            F.cross_entropy(ddp(inputs), target).backward()
            optimizer.step()
        event = grower.check(loader, progress=(epoch + 1) / EPOCHS)  # each rank reads its own share; all get the same
        if event.growths:
            ddp = DistributedDataParallel(model)  # has new parameters to follow
        if dist.get_rank() == 0:
            print(event)


def main() -> None:
    """Join the processes, train, and leave."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    train()
    gc.collect()  # the wrapped models, before the group that they talk through
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
