"""What the files of a run must be, and what is said where they are not."""

import errno
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import pytest
import safetensors.torch
import torch
from runs import FACTS, QUICK, conditional, files, toy
from torch import Tensor

import drs_fast as drs
from benchmarks.common.by_hand import SPEC, tried
from drs_fast import store
from drs_fast.cli import main as cli
from drs_fast.core import layout
from drs_fast.core.layout import Layout, OfClasses, Scalar
from drs_fast.samplers.common.rejection import RejectionState
from drs_fast.samplers.drs import DRS
from drs_fast.store import manifest
from drs_fast.store.format import read_records, sealed, unsealed

KINDS = (manifest.Settings, manifest.Found, manifest.Totals)
TOTALS = {
    "proposals": 64,
    "invalid": 0,
    "above": 0,
    "calls_per_sample": 2.5,
    "calls_total": 64,
}
COMPLETE = {**SPEC, **FACTS, **TOTALS, "n": 3, "complete": True, "state_sha256": "0" * 64}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "run"
    drs.generate(toy(), QUICK, 250, out=out, batch_size=256, chunk_rows=256)
    return out


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run, to break."""
    return shutil.copytree(made, tmp_path / "run")


def go_on(run, n=250):
    return drs.generate(toy(), QUICK, n, out=run, batch_size=256, chunk_rows=256)


def change(run, **facts):
    path = run / "manifest.json"
    path.write_bytes(sealed({**unsealed(path.read_bytes(), 2), **facts}, 2))


# --- the manifest -------------------------------------------------------------------------------


def test_every_key_says_what_it_means():
    for described in KINDS:
        for key, hint in described.__annotations__.items():
            inner = getattr(hint, "__args__", (hint,))[0] if "NotRequired" in str(hint) else hint
            assert isinstance(inner.__metadata__[-1], str), key


def test_a_run_has_only_keys_that_are_described_and_numbers_of_its_state(made):
    described = set().union(*(kind.__annotations__ for kind in KINDS))
    assert drs.open(made).manifest.keys() <= described


@pytest.mark.parametrize("key", sorted(COMPLETE))
def test_a_key_of_another_kind_is_named_with_what_it_must_be(key):
    assert manifest.wrong(COMPLETE) == []
    for value in ({"a": 1}, float("nan"), [[]]):
        (problem,) = manifest.wrong({**COMPLETE, key: value})
        assert problem.startswith(f"{key} must be ")
        assert problem.endswith(f", got {json.dumps(value)}")
    if key not in ("log_m", "gamma", "state_sha256"):
        without = {name: value for name, value in COMPLETE.items() if name != key}
        assert manifest.wrong(without)[0].endswith("it is missing")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2**64),
        ("seed", True),
        ("n", 2**63),
        ("chunk_rows", 0),
        ("labels", 0),
        ("model_sha256", "0" * 63),
        ("model_sha256", "G" * 64),
        ("probe_sha256", "no"),
        ("save", "x"),
        ("save", [1]),
        ("label_weights", [None]),
        ("sampler", {"name": "DRS"}),
        ("sampler", {"name": "DRS", "law_version": 0}),
        ("clipped_interval", [0.5, 0.25]),
        ("calls_per_sample", -1),
        pytest.param("acceptance_rate", 10**400, id="more than a float holds"),
        ("label_weights", [0, 10**400]),
    ],
)
def test_ranges(key, value):
    assert len(manifest.wrong({**COMPLETE, key: value})) == 1


def test_phases():
    asked = {**SPEC, "n": 3, "complete": False}
    assert manifest.wrong(asked) == []
    assert "chunk_rows" in manifest.wrong({**asked, "state_sha256": "0" * 64})[0]
    assert "proposals" in manifest.wrong({**asked, "complete": True})[-1]
    assert manifest.wrong({**COMPLETE, "tallies": ["moves"]}) == [
        "moves must be an integer in [0, 2^127), got null"
    ]
    with pytest.raises(ValueError, match=r"cannot be written: seed must be an integer in \[0, 2"):
        manifest.written({**COMPLETE, "seed": None})


def test_unknown_keys_survive(run):
    change(run, of_a_later_version={"a": [1]})
    assert store.verify(run) == []
    assert drs.open(run).manifest["of_a_later_version"] == {"a": [1]}
    (run / "chunk-00000001.safetensors").unlink()
    store.repair(run)
    assert drs.open(run).manifest["of_a_later_version"] == {"a": [1]}


def test_a_wrong_type_is_corrupt_wherever_it_is_read(run):
    change(run, seed="7")
    message = r'manifest.json: seed must be an integer in \[0, 2\^64\), got "7"; restore a copy'
    for use in (drs.open, store.repair, go_on):
        with pytest.raises(store.Corrupt, match=message):
            use(run)
    assert "seed must be" in store.verify(run)[0]


# --- records ------------------------------------------------------------------------------------


def lines(run):
    return (run / "shards.jsonl").read_bytes().splitlines(keepends=True)


def put(run, *new):
    (run / "shards.jsonl").write_bytes(b"".join(new))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": None}, "rows must be an integer in [0, 2^63), got null"),
        ({"calls": 2**63}, "calls must be an integer in [0, 2^63), got 9223372036854775808"),
        ({"above": True}, "above must be an integer in [0, 2^63), got true"),
        ({"last_row": -2}, "last_row must be an integer in [-1, 2^63), got -2"),
        ({"sha256": "0"}, 'sha256 must be 64 hexadecimal digits, got "0"'),
        ({"moves": 1.5}, "moves must be an integer in [0, 2^127), got 1.5"),
        ({"moves": 10**400}, "moves must be an integer in [0, 2^127), got 1000"),
        ({"rows": 257}, "257 rows in a chunk of 256"),
        ({"rows": 255}, "255 rows in a chunk of 256"),
        ({"last_row": 256}, "names 256 as the last row"),
        ({"last_row": -1}, "names -1 as the last row"),
        ({"count": 257}, "257 samples from 256 rows"),
    ],
)
def test_records_are_possible(run, changes, message):
    want = files(run)
    first, *others = lines(run)
    put(run, sealed({**unsealed(first), **changes}), *others)
    assert "line 1 " in store.verify(run)[0]
    assert message in store.verify(run)[0]
    with pytest.raises(store.Corrupt, match="must hold 250 samples, got 0;"):
        drs.open(run)
    go_on(run)
    assert files(run) == want


def test_a_counter_that_is_missing_is_no_key_error(run):
    want = files(run)
    first, *others = lines(run)
    facts = unsealed(first)
    del facts["rows"]
    put(run, sealed(facts), *others)
    assert "rows must be an integer in [0, 2^63), it is missing" in store.verify(run)[0]
    go_on(run)
    assert files(run) == want


def test_lines_in_any_order_are_sound_and_put_in_order(run):
    want = files(run)
    put(run, *reversed(lines(run)))
    assert store.verify(run) == []
    assert list(read_records(run, None)[0]) == [0, 1, 2]
    assert len(drs.open(run)) == 250
    go_on(run)
    assert files(run) == want


def test_two_lines_for_a_chunk(run):
    want = files(run)
    all_lines = lines(run)
    put(run, *all_lines, all_lines[1])
    assert "names chunk 1 a second time" in store.verify(run)[0]
    assert len(drs.open(run)) == 250  # they say the same
    other = sealed({**unsealed(all_lines[1]), "calls": 7})
    for order in ((*all_lines, other), (other, *all_lines)):
        put(run, *order)
        assert "names chunk 1 a second time" in store.verify(run)[0]
        with pytest.raises(store.Corrupt, match="must hold 250 samples"):
            drs.open(run)
        store.repair(run)
        go_on(run)
        assert files(run) == want


def test_totals_that_the_records_do_not_add_up_to(run):
    change(run, proposals=3)
    message = r"manifest.json and shards.jsonl differ: proposals must be \d+, got 3; restore"
    for use in (store.repair, go_on):
        with pytest.raises(store.Corrupt, match=message):
            use(run)
    assert not store.mendable(run)


# --- shards -------------------------------------------------------------------------------------


def rewrite(run, chunk, change_tensors):
    """Other tensors in a shard, with all checksums made again."""
    path = run / f"chunk-{chunk:08d}.safetensors"
    data = safetensors.torch.save(change_tensors(safetensors.torch.load(path.read_bytes())))
    path.write_bytes(data)
    new = lines(run)
    sha256 = hashlib.sha256(data).hexdigest()
    new[chunk] = sealed({**unsealed(new[chunk]), "bytes": len(data), "sha256": sha256})
    put(run, *new)


OTHER_X = {
    "dtype": lambda t: {**t, "x": t["x"].view(torch.int32)},
    "wider": lambda t: {**t, "x": t["x"].double()},
    "shape": lambda t: {**t, "x": t["x"][:, :1].contiguous()},
    "none": lambda t: {"ids": t["ids"], "logit": t["logit"]},
}


@pytest.mark.parametrize("kind", OTHER_X)
@pytest.mark.parametrize("chunk", [0, 1])
def test_shards_that_differ_are_not_cast(run, kind, chunk):
    want = files(run)
    rewrite(run, chunk, OTHER_X[kind])
    with pytest.raises((store.Corrupt, AttributeError), match=r"shard|holds ids, logit, not x"):
        _ = drs.open(run).x[:]
    if kind != "none":
        with pytest.raises(
            store.Corrupt, match=r"chunk-0000000\d.* holds rows of .*the first shard"
        ):
            _ = drs.open(run).x[torch.arange(250)]
    assert any(
        "while other shards hold rows of another kind" in problem for problem in store.verify(run)
    )
    store.repair(run)
    go_on(run)
    assert files(run) == want


@pytest.mark.parametrize(
    ("name", "changed"),
    [("ids", torch.int32), ("logit", torch.float64), ("ids", torch.float64)],
)
def test_columns_have_their_dtypes(run, name, changed):
    rewrite(run, 0, lambda t: {**t, name: t[name].to(changed)})
    with pytest.raises(store.Corrupt, match=f"must hold (int64|float32) {name}"):
        drs.open(run)
    with pytest.raises(store.Corrupt, match=f"must hold (int64|float32) {name}"):
        go_on(run)


def test_a_generator_that_gives_other_rows_does_not_go_on(tmp_path):
    def generated(width):
        generator = lambda z: z.repeat(1, 2)[:, : int(os.environ["WIDTH"])]  # noqa: E731
        os.environ["WIDTH"] = str(width)
        gan = drs.GAN(generator, lambda x: x[:, 0], 2)
        return drs.generate(gan, QUICK, 250, out=tmp_path / "run", batch_size=256, chunk_rows=256)

    try:
        generated(2)
        with pytest.raises((store.Corrupt, store.Conflict), match=r"x float32 \(3,\)|another run"):
            generated(3)
    finally:
        del os.environ["WIDTH"]


FILES = ("manifest.json", "shards.jsonl", "state.safetensors", "chunk-00000001.safetensors")
INSTEAD = {
    "directory": os.mkdir,
    "pipe": lambda path: os.mkfifo(path),
    "loop": lambda path: os.symlink(path, path),
}


@pytest.mark.parametrize(("name", "instead"), list(itertools.product(FILES, INSTEAD)))
def test_what_is_no_file_is_corrupt_and_never_waited_for(run, name, instead):
    if instead == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("no pipes")
    (run / name).unlink()
    INSTEAD[instead](run / name)

    def read():
        samples = drs.open(run)
        return samples.x[:], samples.state

    for use in (read, lambda: go_on(run), lambda: store.repair(run)):
        with pytest.raises(store.Corrupt, match=f"{name} is (missing or )?not a file"):
            use()
    assert store.verify(run) == [f"{run / name} is not a file; move it away"]
    assert not store.mendable(run)


@pytest.mark.parametrize("size", [0, 4, 7, 2**62])
def test_headers_of_any_length(run, size):
    path = run / "chunk-00000001.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:size] if size < 8 else size.to_bytes(8, "little") + data[8:])
    with pytest.raises(store.Corrupt, match=r"chunk-00000001.safetensors cannot be read"):
        _ = drs.open(run).x[:]


def test_a_shard_that_is_cut_while_it_is_open_does_not_end_the_process(run):
    """A mapped file that becomes shorter is a bus error, which no one can catch."""
    code = f"""
