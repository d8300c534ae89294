"""No mutation of a run on disk is taken for samples, or ends in an error that explains nothing.

Every checksum is made again, as no accident does: what is left are types, ranges, and what the
files of a run have in common. Values of the right kind that are wrong cannot be known, and nor can
samples: those mutations need not be found, but they must not crash.
"""

import hashlib
import itertools
import json
import math
import os
import random
import re
import shutil
import warnings
import zlib
from collections import Counter

import pytest
import torch
from runs import QUICK, conditional, same_files, toy

import drs_fast as drs
from drs_fast import store
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.mh import MH

SAVE = ("x", "z", "logit")
VALUES = (None, -1, 1.5, "x", [], {}, True, 2**63, math.nan)
REMOVED = object()


def command(out, kind):
    make, sampler, chunk_rows = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # log_m that clips, as it did the first time
        return drs.generate(
            make(), sampler, 300, out=out, save=SAVE, batch_size=256, chunk_rows=chunk_rows
        )


def chains():
    gan = toy()
    z = torch.linspace(-1.0, 1.0, 64)
    gan.real = torch.stack([z, z.flip(0)], dim=1)
    return gan


KINDS = {
    "plain": (toy, QUICK, 256),
    "exact": (toy, DRS(gamma=0.0, burn_in=1024), 256),
    "labels": (conditional, DRS(burn_in=3000, classes="within"), 256),
    "chains": (chains, MH(chain_length=8, burn_in=1024), 1024),
}


def files(directory):
    return {path.name: path.read_bytes() for path in same_files(directory) if path.is_file()}


def read(directory):
    """All data of a run, with NaN where it was."""
    samples = drs.open(directory)
    columns = {name: samples.column(name)[:].numpy().tobytes() for name in samples.columns}
    _ = samples.state if "state_sha256" in samples.manifest else None
    return columns


@pytest.fixture(scope="module")
def makes(tmp_path_factory):
    """Runs of each kind, complete and not, made once: the directory, its bytes, its samples."""
    there = {}

    def make(kind, unfinished):
        if (kind, unfinished) not in there:
            out = tmp_path_factory.mktemp(kind) / "run"
            command(out, kind)
            want = files(out), read(out)
            if unfinished:
                lines = (out / "shards.jsonl").read_bytes().splitlines(keepends=True)
                (out / "shards.jsonl").write_bytes(b"".join(lines[:-2]))
                for number in (1, 2):
                    chunk = opened(lines[-number])["chunk"]
                    (out / f"chunk-{chunk:08d}.safetensors").unlink()
                manifest = opened((out / "manifest.json").read_bytes())
                (out / "manifest.json").write_bytes(sealed({**manifest, "complete": False}, 2))
            there[kind, unfinished] = out, *want
        return there[kind, unfinished]

    return make


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


# --- what is done to the files ------------------------------------------------------------------


def opened(data):
    facts = json.loads(data)
    del facts["crc32"]
    return facts


def sealed(facts, indent=None):
    checksum = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
    return (json.dumps({**facts, "crc32": checksum}, sort_keys=True, indent=indent) + "\n").encode()


def changes(facts):
    """Every key, and those of the sampler, set to every value, and removed."""
    for key, value in itertools.product(facts, (*VALUES, REMOVED)):
        changed = {**facts, key: value}
        if value is REMOVED:
            del changed[key]
        if value is not REMOVED and json.dumps(facts[key]) == json.dumps(value):
            continue
        yield f"{key} = {'nothing' if value is REMOVED else json.dumps(value)}", changed
    for key, inner in facts.items():
        if isinstance(inner, dict):
            for label, changed in changes(inner):
                yield f"{key}.{label}", {**facts, key: changed}


def with_manifest(directory, **facts):
    path = directory / "manifest.json"
    path.write_bytes(sealed({**opened(path.read_bytes()), **facts}, 2))


def in_manifest(facts):
    return lambda directory: (directory / "manifest.json").write_bytes(sealed(facts, 2))


def in_records(lines):
    return lambda directory: (directory / "shards.jsonl").write_bytes(b"".join(lines))


def in_shard(number, data):
    def apply(directory):
        path = directory / "shards.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        record = opened(lines[number])
        (directory / f"chunk-{record['chunk']:08d}.safetensors").write_bytes(data)
        record |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        lines[number] = sealed(record)
        path.write_bytes(b"".join(lines))

    return apply


