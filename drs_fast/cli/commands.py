"""What each command does."""

import argparse
import dataclasses
import json
import os
import platform
import shlex
from pathlib import Path
from typing import Any

import torch

from drs_fast import __version__, ops, samplers, store
from drs_fast.adapters.load import load, real_samples
from drs_fast.cli import launcher
from drs_fast.cli.drawing import USE_BOUND
from drs_fast.cli.failures import fail
from drs_fast.cli.repairing import repaired
from drs_fast.core import slow
from drs_fast.core.words import counted
from drs_fast.doctor.doctor import doctor
from drs_fast.gan import GAN, Real
from drs_fast.report import planned
from drs_fast.run import generate as engine
from drs_fast.run.options import Options
from drs_fast.run.plan import plan
from drs_fast.squeeze import Squeeze
from drs_fast.unweighting.tables import Summary, unweight_file


def run_demo(options: argparse.Namespace) -> int:
    from drs_fast.report import demo

    say = (lambda line: None) if options.quiet else print
    pictures = demo.run(Path(options.out), quiet=options.quiet, say=say)
    for picture in pictures:
        print(picture)
    return 0


def run_plan(options: argparse.Namespace) -> int:
    budget = _time(options)
    sampler = _sampler(options)
    found = plan(
        _model(options),
        Squeeze(sampler) if options.squeeze else sampler,
        n=options.n,
        budget=budget,
        seed=options.seed,
        batch_size=options.batch_size,
        device=options.device,
        precision=options.precision,
        images=options.images,
        progress=options.progress,
        squeeze=options.squeeze,
    )
    called = " ".join([shlex.quote(options.model), *map(_arg, options.arguments)])
    if options.value_range is not None:
        called += " --value-range {:g} {:g}".format(*options.value_range)
    print(dataclasses.replace(found, called=called))
    return 0


def _time(options: argparse.Namespace) -> str | None:
    """The time of --budget, which has a unit. A bare number is the budget of a sampler with one."""
    given, options.budget = options.budget, None
    fields = {field.name for field in dataclasses.fields(samplers.get(options.sampler))}
    if given is None or given[-1:].isalpha() or "budget" not in fields:
        return given  # type: ignore[no-any-return]
    options.budget = float(given)
    return None


def _arg(given: tuple[str, Any]) -> str:
    name, value = given
    return f"--arg {shlex.quote(f'{name}={value if isinstance(value, str) else repr(value)}')}"


def _loaded(options: argparse.Namespace) -> GAN:
    """The model, with the arguments of --arg."""
    arguments: dict[str, Any] = {}
    for name, value in options.arguments:
        if name in arguments:
            raise ValueError(f"--arg {name} is given twice; give it once")
        arguments[name] = value
    with slow.said(
        f"loading {options.model}", enabled="progress" not in options or options.progress
    ):
        return load(options.model, **arguments)


def _model(options: argparse.Namespace) -> GAN:
    gan = _loaded(options)
    if options.value_range is None:
        return gan
    if options.images != "uint8":
        raise ValueError("--value-range needs --images uint8, which alone depends on it")
    return gan.ranging(*options.value_range)


def _sampler(options: argparse.Namespace) -> Any:
    kind = samplers.get(options.sampler)
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in fields.items() if value is not None})