import os
import drs_fast as drs
samples = drs.open({str(run)!r})
samples.x[:]
os.truncate({str(run / "chunk-00000000.safetensors")!r}, 100)
try:
    samples.x[:]
except drs.store.Corrupt as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.returncode
    assert "chunk-00000000.safetensors cannot be read" in done.stdout


def test_labels_are_in_range(tmp_path):
    sampler = DRS(burn_in=3000, classes="within")

    def generate(n):
        return drs.generate(
            conditional(), sampler, n, out=tmp_path / "run", batch_size=256, chunk_rows=256
        )

    generate(200)
    rewrite(tmp_path / "run", 0, lambda t: {**t, "y": t["y"] + 2})
    assert "must hold labels in [0, 3)" in store.verify(tmp_path / "run")[0]
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got 2 to 4"):
        generate(400)


# --- the state ----------------------------------------------------------------------------------


def with_state(run, change_tensors, **facts):
    """Another state, of which the manifest names the sha256."""
    path = run / "state.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        there = json.loads(file.metadata()["facts"])
    tensors = change_tensors(safetensors.torch.load(path.read_bytes()))
    metadata = {"facts": json.dumps({**there, **facts}, sort_keys=True)}
    data = safetensors.torch.save(tensors, metadata)
    path.write_bytes(data)
    change(run, state_sha256=hashlib.sha256(data).hexdigest(), **facts)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda t: {**t, "logits": t["logits"].double()}, r"logits must be float32 \(n\)"),
        (lambda t: {**t, "logits": t["logits"][None]}, r"got float32 \(1, 2048\)"),
        (lambda t: {**t, "proposed": torch.ones(3).double()}, "proposed must be float64"),
        (lambda t: {k: v for k, v in t.items() if k != "logits"}, "logits is missing"),
        (lambda t: {**t, "more": torch.zeros(3)}, "more is not known"),
    ],
)
def test_a_state_that_is_none_of_the_sampler(run, changed, message):
    with_state(run, changed)
    for n in (250, 400):
        with pytest.raises(store.Corrupt, match=message):
            go_on(run, n)


