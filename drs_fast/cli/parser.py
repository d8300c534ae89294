"""The arguments of each command. Every field of the chosen sampler becomes a flag."""

import argparse
from collections.abc import Iterator
from typing import Any

from drs_fast import __version__, backends, samplers
from drs_fast.cli import commands, fields
from drs_fast.cli.exit_codes import EXIT_CODES
from drs_fast.core.columns import SAVEABLE
from drs_fast.exporting.formats import FORMATS
from drs_fast.gan import PRECISIONS
from drs_fast.gan.images import FORMS
from drs_fast.run.advice import USUAL
from drs_fast.run.options import Options
from drs_fast.squeeze import Squeeze
from drs_fast.unweighting.unweight import MAX_OVERWEIGHT

RANGE = "--value-range"
DEVICE = "cpu or cuda; where the model is if not given"


def parsed(given: list[str]) -> argparse.Namespace:
    """The arguments; SystemExit with code 2, after an explanation, if they are wrong."""
    given = list(_spread(given))
    made = parser(given)
    options, unknown = made.parse_known_args(given)
    if unknown:
        why = f"unrecognized arguments: {' '.join(unknown)}"
        flags = [flag.partition("=")[0] for flag in unknown if flag.startswith("--")]
        if flags and options.run in (commands.run_generate, commands.run_plan):
            why += f"; {fields.without(samplers.get(options.sampler), flags)}"
        made.error(why)
    return options


