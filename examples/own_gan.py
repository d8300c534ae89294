"""Your own image GAN: from checkpoints to samples on disk, and a report of them.

python examples/own_gan.py         trains for a few seconds if there are no checkpoints yet
python examples/own_gan.py plan    also measures how fast it runs here, for half a minute or more

Needs pip install -c constraints.txt -e '.[demo,zoo]'

From a shell: drs-fast doctor examples/own_gan.py:make, and so for plan and generate.
"""

import sys
from pathlib import Path

from networks import HELD_OUT, LATENT_DIM, Discriminator, Generator, images, train

import drs_fast as drs
from drs_fast.report.report import write

FOLDER = Path("drs-fast-examples/own_gan")


def make():
    """The checkpoints as a drs.GAN."""
    if not (FOLDER / "D.safetensors").exists():
        train(FOLDER)
    generator, discriminator = Generator(), Discriminator()
    generator.load_state_dict(drs.weights(FOLDER / "G.safetensors"))
    discriminator.load_state_dict(drs.weights(FOLDER / "D.safetensors"))
    x, _ = images()
    return drs.GAN(
        generator,  # both are put in eval mode: batch norm uses its averages, dropout is off
        discriminator,
        LATENT_DIM,
        prior="normal",  # the latents of training: torch.randn
        link="logit",  # the logistic loss, and no sigmoid in D; "probability" if D ends in one
        real=x[:HELD_OUT],  # in [-1, 1], as D saw them in training, but none that it has seen
    )


def main():
    gan = make()
    print(drs.doctor(gan))

    # A higher percentile keeps fewer samples, which D finds more real. gamma=0.0 follows the data
    # instead, as far as the logits are true log ratios.
    sampler = drs.samplers.DRS(percentile=90)
    if "plan" in sys.argv[1:]:
        print(drs.plan(gan, sampler, n=1_000_000))

    # Stop it and start it again: it goes on where it was, and ends in the same bytes.
    run = drs.generate(gan, sampler, 5_000, seed=0, out=FOLDER / "run")
    print(f"\n{len(run):,} samples {tuple(run.x.shape)}, {run.x.dtype}")
    print(f"calls of G and D for each: {run.manifest['calls_per_sample']:.2f}\n")

    written = write(run.path)
    print(written.text, *written.pictures, written.page, sep="\n")


if __name__ == "__main__":
    main()