@pytest.mark.parametrize(
    ("changed", "facts", "message"),
    [
        (lambda t: {**t, "log_m": t["log_m"].view(torch.int64)}, {}, "log_m must be"),
        (lambda t: {**t, "gamma": t["gamma"] + 1.0}, {}, "gamma must be"),
        (lambda t: t, {"group": 0}, r"group must be an integer in \[1, 2\^63\), got 0"),
    ],
)
def test_a_state_that_differs_from_what_is_said_of_it(run, changed, facts, message):
    with_state(run, changed, **facts)
    for use in (go_on, store.repair):
        with pytest.raises(store.Corrupt, match=message):
            use(run)
    assert not store.mendable(run)


def test_layouts():
    class State(NamedTuple):
        one: Scalar
        some: OfClasses
        pairs: Annotated[Tensor, Layout(torch.float32, (("m", 2),))]
        names: Annotated[Tensor, Layout(torch.int64, (("m",),))]
        own: Tensor
        added: Tensor = torch.zeros(1)

    number = torch.tensor(1.0).double()
    good = {
        "one": number,
        "some": number.expand(3),
        "pairs": torch.zeros(5, 2),
        "names": torch.arange(5),
        "own": torch.zeros(7),
    }
    assert layout.unlike(State, good, 3) == []
    assert layout.unlike(State, {**good, "some": number}, None) == []
    assert layout.unlike(State, good, 4) == ["some must be float64 () or (K), got float64 (3,)"]
    assert (
        "names must be int64 (m)" in layout.unlike(State, {**good, "names": torch.arange(4)}, 3)[0]
    )
    assert len(layout.unlike(State, {**good, "pairs": torch.zeros(5, 3)}, 3)) == 1


