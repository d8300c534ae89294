"""Whatever bytes the files of a run hold, they are read, or refused in words.

test_mutations.py changes one thing of a run in every way that could pass for another run; here is
everything else.
"""

import hashlib
import json
import os
import shutil

import pytest
from fuzzing import CHANGED, SIZES, TEXTS, VALUES, amounts, ended, tried
from hypothesis import strategies as st
from runs import QUICK, same_files, toy

import drs_fast as drs
from drs_fast import store
from drs_fast.cli import main as cli
from drs_fast.store.format import Conflict, Corrupt, Record, read_records, sealed
from drs_fast.store.manifest import read_manifest
from drs_fast.store.tensors import DTYPES, Tensors, open_shard

MANIFEST, RECORDS, STATE = "manifest.json", "shards.jsonl", "state.safetensors"
SHARD, SECONDS = "chunk-00000000.safetensors", "seconds.json"
CODES = {0, 2, 5, 6, 7}
RECORD = {
    "chunk": 0,
    "count": 3,
    "bytes": 100,
    "sha256": "0" * 64,
    "cut": False,
    "rows": 256,
    "calls": 256,
    "invalid": 0,
    "above": 0,
    "last_row": 9,
}


def generate(out):
    return drs.generate(toy(), QUICK, 90, out=out, save=("x", "logit"), chunk_rows=256)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The bytes of a run of a few shards, by file."""
    out = tmp_path_factory.mktemp("made") / "run"
    generate(out)
    return {path.name: path.read_bytes() for path in same_files(out)}


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A function that makes the run anew, with other bytes in some files."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    out = tmp_path / "run"

    def again(others):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for name, data in {**made, **others}.items():
            (out / name).write_bytes(data)
        return out

    return again


def opened(data):
    facts = json.loads(data)
    del facts["crc32"]
    return facts


def closed(facts, indent=None):
    """Sealed facts; some that JSON cannot hold are other damage."""
    try:
        return sealed(facts, indent)
    except ValueError:
        return repr(facts).encode(errors="replace")


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def looked_at(out):
    """Everything that reads a run changes nothing."""
    before = contents(out)
    with CHANGED.within(out):
        for look in (store.verify, store.recorded, store.mendable, columns):
            ended(look, out)
    assert contents(out) == before


def columns(out):
    samples = drs.open(out)
    for name in samples.columns:
        ended(lambda name=name: samples.column(name)[:])
    ended(lambda: samples.weight[:])
    return ended(lambda: samples.state), samples.seconds


def gone_on(out):
    """The command that made the run goes on with it, or refuses, and then all is as it was."""
    before = contents(out)
    with CHANGED.within(out):
        found = ended(generate, out)
    if isinstance(found, Exception):
        there = contents(out)
        assert {name: there.get(name) for name in before if name != SECONDS} == before
    else:
        assert len(found) == 90  # whether its bytes are right, verify says
        assert before.get("notes.txt") == contents(out).get("notes.txt")


def with_shard(made, data):
    """Files in which a shard holds these bytes, and its record knows them."""
    lines = made[RECORDS].splitlines(keepends=True)
    record = opened(lines[0])
    record |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return {SHARD: data, RECORDS: b"".join([sealed(record), *lines[1:]])}


def with_state(made, data):
    facts = opened(made[MANIFEST])
    facts["state_sha256"] = hashlib.sha256(data).hexdigest()
    return {STATE: data, MANIFEST: sealed(facts, 2)}


def file_of(head, data):
    """A safetensors file, whatever its header says."""
    text = json.dumps(head).encode() if isinstance(head, dict) else head
    return len(text).to_bytes(8, "little") + text + data


KINDS = st.one_of(
    st.sampled_from([*DTYPES, "F4", "F6_E2M3", "F8_E8M0", "F8_E5M2FNUZ"]), TEXTS, VALUES
)
TENSOR = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": KINDS,
            "shape": st.one_of(st.lists(SIZES, max_size=3), VALUES),
            "data_offsets": st.one_of(st.lists(SIZES, min_size=2, max_size=2), VALUES),
        }
    ),
    VALUES,
)
# Rows of no bytes, and claims that no disk can hold.
EMPTY = st.builds(
    lambda kind, shape: {"dtype": kind, "shape": shape, "data_offsets": [0, 0]},
    st.sampled_from(list(DTYPES)),
    st.lists(st.sampled_from((0, 0, 1, 32, 2**40, 2**60, 2**63 - 1)), min_size=1, max_size=4),
)
HEADERS = st.dictionaries(
    st.one_of(st.sampled_from(("ids", "x", "logit", "z", "y", "__metadata__")), TEXTS),
    st.one_of(TENSOR, EMPTY),
    max_size=4,
)
FILES = st.one_of(
    st.binary(max_size=80),
    st.builds(lambda size, rest: size.to_bytes(8, "little") + rest,
              st.sampled_from((0, 2, 2**20, 10**8, 2**60, 2**64 - 1)), st.binary(max_size=40)),
    st.builds(file_of, st.one_of(HEADERS, st.binary(max_size=80)), st.binary(max_size=64)),
)  # fmt: skip


def changed_head(data, changes):
    """The file with other entries in the header."""
    size = int.from_bytes(data[:8], "little")
    return file_of({**json.loads(data[8 : 8 + size]), **changes}, data[8 + size :])


FACTS = st.one_of(
    st.dictionaries(st.one_of(st.sampled_from(list(RECORD)), TEXTS), VALUES, max_size=4).map(
        lambda changes: {**RECORD, **changes}
    ),
    VALUES.filter(lambda value: isinstance(value, dict)),
)
JSON = VALUES.map(lambda value: json.dumps(value).encode())
LINES = st.one_of(st.binary(max_size=60), JSON, FACTS.map(closed))


@amounts(200, 30_000)
def test_a_line_is_a_record_or_refused(amount):
    def check(line):
        found = ended(Record.parse, line, errors=(Corrupt,))
        if isinstance(found, Record):
            assert found.line() == line
            ended(found.check, 256, errors=(Corrupt,))

    tried(amount, LINES, check)


@amounts(60, 10_000)
def test_records(amount, tmp_path):
    def check(lines):
        (tmp_path / RECORDS).write_bytes(b"".join(lines))
        records, problems = read_records(tmp_path, 256)
        assert len(records) + len(problems) <= len(b"".join(lines).splitlines())

    tried(amount, st.lists(LINES, max_size=4), check)


@amounts(100, 15_000)
def test_manifests(amount, made, tmp_path):
    """Read alone, because verify of a damaged one ends there."""

    def check(data):
        (tmp_path / MANIFEST).write_bytes(data)
        ended(read_manifest, tmp_path, errors=(Corrupt, Conflict))

    tried(amount, st.one_of(st.binary(max_size=80), changed_manifests(made)), check)


def changed_manifests(made):
    facts = opened(made[MANIFEST])
    keys = st.one_of(st.sampled_from(list(facts)), TEXTS)
    return st.dictionaries(keys, VALUES, min_size=1, max_size=2).map(
        lambda changes: closed({**facts, **changes}, 2)
    )


@amounts(100, 15_000)
def test_tensor_files(amount, made, tmp_path):
    def check(data):
        path = tmp_path / SHARD
        path.write_bytes(data)
        file = ended(Tensors, path, errors=(Corrupt,))
        if isinstance(file, Tensors):
            for name in file.layout:
                ended(file.tensor, name, errors=(Corrupt,))
            ended(open_shard, path, 3, errors=(Corrupt,))

    heads = st.dictionaries(st.sampled_from(("ids", "x", "other")), TENSOR | EMPTY, min_size=1)
    changed = heads.map(lambda changes: changed_head(made[SHARD], changes))
    tried(amount, st.one_of(FILES, changed), check)


@amounts(12, 1500)
@pytest.mark.parametrize("kind", ["manifest", "record", "shard", "state", "seconds", "other"])
def test_runs(amount, kind, made, run):
    """All that reads a run, and the command that goes on with it."""
    record = opened(made[RECORDS].splitlines()[0])
    rest = made[RECORDS].splitlines(keepends=True)[1:]
    strategies = {
        "manifest": changed_manifests(made).map(lambda data: {MANIFEST: data}),
        "record": st.dictionaries(st.one_of(st.sampled_from(list(record)), TEXTS), VALUES).map(
            lambda changes: {RECORDS: b"".join([closed({**record, **changes}), *rest])}
        ),
        "shard": st.one_of(
            FILES,
            st.dictionaries(st.sampled_from(("x", "logit", "w")), EMPTY | TENSOR, min_size=1).map(
                lambda changes: changed_head(made[SHARD], changes)
            ),
        ).map(lambda data: with_shard(made, data)),
        "state": st.one_of(
            FILES,
            st.dictionaries(st.sampled_from(("log_m", "logit")), EMPTY | TENSOR, min_size=1).map(
                lambda changes: changed_head(made[STATE], changes)
            ),
        ).map(lambda data: with_state(made, data)),
        "seconds": st.one_of(
            st.binary(max_size=40),
            st.dictionaries(st.text(max_size=4), SIZES | st.floats(), max_size=3).map(
                lambda facts: json.dumps(facts).encode() if 10**400 not in facts.values() else b"{"
            ),
            st.integers(1, 5000).map(lambda depth: b"[" * depth),
        ).map(lambda data: {SECONDS: data}),
        "other": st.dictionaries(
            st.sampled_from(
                ("chunk-99999999999999999999.safetensors", "chunk-00000077.safetensors",
                 "chunk-00000000.safetensors.tmp", "manifest.json.tmp", "notes.txt")
            ),
            st.binary(max_size=20),
        ),
    }  # fmt: skip

    def check(others):
        looked_at(run(others))
        gone_on(run(others))

    tried(amount, strategies[kind], check)


@amounts(25, 3000)
def test_the_command_line_says_what_is_wrong(amount, made, run, capsys):
    def check(case):
        words, others = case
        out = run(others)
        with CHANGED.within(out.parent):
            assert cli.main([*words, str(out)]) in CODES
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err

    others = st.one_of(
        changed_manifests(made).map(lambda data: {MANIFEST: data}),
        FILES.map(lambda data: with_shard(made, data)),
        FILES.map(lambda data: with_state(made, data)),
        st.binary(max_size=40).map(lambda data: {RECORDS: data}),
    )
    commands = st.sampled_from((("verify",), ("verify", "--repair"), ("report",)))
    tried(amount, st.tuples(commands, others), check)
