"""A class-conditional GAN: what rejection does to the classes, and how to say what you want.

python examples/class_conditional.py    trains for a few seconds if there are no checkpoints yet
"""

from pathlib import Path

import torch
from networks import HELD_OUT, LATENT_DIM, Discriminator, Generator, images, train

import drs_fast as drs

FOLDER = Path("drs-fast-examples/class_conditional")


def make():
    """G and D take labels as a second argument; D was trained by the hinge loss."""
    if not (FOLDER / "D.safetensors").exists():
        train(FOLDER, labels=10, hinge=True)
    generator, discriminator = Generator(labels=10), Discriminator(labels=10)
    generator.load_state_dict(drs.weights(FOLDER / "G.safetensors"))
    discriminator.load_state_dict(drs.weights(FOLDER / "D.safetensors"))
    x, y = images()
    held_out = x[:HELD_OUT], y[:HELD_OUT]  # calibration needs samples that D was not trained on
    gan = drs.GAN(generator, discriminator, LATENT_DIM, link="hinge", labels=10, real=held_out)
    # A hinge score is no log density ratio. Calibration makes one of it, or says why it cannot.
    return drs.calibrate(gan, n=HELD_OUT)


def show(name, x, y):
    """How many samples each class has, and how many are nearest to a real image of their class."""
    counts = torch.bincount(y, minlength=10).tolist()
    known, labels = images()
    nearest = torch.cdist(x.flatten(1), known.flatten(1)).argmin(dim=1)
    right = float((labels[nearest] == y).float().mean())
    print(f"{name:<20}{''.join(f'{count:>5}' for count in counts)}{right:>13.1%}")


def draw(name, gan, sampler, **options):
    batch = drs.generate(gan, sampler, 1_000, **options)
    show(name, batch.x, batch.y)


def main():
    gan = make()
    joint = drs.samplers.DRS(percentile=90)
    within = drs.samplers.DRS(percentile=90, classes="within")

    print(f"\n{'samples of class':<20}{''.join(f'{k:>5}' for k in range(10))}  looks right")
    y = torch.arange(1_000) % 10
    show("G as it is", gan.samples(drs.ops.normal(drs.Rng(0), 1_000, LATENT_DIM), y), y)
    # One threshold for all classes: a class that D believes in more comes up more often.
    draw("joint", gan, joint)
    # A threshold for each class, and exactly 100 samples of each.
    draw("within", gan, within)
    # "within" gives every class its exact share; with "joint" these would be proposals' shares.
    draw("half of them nines", gan, within, label_weights=[1.0] * 9 + [9.0])
    draw("only threes", gan, within, only=3)


if __name__ == "__main__":
    main()
