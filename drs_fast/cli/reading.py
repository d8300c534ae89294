"""The arguments of the commands that look at what is there."""

import argparse

from drs_fast.cli.values import DEVICE, add_model, count


def demo(parser: argparse.ArgumentParser, given: list[str]) -> None:
    parser.add_argument(
        "--out", default="drs-fast-demo", help="output folder (default: %(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def doctor(parser: argparse.ArgumentParser, given: list[str]) -> None:
    parser.description = (
        "Say what is wrong with a model and how to fix it. Without a model, print "
        "versions, which backends can run, and why the others cannot."
    )
    add_model(parser, nargs="?")
    parser.add_argument(
        "--real",
        metavar="PATH",
        help="real samples to compare with: .npy, .npz, .pt or .safetensors (x, and y if "
        "labelled), or a folder of pictures (with a subfolder for each class)",
    )
    parser.add_argument(
        "-n", type=count, default=4096, help="samples to examine (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=count, default=0, help="of the samples (default: %(default)s)"
    )
    parser.add_argument("--device", help=DEVICE)
    parser.add_argument("--json", action="store_true", help="print JSON, for other programs")


def status(parser: argparse.ArgumentParser, given: list[str]) -> None:
    parser.add_argument("dir", metavar="DIR")


def verify(parser: argparse.ArgumentParser, given: list[str]) -> None:
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="delete damaged shards; rerun generate to make them again",
    )


def report(parser: argparse.ArgumentParser, given: list[str]) -> None:
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("--out", help="output folder (default: DIR-report)")
    parser.add_argument(
        "--model",
        help="the model that made the run, to show what it rejected (built-in ones are known)",
    )
