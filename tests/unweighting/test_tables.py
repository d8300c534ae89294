"""drs-fast unweight: of a file the same rows as of its columns, and nothing else changes."""

import datetime
import decimal
import io
import os
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import drs_fast as drs
from drs_fast.cli import main as cli
from drs_fast.store import once
from drs_fast.unweighting import maximum, npy, numpy_files, parquet, tables
from drs_fast.unweighting.decision import Decision, Selection
from drs_fast.unweighting.tables import unweight_file

N = 3_000
RNG = np.random.default_rng(5)
LOG_WEIGHT = RNG.normal(size=N)
KINDS = {
    parquet.Parquet: "t.parquet",
    numpy_files.Structured: "rows.npy",
    numpy_files.Archive: "plain.npz",
}
COUNT = len(drs.unweight(LOG_WEIGHT, seed=2).ids)


def arrow_table():
    """Columns of every kind that is written to Parquet."""
    start = datetime.datetime(2020, 1, 1)
    rows = range(N)
    columns = {
        "lw": pa.array(LOG_WEIGHT),
        "half": pa.array(LOG_WEIGHT.astype(np.float16)),
        "dictionary": pa.array(["a", "b", None] * (N // 3)).dictionary_encode(),
        "list": pa.array([[i, None] if i % 4 else None for i in rows]),
        "struct": pa.array([{"a": i, "b": {"c": [str(i)]}} for i in rows]),
        "zoned": pa.array([start] * N, pa.timestamp("ns", "Europe/Berlin")),
        "seconds": pa.array([start] * N, pa.timestamp("s")),
        "decimal": pa.array([decimal.Decimal(i) / 4 for i in rows], pa.decimal128(10, 2)),
        "map": pa.array([[("k", i)] for i in rows], pa.map_(pa.string(), pa.int16())),
        "pair": pa.array([[i, i + 1] for i in rows], pa.list_(pa.float32(), 2)),
        "large": pa.array([f"{i}" for i in rows], pa.large_string()),
        "view": pa.array([f"{i}" for i in rows], pa.string_view()),
        "bytes": pa.array([b"ab"] * N, pa.binary(2)),
        "nulls": pa.nulls(N),
        "labels": pa.array([["a", "b"]] * N).cast(pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        "with.dot": pa.array(rows, pa.uint32()),
    }
    made = pa.table(columns)
    energy = made.schema.field("with.dot").with_metadata({"unit": "GeV"})
    schema = made.schema.set(made.schema.get_field_index("with.dot"), energy)
    return made.cast(schema.with_metadata({"written by": "the tests"}))


@pytest.fixture
def files(tmp_path):
    """The same table as each kind of file."""
    codecs = {"lw": "gzip", "large": "zstd", "dictionary": "brotli"}
    pq.write_table(arrow_table(), tmp_path / "t.parquet", compression=codecs, row_group_size=1000)
    wide = RNG.normal(size=(N, 2, 3)).astype(np.float32)
    columns = {"lw": LOG_WEIGHT, "x": np.asfortranarray(wide), "i": np.arange(N), "version": 3.0}
    np.savez(tmp_path / "plain.npz", **columns, name=np.array([f"{i}" for i in range(N)]))
    np.savez_compressed(tmp_path / "packed.npz", **columns)
    fields = [("lw", ">f8"), ("x", "f4", (2, 3)), ("name", "U5"), ("été", "?")]
    rows = np.zeros(N, dtype=np.dtype(fields, align=True))
    rows["lw"], rows["x"], rows["name"] = LOG_WEIGHT, wide, np.arange(N).astype(str)
    np.save(tmp_path / "rows.npy", rows)
    return tmp_path


@pytest.fixture
def run(files, capsys, monkeypatch):
    """Runs a command in the files' folder and returns (exit code, output, errors)."""
    monkeypatch.chdir(files)

    def command(words):
        try:
            code = cli.main(words.split())
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return command


def small(monkeypatch, size=170):
    """Batches far smaller than the table."""
    monkeypatch.setattr(parquet, "BATCH", size)
    monkeypatch.setattr(npy, "BYTES", 24 * size)


def test_parquet(run, files, monkeypatch):
    small(monkeypatch)
    code, out, _ = run("unweight t.parquet --log-weight lw --seed 2 --out kept.parquet --weight w")
    assert code == 0
    assert f"{COUNT} of 3,000 rows" in out
    source, kept = pq.read_table("t.parquet"), pq.read_table("kept.parquet")
    found = drs.unweight(LOG_WEIGHT, seed=2, weighted=True)
    assert np.array_equal(kept["w"].to_numpy(), found.weight)
    assert found.weight.max() > 1.0
    kept = kept.drop_columns("w")
    assert kept.schema.equals(source.schema, check_metadata=True)
    for name in source.column_names:
        values = source[name].to_pylist()
        assert str(kept[name].to_pylist()) == str([values[i] for i in found.ids]), name
    before, after = (pq.ParquetFile(name).metadata for name in ("t.parquet", "kept.parquet"))
    for i in range(before.num_columns):
        chunk = before.row_group(0).column(i)
        assert after.row_group(0).column(i).compression == chunk.compression
    assert after.num_row_groups == 1
    run("unweight t.parquet --log-weight lw --seed 2 --log-max -2 --out most.parquet")
    most, ids = pq.ParquetFile("most.parquet"), drs.unweight(LOG_WEIGHT, seed=2, log_max=-2.0).ids
    assert most.read(["with.dot"])["with.dot"].to_pylist() == ids.tolist()
    assert most.metadata.num_row_groups == 3  # of 1,000 rows or a batch more
    run("unweight t.parquet --log-weight half --seed 2 --out half.parquet")
    half = drs.unweight(LOG_WEIGHT.astype(np.float16), seed=2)
    assert pq.read_table("half.parquet")["with.dot"].to_pylist() == half.ids.tolist()
    assert pq.read_schema("half.parquet").equals(source.schema, check_metadata=True)


@pytest.mark.parametrize("name", ["plain.npz", "packed.npz"])
def test_npz(name, run, monkeypatch):
    small(monkeypatch)
    assert run(f"unweight {name} --log-weight lw --seed 2 --out kept.npz --weight w")[0] == 0
    source, kept = np.load(name), np.load("kept.npz")
    found = drs.unweight(LOG_WEIGHT, seed=2, weighted=True)
    assert list(kept) == [*source, "w"]
    assert np.array_equal(kept["w"], found.weight)
    assert kept["version"] == 3.0
    for column in set(source) - {"version"}:
        assert kept[column].dtype == source[column].dtype
        assert np.array_equal(kept[column], source[column][found.ids])
    kinds = {info.compress_type for info in zipfile.ZipFile(name).infolist()}
    assert {info.compress_type for info in zipfile.ZipFile("kept.npz").infolist()} == kinds
    run(f"unweight {name} --log-weight lw --seed 2 --out again.npz --weight w")
    with open("kept.npz", "rb") as first, open("again.npz", "rb") as second:
        assert first.read() == second.read()


def test_npy(run, monkeypatch):
    small(monkeypatch)
    assert run("unweight rows.npy --log-weight lw --seed 2 --out kept.npy")[0] == 0
    source, kept = np.load("rows.npy"), np.load("kept.npy")
    found = drs.unweight(LOG_WEIGHT, source, seed=2, weighted=True)
    assert kept.dtype == source.dtype
    assert np.array_equal(kept, found.rows[0])
    run("unweight rows.npy --log-weight lw --seed 2 --out more.npy --weight w")
    more = np.load("more.npy")
    assert more.dtype.names == ("lw", "x", "name", "été", "w")
    assert np.array_equal(more["w"], found.weight)
    for name in source.dtype.names:
        assert more.dtype[name] == source.dtype[name]
        assert np.array_equal(more[name], source[name][found.ids])


@pytest.mark.parametrize("dtype", ["f8", "U3", [("a", "<f4"), ("b", "i1", (2,))], [("é", "?")]])
@pytest.mark.parametrize("shape", [(0,), (7,), (5, 1, 2)])
def test_headers_are_those_of_numpy(dtype, shape):
    array = np.zeros(shape, dtype)
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    ours = io.BytesIO(npy.header_bytes(array.dtype, shape) + array.tobytes())
    assert np.array_equal(np.load(ours), array)
    stream.seek(0)
    assert npy.read_header(stream, "it") == npy.Header(array.dtype, shape, False)


@pytest.mark.parametrize("name", ["t.parquet", "plain.npz", "rows.npy"])
def test_the_first_n(name, run, monkeypatch):
    small(monkeypatch)
    end = name.partition(".")[2]
    words = f"unweight {name} --log-weight lw --seed 2"
    found = drs.unweight(LOG_WEIGHT, LOG_WEIGHT, seed=2)
    for n in (0, 1, 100, COUNT):
        code, out, _ = run(f"{words} -n {n} --out {n}.{end}")
        assert code == 0
        tried = 0 if n == 0 else found.ids[n - 1] + 1
        assert f"{n} of {tried:,} rows" in out
        kept = pq.read_table(f"{n}.{end}") if end == "parquet" else np.load(f"{n}.{end}")
        assert np.array_equal(np.asarray(kept["lw"]), found.rows[0][:n])
    code, _, error = run(f"{words} -n {COUNT + 1} --out more.{end}")
    assert code == 4
    assert f"{COUNT} of 3,000 rows were accepted, fewer than {COUNT + 1}; leave -n out" in error


def test_settings_reach_the_decision(run):
    run("unweight rows.npy --log-weight lw --out a.npy --log-max 1.5 --quiet")
    assert np.array_equal(
        np.load("a.npy")["lw"], LOG_WEIGHT[drs.unweight(LOG_WEIGHT, log_max=1.5).ids]
    )
    _, out, _ = run("unweight rows.npy --log-weight lw --out b.npy --max-overweight 0.1 --seed 4")
    found = drs.unweight(LOG_WEIGHT, max_overweight=0.1, seed=4, weighted=True)
    assert np.array_equal(np.load("b.npy")["lw"], LOG_WEIGHT[found.ids])
    above = (found.log_max < LOG_WEIGHT).sum()
    lost = f"{above} rows lie above it, and 10.000% of the weight, which"
    assert f"log_max: {found.log_max!r}; {lost} is lost" in out
    words = "unweight rows.npy --log-weight lw --max-overweight 0.1 --weight w --out c.npy"
    assert f"{lost} the column 'w' makes up for" in run(words)[1]
    _, out, _ = run("unweight rows.npy --log-weight lw --max-overweight 0 --out d.npy")
    assert "; no row lies above it" in out


@pytest.mark.parametrize("n", [0, 4])
def test_tables_without_a_kept_row(n, run):
    none = np.full(n, -np.inf)
    pq.write_table(pa.table({"lw": none, "s": ["x"] * n}), "none.parquet")
    np.savez("none.npz", lw=none, x=np.zeros((n, 3)))
    for end in ("parquet", "npz"):
        assert run(f"unweight none.{end} --log-weight lw --out kept.{end} --weight w")[0] == 0
    assert pq.read_table("kept.parquet").num_rows == 0
    assert np.load("kept.npz")["x"].shape == (0, 3)


ROWS = 2**20
FLAT = 16_000_000  # bytes; what reads a column at once takes twice as much

ARROWS_PEAK = """
import pyarrow
from drs_fast.unweighting import parquet
from drs_fast.unweighting.tables import unweight_file

parquet.BATCH = 2**14
unweight_file("t.parquet", "lw", "kept.parquet")
print(pyarrow.default_memory_pool().max_memory())
"""


def test_memory_is_flat(tmp_path, monkeypatch):
    small(monkeypatch, 2**14)
    columns = {name: RNG.normal(size=ROWS) for name in ("a", "b", "lw")}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=ROWS)
    np.savez(tmp_path / "t.npz", **columns)
    del columns
    # In a process of its own, because Arrow's peak cannot be set back.
    done = subprocess.run(
        [sys.executable, "-c", ARROWS_PEAK],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0 < int(done.stdout) < FLAT
    tracemalloc.start()
    try:
        unweight_file(tmp_path / "t.npz", "lw", tmp_path / "kept.npz")
        assert tracemalloc.get_traced_memory()[1] < FLAT
    finally:
        tracemalloc.stop()


def damage(name):
    """Cuts a file, and changes a byte in the middle of another."""
    with open(name, "rb") as file:
        data = file.read()
    with open(f"cut-{name}", "wb") as file:
        file.write(data[: len(data) // 2])
    middle = len(data) // 2
    with open(f"changed-{name}", "wb") as file:
        file.write(data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("t.parquet --log-weight nope", 2, "has no column 'nope'; it has lw, half, dict"),
        ("plain.npz --log-weight nope", 2, "it has lw, x, i, version, name"),
        (
            "plain.npz --log-weight version",
            2,
            "'version' must be (n,) floats, got what has no rows",
        ),
        ("plain.npz --log-weight lw --weight version", 2, "has a column 'version'; choose another"),
        ("noted.npz --log-weight lw --weight notes", 2, "has a column 'notes'; choose another"),
        ("rows.npy --log-weight nope", 2, "it has lw, x, name, été"),
        ("t.parquet --log-weight large", 2, "'large' must be float16, float32 or float64, got la"),
        ("plain.npz --log-weight i", 2, "'i' must be (n,) float16, float32 or float64, got int64"),
        ("plain.npz --log-weight x", 2, "got (3000, 2, 3) float32"),
        ("rows.npy --log-weight x", 2, "'x' must be (n,) float16, float32 or float64, got ('<f4'"),
        ("t.parquet --log-weight lw --weight half", 2, "has a column 'half'; choose another"),
        ("t.parquet --log-weight lw --out t.parquet", 2, "is the file to read; write to another"),
        ("t.parquet --log-weight lw --out other.parquet", 2, "exists; choose another name"),
        ("t.parquet --log-weight lw --out kept.npz", 2, "must end with '.parquet'"),
        ("t.parquet --log-weight lw --max-overweight 2", 2, "max_overweight must be a finite"),
        ("t.parquet --log-weight lw --log-max nan", 2, "log_max must be a finite number"),
        (
            "t.parquet --log-weight lw --log-max 1 --max-overweight 0",
            2,
            "log_max or max_overweight",
        ),
        ("t.parquet --log-weight lw --seed -1", 2, "seed"),
        ("t.parquet --log-weight lw -n -1", 2, "n must be an integer >= 0"),
        ("missing.parquet --log-weight lw", 5, "No such file"),
        ("text.parquet --log-weight lw", 2, "must be a Parquet, .npz or .npy file; it begins"),
        ("matrix.npy --log-weight lw", 2, "structured array (n,), whose fields are columns, got"),
        ("ragged.npz --log-weight lw", 2, "3000 rows, as 'lw' has, got (2,) for 'a'"),
        ("objects.npz --log-weight lw", 2, "a.npy in objects.npz holds Python objects"),
        ("nan.parquet --log-weight lw", 2, "got nan in row 1"),
        ("nan.npz --log-weight lw", 2, "got inf in row 2"),
        ("nan.npz --log-weight lw --log-max 1", 2, "got inf in row 2"),
        ("cut-t.parquet --log-weight lw", 6, "cut-t.parquet is damaged"),
        ("cut-plain.npz --log-weight lw", 6, "cut-plain.npz is damaged"),
        ("cut-rows.npy --log-weight lw", 6, "cut-rows.npy is damaged: it ends too early"),
        ("changed-plain.npz --log-weight lw", 6, "changed-plain.npz is damaged: Bad CRC-32"),
        ("long.npy --log-weight lw", 6, "it goes on after its last row"),
    ],
)
def test_errors(words, code, message, run, files):
    pq.write_table(pa.table({"lw": [1.0]}), "other.parquet")
    pq.write_table(pa.table({"lw": [1.0, None]}), "nan.parquet")
    np.savez("nan.npz", lw=np.array([0.0, 1.0, np.inf]))
    np.savez("ragged.npz", lw=LOG_WEIGHT, a=np.zeros(2))
    np.savez("objects.npz", lw=LOG_WEIGHT, a=np.array([{}] * N))
    np.savez("noted.npz", lw=LOG_WEIGHT)
    with zipfile.ZipFile("noted.npz", "a") as archive:
        archive.writestr("notes", "of the run")
    np.save("matrix.npy", np.zeros((3, 3)))
    (files / "text.parquet").write_text("a,b\n1,2\n")
    for name in ("t.parquet", "plain.npz", "rows.npy"):
        damage(name)
    (files / "long.npy").write_bytes((files / "rows.npy").read_bytes() + b"x")
    there = sorted(files.iterdir())
    end = words.partition(" ")[0].rpartition(".")[2]
    out = "" if "--out" in words else f" --out kept.{end}"
    found, _, error = run(f"unweight {words}{out}")
    assert message in error
    assert found == code
    assert sorted(files.iterdir()) == there


def test_without_pyarrow(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, error = run("unweight t.parquet --log-weight lw --out kept.parquet")
    assert (code, "pip install 'drs_fast[parquet]'" in error) == (2, True)
    assert run("unweight plain.npz --log-weight lw --out kept.npz")[0] == 0


def test_an_error_on_the_way_leaves_nothing(run, files, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    there = sorted(files.iterdir())
    monkeypatch.setattr(parquet.Parquet, "_write_group", full)
    for kind in (numpy_files.Structured, numpy_files.Archive):
        monkeypatch.setattr(kind, "write", full)
    for name in ("t.parquet", "plain.npz", "rows.npy"):
        end = name.partition(".")[2]
        assert run(f"unweight {name} --log-weight lw --out kept.{end}")[0] == 5
    assert sorted(files.iterdir()) == there


def test_a_file_that_changes_is_noticed(files, monkeypatch):
    for kind, name in KINDS.items():
        path, write = files / name, kind.write

        def touched(table, *given, path=path, write=write):
            path.write_bytes(path.read_bytes() + b" ")
            return write(table, *given)

        monkeypatch.setattr(kind, "write", touched)
        with pytest.raises(drs.Corrupt, match=r"was changed while|goes on after its"):
            unweight_file(path, "lw", files / f"kept{path.suffix}")
        assert not (files / f"kept{path.suffix}").exists()


@pytest.mark.parametrize("largest", [maximum.LARGEST, 2])
def test_the_column_is_read_once_to_find_the_maximum_and_once_to_decide(
    largest, files, monkeypatch
):
    """Once more if the maximum lies below the weights that are kept."""
    small(monkeypatch)
    monkeypatch.setattr(maximum, "LARGEST", largest)
    expected = drs.unweight(LOG_WEIGHT, seed=2)
    assert (expected.log_max < LOG_WEIGHT).sum() == 2  # so that the next is needed too
    for kind, name in KINDS.items():
        read, passes = kind.log_weights, []

        def counted(table, column, read=read, passes=passes):
            passes.append(column)
            return read(table, column)

        monkeypatch.setattr(kind, "log_weights", counted)
        done = unweight_file(files / name, "lw", files / f"kept.{name}", seed=2)
        assert (done.count, done.log_max) == (COUNT, expected.log_max)
        deciding = 1 if kind is numpy_files.Archive else 0  # others decide as they write
        assert len(passes) == deciding + (1 if largest > 2 else 2)


def test_bits_of_rows_in_batches_of_every_size(files, monkeypatch):
    ids = drs.unweight(LOG_WEIGHT, seed=2, log_max=0.0).ids
    for size in (3, 8, 24, 170, 1000):
        monkeypatch.setattr(npy, "BYTES", 24 * size)
        out = files / f"{size}.npz"
        unweight_file(files / "plain.npz", "lw", out, seed=2, log_max=0.0)
        for name, rows in np.load(files / "plain.npz").items():
            assert rows.ndim == 0 or np.array_equal(np.load(out)[name], rows[ids]), name


def test_a_file_that_is_replaced_as_it_is_opened_is_noticed(files, monkeypatch):
    """By one whose columns have other types, which must not be read by the first one's header."""
    opened = tables._opened
    for name in KINDS.values():
        path = files / name

        def replaced(file, path=path):
            table = opened(file)
            if path.suffix == ".npy":
                np.save(path, np.zeros(50, [("lw", "f4")]))
            else:
                path.write_bytes(path.read_bytes() + b" ")
            return table

        monkeypatch.setattr(tables, "_opened", replaced)
        with pytest.raises(drs.Corrupt, match="was changed while"):
            unweight_file(path, "lw", files / f"kept{path.suffix}")
        assert not (files / f"kept{path.suffix}").exists()


def test_rows_are_read_by_the_header_of_their_own_file(files):
    """Even if the file changes between the pass that finds log_max and the one that writes."""
    table = numpy_files.Structured(files / "rows.npy")
    np.save(files / "rows.npy", np.zeros(50, [("lw", "f4"), ("x", "f4")]))
    selection = Selection(Decision(0, 0.0), None, "lw", None)
    for read in (
        lambda: list(table.log_weights("lw")),
        lambda: table.write(files / "k", selection),
    ):
        with pytest.raises(drs.Corrupt, match="was changed while"):
            read()


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("name", ["t.parquet", "plain.npz", "rows.npy"])
def test_a_file_that_appears_meanwhile_is_left_alone(name, links, files, monkeypatch):
    out = files / f"kept{Path(name).suffix}"
    find = tables.limit

    def appears(*given):
        out.write_text("of another program")
        return find(*given)

    def no_links(*given):
        raise PermissionError

    monkeypatch.setattr(tables, "limit", appears)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    there = {*files.iterdir(), out}
    with pytest.raises(ValueError, match="exists by now"):
        unweight_file(files / name, "lw", out)
    assert out.read_text() == "of another program"
    assert {*files.iterdir()} == there


def test_a_link_to_nowhere_is_a_file_too(files):
    (files / "kept.npz").symlink_to("nowhere.npz")
    with pytest.raises(ValueError, match="exists; choose another name"):
        unweight_file(files / "plain.npz", "lw", files / "kept.npz")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_there_when_it_is_whole(links, tmp_path, monkeypatch):
    def no_links(*given):
        raise PermissionError

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a"

    def interrupted():
        with once.written(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with once.written(path) as temporary:
        temporary.write_text("all")
        assert not path.exists()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["all"]


def test_weights_far_above_log_max_have_a_share(tmp_path):
    np.savez(tmp_path / "a.npz", lw=np.full(30_000, 2000.0))
    done = unweight_file(tmp_path / "a.npz", "lw", tmp_path / "b.npz", log_max=0.0)
    assert done.excess == 1.0