def in_state(data, **facts):
    def apply(directory):
        (directory / "state.safetensors").write_bytes(data)
        with_manifest(directory, **facts, state_sha256=hashlib.sha256(data).hexdigest())

    return apply


def header(data):
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def tensors(head, data):
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def other_tensors(data, chance):
    """Flipped bytes, other dtypes, shapes and names, another length."""
    head, rest = header(data)
    begin = len(data) - len(rest)
    for place in (*range(8), *chance.sample(range(8, begin), 12)):
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        yield f"header byte {place}", bytes(changed)
    for place in chance.sample(range(begin, len(data)), 3):
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        yield f"data byte {place}", bytes(changed)
    yield "short", data[:-5]
    yield "long", data + b"12345678"
    yield "empty", b""
    yield "huge header", (2**62).to_bytes(8, "little") + data[8:]
    for name in sorted(head.keys() - {"__metadata__"}):
        tensor = head[name]
        for dtype in ("I32", "F64", "I64", "U8", "F4", "nonsense"):
            if dtype != tensor["dtype"]:
                yield (
                    f"{name} as {dtype}",
                    tensors({**head, name: {**tensor, "dtype": dtype}}, rest),
                )
        shapes = ([], [*tensor["shape"], 1], [1, *tensor["shape"]], tensor["shape"][::-1])
        for shape in shapes:
            if shape != tensor["shape"]:
                yield (
                    f"{name} of {shape}",
                    tensors({**head, name: {**tensor, "shape": shape}}, rest),
                )
        renamed = {("other" if key == name else key): value for key, value in head.items()}
        yield f"{name} renamed", tensors(renamed, rest)


def mutations(directory):
    """(what, function of a directory that does it) for all files of a run."""
    chance = random.Random(0)
    manifest = opened((directory / "manifest.json").read_bytes())
    lines = (directory / "shards.jsonl").read_bytes().splitlines(keepends=True)
    for label, changed in changes(manifest):
        yield f"manifest: {label}", in_manifest(changed)
    for number in (0, len(lines) - 1):
        line = lines[number]
        for label, changed in changes(opened(line)):
            others = [*lines[:number], sealed(changed), *lines[number + 1 :]]
            yield f"record {number}: {label}", in_records(others)
            yield f"record {number}, again: {label}", in_records([*lines, sealed(changed)])
        yield f"record {number}: dropped", in_records(lines[:number] + lines[number + 1 :])
        yield f"record {number}: twice", in_records([*lines, line])
        yield f"record {number}: last", in_records([*lines[:number], *lines[number + 1 :], line])
        yield f"record {number}: no end", in_records([*lines[:number], line[:-9]])
        shard = directory / f"chunk-{opened(line)['chunk']:08d}.safetensors"
        for label, changed in other_tensors(shard.read_bytes(), chance):
            yield f"shard {number}: {label}", in_shard(number, changed)
    yield "records: reversed", in_records(lines[::-1])
    yield "records: none", in_records([])
    state = (directory / "state.safetensors").read_bytes()
    for label, changed in other_tensors(state, chance):
        yield f"state: {label}", in_state(changed)
    head, rest = header(state)
    facts = json.loads(head["__metadata__"]["facts"])
    for label, changed in changes(facts):
        data = tensors({**head, "__metadata__": {"facts": json.dumps(changed)}}, rest)
        yield f"facts: {label}", in_state(data)
        yield f"facts and manifest: {label}", in_state(data, **changed)
    for label, metadata in (("none", {}), ("text", {"facts": "x"}), ("list", {"facts": "[]"})):
        yield f"facts: {label}", in_state(tensors({**head, "__metadata__": metadata}, rest))
    for name in sorted(files(directory)):
        for label, replace in REPLACED.items():
            yield f"{name}: {label}", replaced(name, replace)


REPLACED = {
    "missing": lambda path: None,
    "directory": os.mkdir,
    "pipe": getattr(os, "mkfifo", lambda path: None),
    "loop": lambda path: os.symlink(path, path),
    "empty": lambda path: path.touch(),
}


def replaced(name, replace):
    def apply(directory):
        (directory / name).unlink()
        replace(directory / name)

    return apply


# --- how it ends --------------------------------------------------------------------------------

EXPLAINED = (store.Conflict, store.Corrupt, ValueError, drs.BadLogits, drs.Starvation)


