"""The command line: drs-fast demo | plan | generate | doctor | verify | report."""

import argparse
import contextlib
import dataclasses
import errno
import os
import platform
import signal
import sys
import threading
import traceback
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, NoneType
from typing import Any, NoReturn

import torch

from drs_fast import __version__, backends, engine, interrupts, ops, samplers, store
from drs_fast.core import BadLogits, Stale, Starvation
from drs_fast.gan import PRECISIONS
from drs_fast.load import load, real_samples
from drs_fast.plan import plan
from drs_fast.ratio.doctor import doctor
from drs_fast.squeeze import Squeeze

BROKEN_PIPE = 141
EXIT_CODES = {
    0: "done",
    1: "an error of the program",
    2: "wrong arguments, or a model that cannot be used",
    3: "the discriminator's logits cannot be sampled from",
    4: "starved: too few proposals were accepted",
    5: "the disk is full, or a file could not be written",
    6: "damaged: verify found problems",
    7: "the directory is no run, is another run, or is in use",
    8: "the doctor found problems",
    9: "the bound of a squeezed run loses too much",
    130: "interrupted (Ctrl-C); the same command goes on",
    BROKEN_PIPE: "nobody reads the output any more",
    143: "terminated; the same command goes on",
}
USE_BOUND = {"yes": True, "no": False}


def command() -> NoReturn:
    """`drs-fast` and `python -m drs_fast`: main, and an end without a traceback."""
    try:
        code = main()
    except SystemExit as end:  # of the parser, after it has printed
        code = int(end.code or 0)
    except KeyboardInterrupt:  # a second one
        code = 130
    except _Terminated:
        code = 143
    interrupts.leave_at_once(code)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or BROKEN_PIPE
    if code == BROKEN_PIPE:  # or Python would complain when it flushes what is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code. SystemExit of the parser."""
    try:
        interrupts.are_exceptions()
        given = list(sys.argv[1:] if arguments is None else arguments)
        options = _parser(given).parse_args(given)
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        with _terminable():
            return _run(options)
    except BadLogits as error:
        return _fail(3, error)
    except Starvation as error:
        return _fail(4, error)
    except Stale as error:
        return _fail(9, error)
    except store.Conflict as error:
        return _fail(7, error)
    except store.Corrupt as error:
        return _fail(6, error)
    except (ValueError, RuntimeError) as error:
        return _fail(2, error)
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return _fail(5 if full or error.filename else 1, error)
    except KeyboardInterrupt:
        return _fail(130, "interrupted; the same command goes on from the last finished shard")
    except _Terminated:
        return _fail(143, "terminated; the same command goes on from the last finished shard")


def _run(options: argparse.Namespace) -> int:
    try:
        return int(options.run(options))
    except SystemExit as end:
        frames = traceback.extract_tb(end.__traceback__)
        place = [frame for frame in frames if not frame.filename.startswith("<frozen")][-1]
        raise ValueError(
            f"sys.exit({end.code!r}) was called in {place.filename}, line {place.lineno}, before "
            "the command had ended; a model must return, or raise an error"
        ) from end


