"""A run on disk as a PyTorch dataset: train on it, and write it as npz and as an image folder.

python examples/data_loader.py    uses the class-conditional GAN of class_conditional.py
"""

from pathlib import Path

import numpy as np
import torch
from class_conditional import make
from networks import HELD_OUT, images
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

import drs_fast as drs

FOLDER = Path("drs-fast-examples/data_loader")


def train_classifier(run):
    """Trains on generated samples alone."""
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(classifier.parameters(), 2e-3)
    # A batch is a dict of the columns that were saved. Each worker opens the shards for itself.
    loader = DataLoader(run, batch_size=64, shuffle=True, num_workers=2, persistent_workers=True)
    for _ in range(4):
        for batch in loader:
            loss = nn.functional.cross_entropy(classifier(batch["x"]), batch["y"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return classifier


def export(run):
    """x in [0, 255]: one npz file, and folders by class that torchvision's ImageFolder reads."""
    x = ((run.x[:] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)  # from [-1, 1]
    y = run.y[:]
    np.savez_compressed(FOLDER / "samples.npz", x=x.numpy(), y=y.numpy(), ids=run.ids[:].numpy())
    for i in range(len(run)):
        folder = FOLDER / "images" / str(int(y[i]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i, 0].numpy()).save(folder / f"{int(run.ids[i])}.png")


def main():
    # Each class gets n / 10 samples, which follow the data as far as D knows it.
    sampler = drs.samplers.DRS(gamma=0.0, classes="within")
    drs.generate(make(), sampler, 3_000, out=FOLDER / "run")

    run = drs.open(FOLDER / "run")
    x, y = (tensor[:HELD_OUT] for tensor in images())
    right = (train_classifier(run)(x).argmax(dim=1) == y).float().mean()
    print(f"trained on {len(run):,} generated samples: {right:.1%} of {len(x)} real digits right")
    export(run)
    print(f"{FOLDER}/samples.npz and {len(run):,} images in {FOLDER}/images")


if __name__ == "__main__":
    main()
