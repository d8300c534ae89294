"""The Frechet distance of samples to real images, in the features of a network of your own.

python examples/fid.py    needs torchmetrics; uses the GAN of own_gan.py
"""

import torch
from networks import HELD_OUT, LATENT_DIM, images
from own_gan import make
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

import drs_fast as drs


class Features(nn.Module):
    """Images (n, 1, 8, 8) in uint8 -> (n, 32); take your own, such as Inception for photographs."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
        self.score = nn.Linear(32, 10)

    def forward(self, x):
        return self.layers(x.float() / 127.5 - 1)


def train(x, y):
    torch.manual_seed(0)
    network = Features()
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(150):
        loss = nn.functional.cross_entropy(network.score(network(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def pixels(x):
    """The rule of images="uint8". FID depends on it, so real images are converted alike."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def distance(network, real, generator, n=3_000, batch=500):
    """Stands for any code that takes a generator and calls it with latents."""
    metric = FrechetInceptionDistance(network, input_img_size=(1, 8, 8))
    metric.update(real, real=True)
    with torch.no_grad():
        for _ in range(n // batch):
            metric.update(generator(torch.randn(batch, LATENT_DIM)), real=False)
    return float(metric.compute())


def main():
    gan, (x, y) = make(), images()
    x = pixels(x)
    network, real = train(x, y), x[HELD_OUT:]
    accepted = drs.SampledGenerator(gan, drs.samplers.DRS(gamma=0.0), images="uint8")
    print(f"real   {distance(network, real, lambda z: x[: len(z)], n=500):8.3f}")
    print(f"G      {distance(network, real, lambda z: pixels(gan.generator(z))):8.3f}")
    print(f"DRS    {distance(network, real, accepted):8.3f}")


if __name__ == "__main__":
    main()