def test_states_of_samplers_have_layouts():
    for name in drs.samplers.NAMES:
        state = drs.samplers.get(name).State
        empty = {field: torch.zeros(2, 2, 2, 2) for field in state._fields}
        assert len(layout.unlike(state, empty, None)) == len(empty)
    assert RejectionState in {drs.samplers.get(name).State for name in drs.samplers.NAMES}


# --- what is advised ----------------------------------------------------------------------------


def test_repair_is_advised_where_it_helps(run, capsys):
    want = files(run)
    (run / "chunk-00000001.safetensors").unlink()
    assert cli.main(["verify", str(run)]) == 6
    assert (
        "problem; run `verify --repair`, then the same generate command" in capsys.readouterr().err
    )
    assert cli.main(["verify", str(run), "--repair"]) == 0
    go_on(run)
    assert files(run) == want


@pytest.mark.parametrize(
    ("mutate", "helps"),
    [
        (lambda run: change(run, seed=-1), "restore a copy, or start over"),
        (lambda run: change(run, law="x"), "restore a copy, or start over"),
        (lambda run: (run / "manifest.json").write_bytes(b'{"crc32":'), "restore a copy"),
        (lambda run: (run / "manifest.json").write_bytes(b"{}"), "restore a copy"),
        (lambda run: os.mkdir(run / "chunk-00000009.safetensors"), "move it away"),
    ],
)
def test_repair_is_not_advised_where_it_cannot_help(run, capsys, mutate, helps):
    mutate(run)
    before = files(run / ".") if not (run / "chunk-00000009.safetensors").exists() else None
    assert cli.main(["verify", str(run)]) == 6
    said = capsys.readouterr()
    assert "`verify --repair` cannot fix this" in said.err
    assert helps in said.out
    assert cli.main(["verify", str(run), "--repair"]) in (6, 7)
    assert before is None or files(run) == before