def parser(given: list[str]) -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    made = argparse.ArgumentParser(
        prog="drs-fast",
        description="Draw samples from a trained GAN and keep those its discriminator believes in.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=__version__)
    added = made.add_subparsers(required=True, metavar="COMMAND")

    demo = added.add_parser(
        "demo", allow_abbrev=False, help="sample the built-in GANs and draw pictures of the result"
    )
    demo.add_argument("--out", default="drs-fast-demo", help="output folder (default: %(default)s)")
    demo.add_argument("--quiet", action="store_true", help="show no progress")
    demo.set_defaults(run=commands.run_demo)

    planned = added.add_parser(
        "plan",
        allow_abbrev=False,
        help="measure how fast a model runs and recommend flags for generate",
        description="Time G and D at several batch sizes and with --tune, say what samplers "
        "are expected to give and cost, draw samples for a few seconds, and recommend flags for "
        "generate.",
    )
    planned.add_argument("model", help="zoo name, file.py:function, or package.module:function")
    planned.add_argument("-n", type=int, help="number of samples you want")
    planned.add_argument(
        "--budget",
        help="time you have, such as 90s, 30m or 1h30m; a bare number is that of --sampler obrs",
    )
    planned.add_argument(
        "--sampler",
        type=str.lower,
        default=USUAL,
        choices=samplers.NAMES,
        help="sampling method (default: %(default)s)",
    )
    planned.add_argument(
        "--squeeze",
        action="store_true",
        help="search for bounds, and compare every rejection sampler with one, not only with the "
        "most that one can bring; draw with the sampler squeezed (minutes if G and D are slow)",
    )
    _add_option(planned, "seed", "of what is drawn")
    planned.add_argument("--batch-size", type=int, help="the only one to try")
    _add_option(planned, "device", DEVICE, type=str)
    _add_option(planned, "precision", "of G and D", choices=PRECISIONS)
    _add_images(planned)
    planned.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    fields.add_fields(planned, fields.sampler_of(given), taken=("budget",))
    planned.set_defaults(run=commands.run_plan)

    generate = added.add_parser(
        "generate",
        allow_abbrev=False,
        help="write samples to a directory, or resume an unfinished run",
        description="Write samples to a directory, or resume after its last finished shard.",
    )
    generate.add_argument("model", help="zoo name, file.py:function, or package.module:function")
    generate.add_argument("-n", type=int, required=True, help="number of samples")
    generate.add_argument("--out", required=True, help="output folder")
    generate.add_argument(
        "--sampler",
        type=str.lower,
        default=USUAL,
        choices=samplers.NAMES,
        help="sampling method (default: %(default)s)",
    )
    _add_option(generate, "seed", "random seed")
    _add_option(generate, "save", f"of {','.join(SAVEABLE)}", type=_names)
    _add_images(generate)
    _add_option(generate, "batch_size", "rows in a call of G and D: a power of two, or 256s")
    _add_option(generate, "device", DEVICE, type=str)
    generate.add_argument("--backend", choices=backends.NAMES, help="force one")
    _add_option(generate, "max_proposals", "rows to try in all")
    limit = "when to stop, after a chunk; the same command resumes"
    _add_option(generate, "max_seconds", limit, type=float)
    _add_option(generate, "patience", "rows without an accepted one before giving up")
    _add_option(generate, "chunk_rows", "rows a shard is made from: a power of two, such as 262144")
    _add_option(generate, "precision", "of G and D", choices=PRECISIONS)
    tunes = "of fold,cast,channels_last,compile: how G and D run; auto: what is fastest here"
    _add_option(generate, "tune", tunes, type=_names)
    generate.add_argument(
        "--no-cuda-graph",
        dest="cuda_graph",
        action="store_false",
        help="call G and D at every step on a GPU too",
    )
    generate.add_argument(
        "--squeeze", action="store_true", help="reject most latents by a cheap bound first"
    )
    generate.add_argument(
        "--tolerance",
        type=float,
        help=f"largest share of samples the bound may lose (default: {Squeeze.tolerance})",
    )
    generate.add_argument(
        "--unseen",
        type=float,
        help=f"further loss allowed where no row was seen (default: {Squeeze.unseen})",
    )
    generate.add_argument(
        "--use-bound",
        choices=commands.USE_BOUND,
        help="always or never use the bound (default: only if it saves work)",
    )
    share = "the K-th of N processes that write to one folder (default: as torchrun or Slurm says)"
    _add_option(generate, "worker", share, type=str, metavar="K/N")
    _add_option(generate, "only", "draw this class alone", metavar="CLASS")
    weights = "how often each class is proposed, such as 3,1,2 (default: as the GAN says)"
    _add_option(generate, "label_weights", weights, type=_numbers, metavar="W,W,...")
    generate.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    fields.add_fields(generate, fields.sampler_of(given))
    generate.set_defaults(run=commands.run_generate)

    check = added.add_parser(
        "doctor",
        allow_abbrev=False,
        help="check a model; without one, list versions and backends",
        description="Say what is wrong with a model and how to fix it. Without a model, print "
        "versions, which backends can run, and why the others cannot.",
    )
    check.add_argument(
        "model", nargs="?", help="zoo name, file.py:function, or package.module:function"
    )
    check.add_argument(
        "--real",
        metavar="PATH",
        help="real samples to compare with: .npy, .npz, .pt or .safetensors (x, and y if "
        "labelled), or a folder of pictures (with a subfolder for each class)",
    )
    check.add_argument(
        "-n", type=int, default=4096, help="samples to examine (default: %(default)s)"
    )
    check.add_argument("--seed", type=int, default=0, help="of the samples (default: %(default)s)")
    _add_option(check, "device", DEVICE, type=str)
    check.set_defaults(run=commands.run_doctor)

    status = added.add_parser(
        "status",
        allow_abbrev=False,
        help="say how far a run is: exit code 0 complete, 75 unfinished, 7 not a run",
    )
    status.add_argument("dir", metavar="DIR")
    status.set_defaults(run=commands.run_status)

    verify = added.add_parser("verify", allow_abbrev=False, help="check the sha256 of every shard")
    verify.add_argument("dir", metavar="DIR")
    verify.add_argument(
        "--repair",
        action="store_true",
        help="delete damaged shards; rerun generate to make them again",
    )
    verify.set_defaults(run=commands.run_verify)

    export = added.add_parser(
        "export",
        allow_abbrev=False,
        help="write a run's samples to files that other programs read",
        description="Write the samples of a run to files that other programs read. The same "
        "command goes on after the last finished file of a folder.",
    )
    export.add_argument("dir", metavar="DIR")
    export.add_argument("--to", required=True, metavar="PATH", help="output file or folder")
    export.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    export.add_argument("-n", type=int, help="the first so many samples (default: all)")
    export.add_argument(
        "--save", type=_names, help="of x,z,logit,weight (default: what the run saved)"
    )
    export.add_argument(
        "--images",
        choices=("uint8",),
        help="x as whole numbers in parquet and npy too, as it always is in pictures",
    )
    export.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="numbers of x that become 0 and 255 (default: -1 1; uint8 of a run stays as it is)",
    )
    export.add_argument(
        "--rows-per-file",
        type=int,
        metavar="ROWS",
        help="of each file of a folder (default: 10,000 images, or 1,000,000 rows of a table)",
    )
    export.add_argument("--threads", type=int, help="default: one a core")
    export.add_argument(
        "--no-check",
        dest="check",
        action="store_false",
        help="do not compare each shard with its sha256 first",
    )
    export.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    export.set_defaults(run=commands.run_export)

    unweight = added.add_parser(
        "unweight",
        allow_abbrev=False,
        help="keep an unweighted sample of a table's rows, which have log weights",
        description="Keep each row of a Parquet, .npz or .npy table with probability "
        "min(1, exp(log weight - log_max)), and write the kept rows to a file of the same kind.",
    )
    unweight.add_argument("file", metavar="FILE")
    unweight.add_argument(
        "--log-weight", required=True, metavar="COL", help="the column of log weights, in nats"
    )
    unweight.add_argument("--out", required=True, help="output file")
    unweight.add_argument(
        "--weight",
        metavar="COL",
        help="add a column max(1, exp(log weight - log_max)), with which nothing is clipped",
    )
    _add_option(unweight, "seed", "random seed")
    unweight.add_argument(
        "--log-max",
        type=float,
        help="rows of this log weight or more are always kept (default: by --max-overweight)",
    )
    unweight.add_argument(
        "--max-overweight",
        type=float,
        metavar="SHARE",
        help=f"of all weight, the most that may be clipped at log_max (default: {MAX_OVERWEIGHT})",
    )
    unweight.add_argument("-n", type=int, help="stop after this many kept rows")
    unweight.add_argument("--quiet", dest="report", action="store_false", help="print nothing")
    unweight.set_defaults(run=commands.run_unweight)

    report = added.add_parser(
        "report", allow_abbrev=False, help="describe a run in numbers and pictures"
    )
    report.add_argument("dir", metavar="DIR")
    report.add_argument("--out", help="directory for the pictures (default: DIR-report)")
    report.set_defaults(run=commands.run_report)
    return made