class _Terminated(BaseException):
    pass


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises _Terminated, where this may be set and set back."""
    before = signal.getsignal(signal.SIGTERM)  # None: not set by Python
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _fail(code: int, error: object) -> int:
    print(f"drs-fast: {error}", file=sys.stderr)
    return code


def _demo(options: argparse.Namespace) -> int:
    from drs_fast import demo

    say = (lambda line: None) if options.quiet else print
    pictures = demo.run(Path(options.out), quiet=options.quiet, say=say)
    for picture in pictures:
        print(picture)
    return 0


def _plan(options: argparse.Namespace) -> int:
    found = plan(
        load(options.model),
        _sampler(options),
        n=options.n,
        seed=options.seed,
        batch_size=options.batch_size,
        device=options.device,
        precision=options.precision,
        progress=not options.quiet,
    )
    print(found)
    return 0


def _sampler(options: argparse.Namespace) -> Any:
    kind = samplers.get(options.sampler)
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in fields.items() if value is not None})


def _generate(options: argparse.Namespace) -> int:
    sampler = _sampler(options)
    if options.squeeze:
        sampler = Squeeze(
            sampler, options.tolerance, options.unseen, USE_BOUND.get(options.use_bound)
        )
    elif options.use_bound is not None:
        raise ValueError(f"--use-bound {options.use_bound} needs --squeeze")
    with ops.backend(options.backend):
        samples = engine.generate(
            load(options.model),
            sampler,
            options.n,
            seed=options.seed,
            batch_size=options.batch_size,
            device=options.device,
            out=options.out,
            save=tuple(options.save.split(",")),
            max_proposals=options.max_proposals,
            patience=options.patience,
            chunk_rows=options.chunk_rows,
            precision=options.precision,
            tune=tuple(name for name in options.tune.split(",") if name),
            cuda_graph=not options.no_cuda_graph,
            label_weights=options.label_weights,
            only=options.only,
            progress=not options.quiet,
        )
    if not options.quiet:
        facts = samples.manifest
        rate = facts["n"] / facts["proposals"] if facts["proposals"] else 0.0
        print(
            f"{len(samples):,} samples in {options.out}: {rate:.2%} of {facts['proposals']:,} rows"
        )
        print(f"law: {facts['law']}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    if options.model is not None:
        real = None if options.real is None else real_samples(Path(options.real))
        diagnosis = doctor(load(options.model).on(options.device), real, options.n, options.seed)
        print(diagnosis)
        return 8 if diagnosis.findings else 0
    if options.real is not None:
        raise ValueError("--real needs a model: drs-fast doctor MODEL --real FILE")
    print(f"drs_fast {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    names = {"cpu": f"{torch.get_num_threads()} threads"}
    names |= {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    for device, described in names.items():
        print(f"{device}: {described}")
        for name, reason in ops.available(device).items():
            print(f"  {name}: {'ready' + _detail(name) if reason is None else reason}")
    if len(names) == 1:
        print("cuda: PyTorch finds no GPU")
    return 0


def _detail(backend: str) -> str:
    from drs_fast.backends import cpu

    return f", {cpu.instruction_set()} instructions" if backend == "cpu" else ""


def _verify(options: argparse.Namespace) -> int:
    if options.repair:
        for line in store.repair(options.dir):
            print(f"dropped: {line}")
        return 0
    live = store.being_written(options.dir)
    if not live and not (Path(options.dir) / "manifest.json").exists():
        raise store.Conflict(f"{options.dir} is not a run: it holds no manifest.json")
    problems = store.verify(options.dir)
    for problem in problems:
        print(problem)
    if problems:
        helps = "`verify --repair`, then the same generate command"
        if not store.mendable(options.dir):
            helps = "`verify --repair` cannot mend that"
        return _fail(6, f"{len(problems)} problems; {helps}")
    if live or store.being_written(options.dir):
        shards = store.recorded(options.dir)
        rest = " so far, because the run is being written"
    else:
        samples = store.open_run(options.dir)
        rest = "" if samples.manifest["complete"] else f", unfinished, of {samples.manifest['n']:,}"
        shards = samples.counts
    print(f"{sum(shards):,} samples in {len(shards):,} shards{rest}: every sha256 is right")
    return 0


def _report(options: argparse.Namespace) -> int:
    from drs_fast import report

    text, pictures = report.write(options.dir, options.out)
    print(text)
    for picture in pictures:
        print(picture)
    return 0


def _parser(given: list[str]) -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    parser = argparse.ArgumentParser(
        prog="drs-fast",
        description="Samples of a trained GAN that its discriminator believes in.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo", allow_abbrev=False, help="the main job on the built-in GANs, with pictures"
    )
    demo.add_argument("--out", default="drs-fast-demo", help="directory (default: %(default)s)")
    demo.add_argument("--quiet", action="store_true", help="no progress")
    demo.set_defaults(run=_demo)

    planned = commands.add_parser(
        "plan",
        allow_abbrev=False,
        help="measure how fast a model runs, and say what to give to generate",
        description="Time G and D in several batch sizes and with each --tune, draw for a few "
        "seconds, and say what to give to generate.",
    )
    planned.add_argument("model", help="zoo name, file.py:function, or package.module:function")
    planned.add_argument("-n", type=int, help="samples that are wanted")
    planned.add_argument(
        "--sampler",
        type=str.lower,
        default="drs",
        choices=samplers.NAMES,
        help="method (default: %(default)s)",
    )
    planned.add_argument(
        "--seed", type=int, default=0, help="of what is drawn (default: %(default)s)"
    )
    planned.add_argument("--batch-size", type=int, help="the only one to try")
    planned.add_argument("--device", help="cpu or cuda; where the model is if not given")
    planned.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of G and D (default: %(default)s)"
    )
    planned.add_argument("--quiet", action="store_true", help="no progress")
    _add_fields(planned, _sampler_of(given))
    planned.set_defaults(run=_plan)

    generate = commands.add_parser(
        "generate",
        allow_abbrev=False,
        help="write samples to a directory, or go on where it stopped",
        description="Write samples to a directory, or go on from its last finished shard.",
    )
    generate.add_argument("model", help="zoo name, file.py:function, or package.module:function")
    generate.add_argument("-n", type=int, required=True, help="samples")
    generate.add_argument("--out", required=True, help="directory")
    generate.add_argument(
        "--sampler",
        type=str.lower,
        default="drs",
        choices=samplers.NAMES,
        help="method (default: %(default)s)",
    )
    generate.add_argument(
        "--seed", type=int, default=0, help="of all random numbers (default: %(default)s)"
    )
    generate.add_argument("--save", default="x,logit", help="of x,z,logit (default: %(default)s)")
    generate.add_argument(
        "--batch-size",
        type=int,
        default=4096,
        help="rows in a call of G and D: a power of two, or 256s (default: %(default)s)",
    )
    generate.add_argument("--device", help="cpu or cuda; where the model is if not given")
    generate.add_argument("--backend", choices=backends.NAMES, help="force one")
    generate.add_argument("--max-proposals", type=int, help="rows to try in all")
    generate.add_argument(
        "--patience",
        type=int,
        default=engine.PATIENCE,
        help="rows without an accepted one before giving up (default: %(default)s)",
    )
    generate.add_argument("--chunk-rows", type=int, help="rows a shard is made from")
    generate.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of G and D (default: %(default)s)"
    )
    generate.add_argument(
        "--tune", default="", help="of channels_last,compile: how G and D run; see drs-fast plan"
    )
    generate.add_argument(
        "--no-cuda-graph", action="store_true", help="call G and D at every step on a GPU too"
    )
    generate.add_argument(
        "--squeeze", action="store_true", help="reject by a bound of the latent before G and D run"
    )
    generate.add_argument(
        "--tolerance",
        type=float,
        default=Squeeze.tolerance,
        help="share of the samples that the bound may lose (default: %(default)s)",
    )
    generate.add_argument(
        "--unseen",
        type=float,
        default=Squeeze.unseen,
        help="what it may lose beyond that, where no row was seen (default: %(default)s)",
    )
    generate.add_argument(
        "--use-bound",
        choices=USE_BOUND,
        help="whether a bound is used, whatever the work (default: where that is less)",
    )
    generate.add_argument("--only", type=int, metavar="CLASS", help="draw this class alone")
    generate.add_argument(
        "--label-weights",
        type=_numbers,
        metavar="W,W,...",
        help="how often each class is proposed, such as 3,1,2 (default: as the GAN says)",
    )
    generate.add_argument("--quiet", action="store_true", help="no progress")
    _add_fields(generate, _sampler_of(given))
    generate.set_defaults(run=_generate)

    check = commands.add_parser(
        "doctor",
        allow_abbrev=False,
        help="what is wrong with a model; without one: versions, backends, why one cannot run",
        description="What is wrong with a model and what to do about it; or, without a model, "
        "versions, and which backends can run and why not.",
    )
    check.add_argument(
        "model", nargs="?", help="zoo name, file.py:function, or package.module:function"
    )
    check.add_argument(
        "--real",
        metavar="FILE",
        help="real samples to compare with: .npy, .pt or .safetensors (x, and y with labels)",
    )
    check.add_argument(
        "-n", type=int, default=4096, help="samples to look at (default: %(default)s)"
    )
    check.add_argument("--seed", type=int, default=0, help="of the samples (default: %(default)s)")
    check.add_argument("--device", help="cpu or cuda; where the model is if not given")
    check.set_defaults(run=_doctor)

    verify = commands.add_parser(
        "verify", allow_abbrev=False, help="check the sha256 of every shard"
    )
    verify.add_argument("dir", metavar="DIR")
    verify.add_argument(
        "--repair", action="store_true", help="drop damaged shards; generate makes them again"
    )
    verify.set_defaults(run=_verify)

    report = commands.add_parser("report", allow_abbrev=False, help="numbers and pictures of a run")
    report.add_argument("dir", metavar="DIR")
    report.add_argument("--out", help="where the pictures go (default: DIR-report)")
    report.set_defaults(run=_report)
    return parser


def _numbers(given: str) -> list[float]:
    return [float(number) for number in given.split(",")]


def _sampler_of(given: list[str]) -> Any:
    """The sampler whose fields become flags, known only from the arguments."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--sampler", type=str.lower, default="drs")
    name = peek.parse_known_args(given)[0].sampler
    return samplers.get(name if name in samplers.NAMES else "drs")


def _add_fields(parser: argparse.ArgumentParser, sampler: Any) -> None:
    """One flag for each field of the sampler, of the field's type."""
    group = parser.add_argument_group(f"fields of {sampler.__name__}")
    hints = typing.get_type_hints(sampler)
    for field in dataclasses.fields(sampler):
        kinds = [kind for kind in typing.get_args(hints[field.name]) if kind is not NoneType]
        kind = kinds[0] if kinds else hints[field.name]
        flag = f"--{field.name.replace('_', '-')}"
        note = "" if field.default is None else f"default: {field.default}"
        how: Any = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        group.add_argument(flag, default=argparse.SUPPRESS, dest=field.name, help=note, **how)
    parser.set_defaults(**{field.name: None for field in dataclasses.fields(sampler)})


if __name__ == "__main__":
    command()