def test_what_a_writer_is_given_is_checked(tmp_path):
    with pytest.raises(ValueError, match="cannot be written: batch_size must be"):
        store.Writer.open(tmp_path / "out", {**SPEC, "batch_size": 0}, 3)
    with store.Writer.open(tmp_path / "out", SPEC, 3) as writer:
        with pytest.raises(ValueError, match="no state has been saved in"):
            _ = writer.facts
        columns = {"ids": torch.arange(3)}
        for counters in ({}, {**tried(64), "rows": -1}, {**tried(64), "moves": 0.5}):
            with pytest.raises(ValueError, match="a record cannot be written: "):
                writer.append(0, columns, cut=False, counters=counters)


@pytest.mark.parametrize(
    "name", ["chunk-00000000.safetensors", "state.safetensors", "shards.jsonl"]
)
def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch, name):
    path = tmp_path / "run"
    drs.generate(toy(), QUICK, 300, out=path, chunk_rows=256)
    before, opened = files(path), Path.open

    def refused(file, *how, **more):
        if file.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opened(file, *how, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        for look in (store.verify, store.repair):
            with pytest.raises(PermissionError):
                look(path)
        assert cli.main(["verify", str(path)]) == 5
        assert cli.main(["verify", "--repair", str(path)]) == 5
    assert files(path) == before
    assert store.verify(path) == []


def test_a_directory_whose_files_may_not_be_looked_at_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "run"
    drs.generate(toy(), QUICK, 300, out=path, chunk_rows=256)
    stat = os.stat

    def refused(file, **how):
        if str(file).endswith("chunk-00000000.safetensors"):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return stat(file, **how)

    monkeypatch.setattr(os, "stat", refused)
    for look in (store.verify, store.repair):
        with pytest.raises(PermissionError):
            look(path)


def test_a_run_that_changes_while_it_is_opened_is_read_again(tmp_path, monkeypatch):
    """The writer that extends it drops the record of the cut shard, after the manifest was read."""
    path = tmp_path / "run"
    drs.generate(toy(), QUICK, 300, out=path, chunk_rows=256)
    module, extended = sys.modules["drs_fast.store.samples"], []
    read = module.read_records

    def meanwhile(directory, chunk_rows):
        if not extended:
            extended.append(1)
            drs.generate(toy(), QUICK, 600, out=path, chunk_rows=256)
        return read(directory, chunk_rows)

    monkeypatch.setattr(module, "read_records", meanwhile)
    assert len(drs.open(path)) == 600


def test_a_name_that_is_not_utf8_is_refused_before_the_work(tmp_path):
    name = tmp_path / b"run\xff".decode("utf-8", "surrogateescape")
    with pytest.raises(ValueError, match="a name in UTF-8 was expected"):
        drs.generate(toy(), QUICK, 300, out=name)
    assert list(tmp_path.iterdir()) == []