def _add_option(parser: argparse.ArgumentParser, name: str, words: str, **how: Any) -> None:
    """One flag for an option of a run, with its default; an integer unless `how` says otherwise."""
    default = getattr(Options, name)
    if isinstance(default, tuple):
        default = ",".join(default)
    note = "" if default in (None, "") else " (default: %(default)s)"
    how = how if "choices" in how else {"type": int, **how}
    parser.add_argument(fields.flag(name), default=default, help=words + note, **how)


def _add_images(parser: argparse.ArgumentParser) -> None:
    _add_option(parser, "images", "store x in 1 or 2 bytes a number", choices=FORMS)
    parser.add_argument(
        RANGE,
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="numbers of x that become 0 and 255 with --images uint8 (default: as the model says)",
    )


def _spread(given: list[str]) -> Iterator[str]:
    """The arguments, where the two numbers of --value-range may be joined by a comma."""
    before = ""
    for argument in given:
        flag, _, value = argument.partition("=")
        if before == RANGE:
            yield from argument.split(",")
        elif flag == RANGE and value:
            yield from (flag, *value.split(","))
        else:
            yield argument
        before = argument


def _names(given: str) -> tuple[str, ...]:
    return tuple(filter(None, given.split(",")))


def _numbers(given: str) -> list[float]:
    try:
        return [float(number) for number in given.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers such as 3,1,2, got {given!r}") from None
