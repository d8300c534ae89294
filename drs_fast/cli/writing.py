"""The arguments of the commands that write files of other programs."""

import argparse

from drs_fast.cli.fields import add_option
from drs_fast.cli.values import RANGE, count, names
from drs_fast.exporting.formats import FORMATS
from drs_fast.unweighting.unweight import MAX_OVERWEIGHT


def export(parser: argparse.ArgumentParser, given: list[str]) -> None:
    parser.description = (
        "Write the samples of a run to files that other programs read. The same "
        "command goes on after the last finished file of a folder."
    )
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("--to", required=True, metavar="PATH", help="output file or folder")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("-n", type=count, help="the first so many samples (default: all)")
    parser.add_argument(
        "--save", type=names, help="of x,z,logit,weight (default: what the run saved)"
    )
    parser.add_argument(
        "--images",
        choices=("uint8",),
        help="x as whole numbers in parquet and npy too, as it always is in pictures",
    )
    parser.add_argument(
        RANGE,
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="numbers of x that become 0 and 255 (default: -1 1; uint8 of a run stays as it is)",
    )
    parser.add_argument(
        "--rows-per-file",
        type=count,
        metavar="ROWS",
        help="of each file of a folder (default: 10,000 images, or 1,000,000 rows of a table)",
    )
    parser.add_argument("--threads", type=count, help="default: one a core")
    parser.add_argument(
        "--no-check",
        dest="check",
        action="store_false",
        help="do not compare each shard with its sha256 first",
    )
    parser.add_argument("--quiet", dest="progress", action="store_false", help="no progress")


def unweight(parser: argparse.ArgumentParser, given: list[str]) -> None:
    parser.description = (
        "Keep each row of a Parquet, .npz or .npy table with probability "
        "min(1, exp(log weight - log_max)), and write the kept rows to a file of the same kind."
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--log-weight", required=True, metavar="COL", help="the column of log weights, in nats"
    )
    parser.add_argument("--out", required=True, help="output file")
    parser.add_argument(
        "--weight",
        metavar="COL",
        help="add a column max(1, exp(log weight - log_max)), with which nothing is clipped",
    )
    add_option(parser, "seed", "random seed")
    parser.add_argument(
        "--log-max",
        type=float,
        help="rows of this log weight or more are always kept (default: by --max-overweight)",
    )
    parser.add_argument(
        "--max-overweight",
        type=float,
        metavar="SHARE",
        help=f"of all weight, the most that may be clipped at log_max (default: {MAX_OVERWEIGHT})",
    )
    parser.add_argument("-n", type=count, help="stop after this many kept rows")
    parser.add_argument("--quiet", dest="report", action="store_false", help="print nothing")