def run_generate(options: argparse.Namespace) -> int:
    sampler = _sampler(options)
    names = ("tolerance", "unseen", "use_bound", "by", "low_cost")
    given = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if options.squeeze:
        if "use_bound" in given:
            given["use_bound"] = USE_BOUND[given["use_bound"]]
        sampler = Squeeze(sampler, **given)
    elif given:
        name, value = next(iter(given.items()))
        raise ValueError(f"--{name.replace('_', '-')} {value} needs --squeeze")
    options.worker = worker = launcher.worker(options.worker, os.environ)
    options.device = launcher.device(options.device, os.environ)
    with ops.backend(options.backend):
        samples: store.Samples = engine.generate(
            _model(options),
            sampler,
            options.n,
            out=options.out,
            **{field.name: getattr(options, field.name) for field in dataclasses.fields(Options)},
        )
    if not options.progress:
        return 0
    facts = samples.manifest
    if worker is None or (worker.number == 1 and facts["complete"]):
        rate = facts["n"] / facts["proposals"] if facts["proposals"] else 0.0
        print(
            f"{counted(len(samples), 'sample')} in {options.out}: {rate:.2%} of "
            f"{counted(facts['proposals'], 'row')}"
        )
        print(f"law: {facts['law']}")
        for name, line in planned.worth(facts, len(samples), None, None).items():
            print(f"{name}: {line}")
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    if options.model is not None:
        real = None if options.real is None else _real(options.real)
        gan = _loaded(options).on(options.device)
        with slow.said(f"examining {counted(options.n, 'sample')}"):
            diagnosis = doctor(gan, real, options.n, options.seed)
        print(json.dumps(diagnosis.as_dict(), indent=2) if options.json else diagnosis)
        return 8 if diagnosis.findings else 0
    if options.real is not None:
        raise ValueError("--real needs a model: drs-fast doctor MODEL --real FILE")
    versions = (__version__, platform.python_version(), torch.__version__)
    names = {"cpu": counted(torch.get_num_threads(), "thread")}
    names |= {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    backends = {device: ops.available(device) for device in names}
    if options.json:
        held = dict(zip(("drs_fast", "python", "torch"), versions, strict=True))
        found = {
            device: {"described": described, "backends": backends[device]}
            for device, described in names.items()
        }
        print(json.dumps({**held, "devices": found}, indent=2))
        return 0
    print("drs_fast {}, Python {}, torch {}".format(*versions))
    for device, described in names.items():
        print(f"{device}: {described}")
        for name, reason in backends[device].items():
            print(f"  {name}: {'ready' + _detail(name) if reason is None else reason}")
    if len(names) == 1:
        print("cuda: PyTorch finds no GPU")
    return 0


def _detail(backend: str) -> str:
    from drs_fast.backends import cpu

    return f", {cpu.instruction_set()} instructions" if backend == "cpu" else ""


def _real(path: str) -> Real | str:
    """Real samples from a file; a folder is read by the GAN, which knows its classes."""
    return path if os.path.isdir(path) else real_samples(Path(path))


def run_verify(options: argparse.Namespace) -> int:
    if options.repair:
        with slow.said(f"checking the sha256 of every shard in {options.dir}"):
            lines = repaired(options.dir)
        print("\n".join(lines))
        return 0
    live = store.being_written(options.dir)
    if not live and not (Path(options.dir) / "manifest.json").exists():
        raise store.Conflict(f"{options.dir} is not a run: it holds no manifest.json")
    with slow.said(f"checking the sha256 of every shard in {options.dir}"):
        problems = store.verify(options.dir)
    for problem in problems:
        print(problem)
    if problems:
        helps = "run `verify --repair`, then the same generate command"
        if not store.mendable(options.dir):
            helps = "`verify --repair` cannot fix this"
        return fail(6, f"{counted(len(problems), 'problem')}; {helps}")
    if live or store.being_written(options.dir):
        shards = store.recorded(options.dir)
        rest = " so far (the run is still being written)"
    else:
        samples = store.open_run(options.dir)
        rest = "" if samples.manifest["complete"] else f", unfinished, of {samples.manifest['n']:,}"
        shards = samples.counts
    counts = f"{counted(sum(shards), 'sample')} in {counted(len(shards), 'shard')}"
    print(f"{counts}{rest}: every sha256 matches")
    return 0


def run_report(options: argparse.Namespace) -> int:
    from drs_fast.report import report

    gan = None if options.model is None else load(options.model)
    with slow.said(f"reading the samples in {options.dir} and drawing pictures"):
        written = report.write(options.dir, options.out, gan)
    print(written.text)
    for path in (*written.pictures, written.page):
        print(path)
    return 0


def run_unweight(options: argparse.Namespace) -> int:
    with slow.said(f"reading {options.file}", enabled=options.report):
        done = unweight_file(
            options.file,
            options.log_weight,
            options.out,
            weight=options.weight,
            seed=options.seed,
            log_max=options.log_max,
            max_overweight=options.max_overweight,
            n=options.n,
        )
    if options.report:
        share = f" ({done.count / done.rows:.2%})" if done.rows else ""
        print(f"{done.count:,} of {counted(done.rows, 'row')}{share} in {options.out}")
        print(f"log_max: {done.log_max!r}; {_clipped(done, options.weight)}")
    return 0


def _clipped(done: Summary, weight: str | None) -> str:
    """How much of the weight lies above log_max, and what becomes of it."""
    if not done.above:
        return "no row lies above it"
    fate = "is lost" if weight is None else f"the column {weight!r} makes up for"
    lie = "lies" if done.above == 1 else "lie"
    above = f"{counted(done.above, 'row')} {lie} above it"
    return f"{above}, and {done.excess:.3%} of the weight, which {fate}"


def run_export(options: argparse.Namespace) -> int:
    from drs_fast.exporting.export import export

    done = export(
        options.dir,
        options.to,
        options.format,
        n=options.n,
        save=options.save,
        images=options.images,
        value_range=options.value_range,
        rows_per_file=options.rows_per_file,
        threads=options.threads,
        check=options.check,
        progress=options.progress,
    )
    if options.progress:
        there = f", {done.there:,} of which were there" if done.there else ""
        files = counted(done.files, "part")
        print(f"{counted(done.rows, 'sample')} in {files}{there}: {options.to}")
    return 0