def explained(error):
    return isinstance(error, EXPLAINED) or (isinstance(error, OSError) and bool(error.filename))


def outcome(call, *given):
    """The return value, or the error."""
    try:
        return call(*given)
    except Exception as error:
        return error


def judged(directory, kind, want, samples, scratch):
    """How the mutation of a run ends, in a few words.

    want, samples: the bytes of its files before, and those of its columns.
    """
    found, seen = outcome(store.verify, directory), outcome(read, directory)
    again = scratch / "again"
    shutil.copytree(directory, again, symlinks=True, copy_function=copied)
    gone_on = outcome(command, again, kind)
    same = files(again) == want
    errors = [error for error in (found, seen, gone_on) if isinstance(error, Exception)]
    shutil.rmtree(again)
    for error in errors:
        if not explained(error):
            return f"crash: {type(error).__name__}: {error}"
    if not isinstance(seen, Exception) and not all(
        samples[name].startswith(column) for name, column in seen.items()
    ):
        return "other samples"
    if found and store.mendable(directory):
        mended = scratch / "mended"
        shutil.copytree(directory, mended, symlinks=True, copy_function=copied)
        error = outcome(store.repair, mended)
        if isinstance(error, Exception):
            return f"repair fails: {error}"
        error = outcome(command, mended, kind)
        if isinstance(error, Exception):
            return f"repair does not help: {error}"
        if files(mended) != want:
            return "repair gives other bytes"
        shutil.rmtree(mended)
    if found:
        return "found"
    if isinstance(gone_on, Exception):
        return "refused"
    return "the same" if same else "accepted"


def copied(source, target):
    """Copies files and leaves pipes as they are."""
    if os.path.isfile(source):
        shutil.copy2(source, target)
    else:
        os.mkfifo(target)


# Other values of the right kind. That a run has them no other file tells, so it is another run.
POSSIBLE = re.compile(
    r"shard \d+: data byte"
    r"|state: data byte"
    r"|facts"
    r"|manifest: (above_share|acceptance_rate|calls_total|clipped|clipped_interval"
    r"|effective_samples|largest_weight|above_weight|tail_index|weighing) = "
    r"|manifest: probe_sha256 = (null|nothing)"  # as if the model gave other numbers in every call
    r"|manifest: (eps|weights_sha256) = nothing"  # as if there were none, or by an earlier version
    r"|record \d+: (cut = true|\w+ = 9223372036854775808)"
    r"|record \d+: (kept|capped|deepest|excess\w*|moves|unmoved|distinct) = nothing"  # as if 0
)


def check(makes, kind, unfinished, tmp_path, chosen=None):
    """Judges all or some mutations of a run; returns how they end."""
    run, want, samples = makes(kind, unfinished)
    every = list(mutations(run))
    if chosen is not None:
        every = random.Random(f"{kind} {unfinished}").sample(every, chosen)
    ends = Counter()
    for number, (what, mutate) in enumerate(every):
        directory = shutil.copytree(run, tmp_path / f"{number}" / "run")
        mutate(directory)
        end = judged(directory, kind, want, samples, directory.parent)
        if end in ("accepted", "other samples"):
            assert POSSIBLE.match(what), (what, end)
        else:
            assert end in ("found", "refused", "the same"), (what, end)
        ends[end] += 1
        shutil.rmtree(directory.parent)
    return ends


@pytest.mark.parametrize("unfinished", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_some_mutations(makes, kind, unfinished, tmp_path):
    assert check(makes, kind, unfinished, tmp_path, 19)["found"] >= 12


@pytest.mark.parametrize("what", ["facts: tuned = nothing", "facts and manifest: tallies = []"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_once_ended_in_a_traceback(makes, kind, tmp_path, what):
    run, want, samples = makes(kind, True)
    for number, (name, mutate) in enumerate(mutations(run)):
        if name == what:
            directory = shutil.copytree(run, tmp_path / f"{number}" / "run")
            mutate(directory)
            end = judged(directory, kind, want, samples, directory.parent)
            assert end in ("found", "refused", "accepted", "the same")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("unfinished", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_all_mutations(makes, kind, unfinished, tmp_path):
    ends = check(makes, kind, unfinished, tmp_path)
    assert ends["found"] > 0.8 * ends.total()


def test_a_sound_run_is_the_same(makes, tmp_path):
    run, want, samples = makes("plain", False)
    assert judged(run, "plain", want, samples, tmp_path) == "the same"
