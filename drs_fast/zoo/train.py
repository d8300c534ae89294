"""Train a GAN of the zoo: python -m drs_fast.zoo.train NAME --seed S [--out FILE]."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from drs_fast.zoo import MODELS, NAMES, weights_file


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the held-out losses, write the weights, print the measured facts."""
    parser = argparse.ArgumentParser(prog="python -m drs_fast.zoo.train", description=main.__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seed", type=int, help="default: that of the shipped weights")
    parser.add_argument("--out", type=Path, help="safetensors file (default: the shipped one)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the fastest for networks this small, and one order of additions
    say = print
    out = options.out or weights_file(options.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    model = MODELS[options.name]
    seed = model.SEED if options.seed is None else options.seed
    weights, facts = model.train(seed, say=say)
    facts = {"name": options.name, "seed": str(seed), **facts}
    save_file({key: value.contiguous() for key, value in weights.items()}, out, metadata=facts)
    say(f"wrote {out}")
    for key, value in facts.items():
        say(f"  {key}: {value}")


if __name__ == "__main__":
    main()
