"""The arguments of the commands that draw samples: plan and generate."""

import argparse

from drs_fast import backends, samplers
from drs_fast.cli.fields import add_fields, add_option, sampler_name, sampler_of
from drs_fast.cli.values import DEVICE, RANGE, add_model, count, names, numbers
from drs_fast.core.columns import SAVEABLE
from drs_fast.gan import PRECISIONS
from drs_fast.gan.images import FORMS
from drs_fast.run.advice import USUAL
from drs_fast.squeeze import Squeeze

USE_BOUND = {"yes": True, "no": False}


def plan(parser: argparse.ArgumentParser, given: list[str]) -> None:
    parser.description = (
        "Time G and D at several batch sizes and with --tune, say what samplers "
        "are expected to give and cost, draw samples for a few seconds, and recommend flags for "
        "generate."
    )
    add_model(parser)
    parser.add_argument("-n", type=count, help="number of samples you want")
    parser.add_argument(
        "--budget",
        help="time you have, such as 90s, 30m or 1h30m; a bare number is that of --sampler obrs",
    )
    _add_sampler(parser)
    parser.add_argument(
        "--squeeze",
        action="store_true",
        help="search for bounds, and compare every rejection sampler with one, not only with the "
        "most that one can bring; draw with the sampler squeezed (minutes if G and D are slow)",
    )
    add_option(parser, "seed", "of what is drawn")
    parser.add_argument("--batch-size", type=count, help="the only one to try")
    add_option(parser, "device", DEVICE, type=str)
    add_option(parser, "precision", "of G and D", choices=PRECISIONS)
    _add_images(parser)
    parser.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    add_fields(parser, sampler_of(given), taken=("budget",))


def generate(parser: argparse.ArgumentParser, given: list[str]) -> None:
    parser.description = "Write samples to a directory, or resume after its last finished shard."
    add_model(parser)
    parser.add_argument("-n", type=count, required=True, help="number of samples")
    parser.add_argument("--out", required=True, help="output folder")
    _add_sampler(parser)
    add_option(parser, "seed", "random seed")
    add_option(parser, "save", f"of {','.join(SAVEABLE)}", type=names)
    _add_images(parser)
    add_option(parser, "batch_size", "rows in a call of G and D: a power of two, or 256s")
    add_option(parser, "device", DEVICE, type=str)
    parser.add_argument("--backend", choices=backends.NAMES, help="force one")
    add_option(parser, "max_proposals", "rows to try in all")
    limit = "when to stop, after a chunk; the same command resumes"
    add_option(parser, "max_seconds", limit, type=float)
    add_option(parser, "patience", "rows without an accepted one before giving up")
    add_option(parser, "chunk_rows", "rows a shard is made from: a power of two, such as 262144")
    add_option(parser, "precision", "of G and D", choices=PRECISIONS)
    tunes = "of fold,cast,channels_last,compile: how G and D run; auto: what is fastest here"
    add_option(parser, "tune", tunes, type=names)
    parser.add_argument(
        "--no-cuda-graph",
        dest="cuda_graph",
        action="store_false",
        help="call G and D at every step on a GPU too",
    )
    parser.add_argument(
        "--squeeze", action="store_true", help="reject most latents by a cheap bound first"
    )
    parser.add_argument(
        "--by",
        help="what may bound: latent (networks), bf16, fp16 or tf32 (G and D in this precision), "
        "or latent and a precision: latent,bf16 (default: auto, which is latent, with the "
        "precision that a timing here says may pay)",
    )
    parser.add_argument(
        "--low-cost",
        type=float,
        help="time of a row in that precision, as a share of full precision (default: as timed, "
        "or 0.5 if --by names it)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help=f"largest share of samples the bound may lose (default: {Squeeze.tolerance})",
    )
    parser.add_argument(
        "--unseen",
        type=float,
        help=f"further loss allowed where no row was seen (default: {Squeeze.unseen})",
    )
    parser.add_argument(
        "--use-bound",
        choices=USE_BOUND,
        help="always or never use the bound (default: only if it saves work)",
    )
    share = "the K-th of N processes that write to one folder (default: as torchrun or Slurm says)"
    add_option(parser, "worker", share, type=str, metavar="K/N")
    add_option(parser, "only", "draw this class alone", metavar="CLASS")
    weights = "how often each class is proposed, such as 3,1,2 (default: as the GAN says)"
    add_option(parser, "label_weights", weights, type=numbers, metavar="W,W,...")
    parser.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    add_fields(parser, sampler_of(given))


def _add_sampler(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sampler",
        type=sampler_name,
        default=USUAL,
        metavar="NAME",
        help=f"sampling method: {', '.join(samplers.NAMES)} (default: %(default)s)",
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    add_option(parser, "images", "store x in 1 or 2 bytes a number", choices=FORMS)
    parser.add_argument(
        RANGE,
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="numbers of x that become 0 and 255 with --images uint8 (default: as the model says)",
    )
