"""Exports: what each format's own library reads, what is refused, and what a kill leaves."""

import gc
import json
import os
import subprocess
import sys
import tarfile
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import drs_fast as drs
from drs_fast.cli.main import main
from drs_fast.exporting import engine, imagefolder
from drs_fast.exporting.export import export
from drs_fast.exporting.formats import FORMATS
from drs_fast.samplers.drs import DRS
from drs_fast.store.format import shard_name

pytestmark = pytest.mark.filterwarnings("ignore:.*clipped in uint8")
N = 500
PICTURES = ("npz", "imagefolder", "webdataset", "hf")
ROWS = torch.arange(5.0)[:, None] / 7
PLANES = torch.arange(3.0)[:, None, None] / 5


def colour(z, y):
    """Pictures (3, 5, 4) whose rows, columns and channels all differ; some leave [-1, 1]."""
    return (
        0.6 * z[:, None, :1, None]
        + 0.1 * z[:, None, 1:, None] * torch.arange(4.0)
        + PLANES
        + (ROWS * (y[:, None, None, None] - 1))
    )


def critic(x, y):
    return x.flatten(1).mean(dim=1) + 0.1 * y


def coloured(**options):
    return drs.GAN(colour, critic, 2, labels=3, **options)


def grey():
    return drs.GAN(lambda z: colour(z, torch.ones(len(z)))[:, :1], lambda x: x.flatten(1).sum(1), 2)


def table():
    return drs.GAN(lambda z: torch.cat([z, z * z], dim=1), lambda x: x[:, 0], 2)


def made(folder, gan, n=N, **options):
    options = {"save": ("x", "z", "logit"), "chunk_rows": 256, "batch_size": 256, **options}
    return drs.generate(gan, DRS(burn_in=512), n, out=folder, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made(tmp_path_factory.mktemp("run") / "colour", coloured())


@pytest.fixture(scope="module")
def run8(tmp_path_factory):
    return made(tmp_path_factory.mktemp("run") / "uint8", coloured(), images="uint8")


@pytest.fixture(scope="module")
def run_of_tables(tmp_path_factory):
    return made(tmp_path_factory.mktemp("run") / "table", table())


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return lambda *given, **named: datasets.load_dataset(
        *given, split="train", cache_dir=str(tmp_path / "cache"), **named
    )


def read_tars(tars):
    webdataset = pytest.importorskip("webdataset")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves closing files to Python
        rows = list(webdataset.WebDataset(list(map(str, tars)), shardshuffle=False).decode("rgb8"))
        gc.collect()
    return rows


def rounded(x, low=-1.0, high=1.0):
    """The rule, written a second time, in float64 but for the numbers that it rounds."""
    level = (x - np.float32(low)) * np.float32(255 / (high - low))
    return np.clip(np.round(level), 0, 255).astype(np.uint8)


def pictures_of(run, n=N):
    """Pictures (n, height, width, channels) of a run of floats."""
    return rounded(run.x[:n].numpy()).transpose(0, 2, 3, 1)


def check_numbers(found, run, names=("ids", "logit", "label", "weight")):
    for name in names:
        column = run.y if name == "label" else run.weight if name == "weight" else run.column(name)
        assert np.array_equal(np.asarray(found[name]), column[:].numpy()), name


# --- read by its own library


@pytest.mark.parametrize("single", [True, False])
def test_parquet(tmp_path, run, single):
    import pyarrow.parquet as parquet

    to = tmp_path / ("out.parquet" if single else "out")
    save = ("x", "z", "logit", "weight")
    done = export(run.path, to, "parquet", save=save, rows_per_file=200, threads=3)
    assert (done.rows, done.files, done.there) == (N, 1 if single else 3, 0)
    files = [to] if single else sorted(to.glob("*.parquet"))
    found = parquet.read_table(files)
    assert found.column_names == ["ids", "logit", "label", "weight", "x", "z"]
    check_numbers(found.to_pydict(), run)
    for name in ("x", "z"):
        shape = json.loads(found.schema.field(name).metadata[b"shape"])
        flat = found[name].combine_chunks().flatten().to_numpy()
        assert np.array_equal(flat.reshape(N, *shape), run.column(name)[:].numpy())
    facts = json.loads(found.schema.metadata[b"drs_fast"])
    assert facts["rows"] == N
    assert facts["image_rule"] is None
    assert facts["run"]["model_sha256"] == run.manifest["model_sha256"]


def test_npz_as_adm_reads_it(tmp_path, run):
    to = tmp_path / "out.npz"
    export(run.path, to, "npz", save=("x", "z", "logit", "weight"), threads=2)
    with np.load(to) as found:
        assert found["arr_0"].dtype == np.uint8
        assert found["arr_0"].flags.c_contiguous
        assert np.array_equal(found["arr_0"], pictures_of(run))
        assert np.array_equal(found["arr_1"], run.y[:].numpy())
        check_numbers(found, run, ("ids", "logit", "weight"))
        assert np.array_equal(found["z"], run.z[:].numpy())
        facts = json.loads(str(found["metadata"]))
        assert "mu" not in found  # which the evaluator would take for statistics
    assert facts["value_range"] == [-1.0, 1.0]
    assert facts["image_rule"].startswith("clamp(round(")


@pytest.mark.parametrize("images", [None, "uint8"])
def test_npy(tmp_path, run, images):
    to = tmp_path / "out"
    export(run.path, to, "npy", save=("x", "z", "logit", "weight"), images=images)
    found = {file.stem: np.load(file, mmap_mode="r") for file in to.glob("*.npy")}
    x = run.x[:].numpy()
    assert np.array_equal(found["x"], x if images is None else rounded(x))
    assert found["x"].dtype == ("float32" if images is None else "uint8")
    assert isinstance(found["x"], np.memmap)
    check_numbers(found, run)
    assert np.array_equal(found["z"], run.z[:].numpy())
    facts = json.loads((to / "_export.json").read_text())
    assert facts["complete"]
    assert (facts["image_rule"] is None) == (images is None)


def test_webdataset(tmp_path, run):
    to = tmp_path / "out"
    export(run.path, to, "webdataset", save=("x", "z", "logit", "weight"), rows_per_file=200)
    tars = sorted(to.glob("*.tar"))
    assert [tar.name for tar in tars] == ["00000.tar", "00001.tar", "00002.tar"]
    for tar, size in zip(tars, (200, 200, 100), strict=True):
        with tarfile.open(tar) as archive:
            assert len({name.split(".")[0] for name in archive.getnames()}) == size
    rows = read_tars(tars)
    assert [row["__key__"] for row in rows] == [f"{i:010d}" for i in range(N)]
    assert np.array_equal(np.stack([row["png"] for row in rows]), pictures_of(run))
    assert np.array_equal(np.stack([row["z.npy"] for row in rows]), run.z[:].numpy())
    assert [row["cls"] for row in rows] == run.y[:].tolist()
    check_numbers({name: [row["json"][name] for row in rows] for name in rows[0]["json"]}, run)


def test_imagefolder(tmp_path, run, offline):
    to = tmp_path / "out"
    export(run.path, to, "imagefolder", save=("logit", "weight"), rows_per_file=200, threads=3)
    found = offline("imagefolder", data_dir=str(to))
    assert np.array_equal(np.stack([np.array(each) for each in found["image"]]), pictures_of(run))
    check_numbers(found, run)
    lines = [json.loads(line) for line in (to / "metadata.jsonl").read_text().splitlines()]
    assert np.array_equal(np.array(Image.open(to / lines[333]["file_name"])), pictures_of(run)[333])
    assert json.loads((to / "_export.json").read_text())["value_range"] == [-1.0, 1.0]


def test_hf(tmp_path, run, offline):
    to = tmp_path / "out"
    export(run.path, to, "hf", save=("x", "z", "logit", "weight"), rows_per_file=200)
    found = offline(str(to))
    assert np.array_equal(np.stack([np.array(each) for each in found["image"]]), pictures_of(run))
    check_numbers(found, run)
    assert found.features["label"].names == ["0", "1", "2"]
    assert np.array_equal(np.array(found["z"], np.float32), run.z[:].numpy())
    assert "clamp(round(" in (to / "README.md").read_text()


def test_tables(tmp_path, run_of_tables, offline):
    x = run_of_tables.x[:].numpy()
    export(run_of_tables.path, tmp_path / "hf", "hf")
    found = offline(str(tmp_path / "hf"))
    assert np.array_equal(np.array(found["x"], np.float32), x)
    check_numbers(found, run_of_tables, ("ids", "logit"))
    export(run_of_tables.path, tmp_path / "tar", "webdataset")
    rows = read_tars([tmp_path / "tar/00000.tar"])
    assert np.array_equal(np.stack([row["x.npy"] for row in rows]), x)
    for name in ("imagefolder", "npz"):
        with pytest.raises(ValueError, match=r"needs images.*samples of this run are \(4,\)"):
            export(run_of_tables.path, tmp_path / "no.npz", name)
    assert not (tmp_path / "no.npz").exists()


# --- from floats to whole numbers


def test_the_rule_is_that_of_a_run_of_uint8(tmp_path, run, run8):
    """Two ways to the same pictures: converted by the run, or by the export."""
    assert run8.x.dtype == torch.uint8
    for name in PICTURES:
        paths = [tmp_path / f"{name}{i}.npz" for i in (0, 1)]
        for source, path in zip((run, run8), paths, strict=True):
            export(source.path, path, name, save=("x",))
    first, second = (np.load(tmp_path / f"npz{i}.npz") for i in (0, 1))
    assert np.array_equal(first["arr_0"], second["arr_0"])
    facts = [json.loads(str(each["metadata"])) for each in (first, second)]
    assert facts[0]["image_rule"] == facts[1]["image_rule"] == run8.manifest["image_rule"]
    png = "00000/0000000007.png"
    first, second = ((tmp_path / f"imagefolder{i}.npz" / png).read_bytes() for i in (0, 1))
    assert first == second


def test_a_range(tmp_path, run):
    with pytest.warns(UserWarning, match=r"of 500 samples hold numbers that are NaN or outside"):
        export(run.path, tmp_path / "a.npz", "npz", value_range=(-0.5, 0.25))
    x = rounded(run.x[:].numpy(), -0.5, 0.25).transpose(0, 2, 3, 1)
    with np.load(tmp_path / "a.npz") as found:
        assert np.array_equal(found["arr_0"], x)
        assert json.loads(str(found["metadata"]))["value_range"] == [-0.5, 0.25]


def test_a_range_that_nothing_needs(tmp_path, run, run8):
    with pytest.raises(ValueError, match=r"here x is torch\.uint8"):
        export(run8.path, tmp_path / "a.npz", "npz", value_range=(0, 1))
    with pytest.raises(ValueError, match=r"here x is torch\.float32"):
        export(run.path, tmp_path / "a", "npy", value_range=(0, 1))


def test_grey_pictures(tmp_path):
    run = made(tmp_path / "run", grey(), 64)
    x = rounded(run.x[:].numpy())[:, 0]
    export(run.path, tmp_path / "a.npz", "npz")
    with np.load(tmp_path / "a.npz") as found:
        assert found["arr_0"].shape == (64, 5, 4, 3)
        assert all(np.array_equal(found["arr_0"][..., i], x) for i in range(3))
        assert "arr_1" not in found
    export(run.path, tmp_path / "png", "imagefolder")
    picture = Image.open(tmp_path / "png/00000/0000000011.png")
    assert picture.mode == "L"
    assert np.array_equal(np.array(picture), x[11])


# --- what is refused


def test_a_run_without_x(tmp_path):
    run = made(tmp_path / "run", coloured(), 64, save=("logit",))
    for name in PICTURES:
        with pytest.raises(ValueError, match=r"not x: generate again with --save logit,x"):
            export(run.path, tmp_path / "a.npz", name)
    with pytest.raises(ValueError, match="needs x"):
        export(run.path, tmp_path / "a", "npy", images="uint8")
    export(run.path, tmp_path / "a", "npy", save=("weight",))
    found = {file.stem: np.load(file) for file in (tmp_path / "a").glob("*.npy")}
    check_numbers(found, run, ("ids", "label", "weight"))
    assert found.keys() == {"ids", "label", "weight"}


def test_weights_that_are_unknown(tmp_path):
    run = drs.generate(
        table(), drs.samplers.DDLS(steps=1, logit_scale=2.0), 64, out=tmp_path / "run", save=("x",)
    )
    with pytest.raises(ValueError, match="weight"):
        export(run.path, tmp_path / "a", "npy", save=("weight",))
    assert not (tmp_path / "a").exists()


def test_an_unfinished_run(tmp_path):
    with pytest.raises(drs.Starvation):
        made(tmp_path / "run", coloured(), 10**6, max_proposals=1024)
    run = drs.open(tmp_path / "run")
    there = len(run)
    assert 0 < there < 10**6
    with pytest.raises(drs.Conflict, match=rf"is unfinished: it holds {there:,} of 1,000,000"):
        export(run.path, tmp_path / "a", "npy")
    with pytest.raises(ValueError, match=f"holds {there:,} samples, got a request for"):
        export(run.path, tmp_path / "a", "npy", n=there + 1)
    export(run.path, tmp_path / "a", "npy", n=5)
    assert np.array_equal(np.load(tmp_path / "a/ids.npy"), run.ids[:5].numpy())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_damaged_run(tmp_path, name, how):
    made(tmp_path / "run", coloured(), 300, chunk_rows=128)
    to, right = (tmp_path / (f"{i}.npz" if name == "npz" else i) for i in ("a", "b"))
    export(tmp_path / "run", right, name, rows_per_file=40)
    path = tmp_path / "run" / shard_name(2)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.unlink()
    if how == "flipped":
        path.write_bytes(data)
    with pytest.raises(drs.Corrupt, match=r"chunk-00000002.* run `drs-fast verify`"):
        export(tmp_path / "run", to, name, rows_per_file=40, threads=2)
    there = contents(to)  # files in full, but for those that hold rows of the shard
    assert json.loads(there.pop("_export.json", '{"complete": false}'))["complete"] is False
    assert there.items() < contents(right).items() or name == "npz"
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (tmp_path / "a.npz").exists()
    if how == "flipped" and name == "npy":
        export(tmp_path / "run", to, name, rows_per_file=40, check=False)


def test_other_things_under_that_name(tmp_path, run, run8):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine.txt").write_text("mine")
    with pytest.raises(drs.Conflict, match=r"holds other files \(mine\.txt\)"):
        export(run.path, tmp_path / "a", "npy")
    export(run.path, tmp_path / "b", "npy")
    with pytest.raises(drs.Conflict, match=r"holds another export:\n(.*\n)*  format: there"):
        export(run.path, tmp_path / "b", "parquet")
    with pytest.raises(drs.Conflict, match="holds another export"):
        export(run8.path, tmp_path / "b", "npy")
    export(run.path, tmp_path / "c.parquet", "parquet")
    with pytest.raises(drs.Conflict, match="something else"):
        export(run8.path, tmp_path / "c.parquet", "parquet")
    (tmp_path / "d.npz").write_bytes(b"mine")
    with pytest.raises(drs.Conflict, match="something else"):
        export(run8.path, tmp_path / "d.npz", "npz")
    assert (tmp_path / "d.npz").read_bytes() == b"mine"
    with pytest.raises(ValueError, match=r"ends with '\.npz', got e"):
        export(run.path, tmp_path / "e", "npz")
    with pytest.raises(ValueError, match=r"format 'imagefolder'.*'z'"):
        export(run.path, tmp_path / "e", "imagefolder", save=("x", "z"))
    with pytest.raises(drs.Conflict, match="is not a run"):
        export(tmp_path / "a", tmp_path / "e", "npy")


# --- interrupted, and gone on with


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "npz"])
def test_an_export_goes_on_where_it_failed(tmp_path, run, name, monkeypatch):
    export(run.path, tmp_path / "right", name, save=("x", "logit"), rows_per_file=60)
    kind, to = FORMATS[name], tmp_path / "out"
    write, written = kind.write, []

    def failing(self, path, part, pieces):
        if len(written) == 2 or name == "npy":
            path.mkdir() if name == "imagefolder" else path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device", str(path))
        write(self, path, part, pieces)
        written.append(part.name)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "write", failing)
        with pytest.raises(OSError, match="No space left"):
            export(run.path, to, name, save=("x", "logit"), rows_per_file=60, threads=1)
    whole = contents(tmp_path / "right")
    there = contents(to)
    assert json.loads(there.pop("_export.json"))["complete"] is False
    assert there.items() < whole.items()
    done = export(run.path, to, name, save=("x", "logit"), rows_per_file=60, threads=1)
    assert done.there == len(written)
    assert contents(to) == whole


KILLED = """
import os, signal, sys
from drs_fast.exporting import engine
from drs_fast.exporting.export import export

make, count = engine.Engine._make, 0

def dying(self, call):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(self, call)

engine.Engine._make = dying
for name, to in zip(sys.argv[2::2], sys.argv[3::2]):
    child = os.fork()
    if child == 0:
        export(sys.argv[1], to, name, rows_per_file=100, threads=2)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        sys.exit(f"{name} was not killed")
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory, run8):
    """What exports leave that are killed, by format."""
    folder = tmp_path_factory.mktemp("killed")
    found = {name: folder / (f"{name}.npz" if name == "npz" else name) for name in FORMATS}
    words = [str(word) for pair in found.items() for word in pair]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = [sys.executable, "-c", KILLED, str(run8.path), *words]
    subprocess.run(process, env=environment, check=True, timeout=120)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("name", FORMATS)
def test_a_kill_leaves_no_file_under_its_final_name(tmp_path, run8, killed, name):
    right, to = tmp_path / killed[name].name, killed[name]
    export(run8.path, right, name, rows_per_file=100)
    if name == "npz":
        assert not to.exists()
    else:
        left = {k: v for k, v in contents(to).items() if ".tmp" not in k}
        left.pop("_export.json")
        assert left.items() < contents(right).items()
    export(run8.path, to, name, rows_per_file=100)
    if name == "npz":
        assert to.read_bytes() == right.read_bytes()
    else:
        assert contents(to) == contents(right)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_two_exports_to_one_folder(tmp_path, run8, monkeypatch):
    write = imagefolder.ImageFolder.write

    def meanwhile(self, path, part, pieces):
        with pytest.raises(drs.Conflict, match="another process is writing"):
            export(run8.path, tmp_path / "out", "imagefolder")
        write(self, path, part, pieces)

    monkeypatch.setattr(imagefolder.ImageFolder, "write", meanwhile)
    export(run8.path, tmp_path / "out", "imagefolder")


@pytest.mark.parametrize("name", FORMATS)
def test_threads_and_pieces_change_no_byte(tmp_path, run8, name, monkeypatch):
    paths = [tmp_path / f"{i}.npz" for i in (0, 1)]
    export(run8.path, paths[0], name, rows_per_file=200, threads=1)
    export(run8.path, paths[1], name, rows_per_file=200, threads=5)
    read = (lambda path: path.read_bytes()) if name == "npz" else contents
    assert read(paths[0]) == read(paths[1])
    assert export(run8.path, paths[0], name, rows_per_file=200).there > 0


def test_pieces_are_small(run, monkeypatch):
    from drs_fast.exporting import source

    monkeypatch.setattr(source, "PIECE_BYTES", 1000)
    taken = source.Source(run, ("ids", "x"), N, None)
    ranges = taken.ranges(0, N, ("x",))
    assert ranges[0] == (0, 4)  # of 240 bytes each
    assert ranges[-1][1] == N
    rows = np.concatenate([taken.read(start, stop, ("x",))["x"] for start, stop in ranges])
    assert np.array_equal(rows, run.x[:].numpy())


def test_an_interrupt_ends_all_threads(tmp_path, run8, monkeypatch):
    """Ctrl-C in the main thread, while the others write."""
    made = imagefolder.ImageFolder.made
    monkeypatch.setattr(
        imagefolder.ImageFolder, "made", lambda *given: time.sleep(0.05) or made(*given)
    )

    def interrupted(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(run8.path, tmp_path / "out", "imagefolder", rows_per_file=10, threads=2)
    assert len(list((tmp_path / "out").glob("[0-9]" * 5))) < 50
    assert not list((tmp_path / "out").glob("*.tmp"))


# --- the command


def test_the_command(tmp_path, run, capsys):
    to = tmp_path / "out"
    words = ["export", str(run.path), "--to", str(to), "--format", "parquet"]
    assert main([*words, "--save", "x,weight", "--rows-per-file", "200", "--threads", "2"]) == 0
    said = capsys.readouterr()
    assert said.out == f"500 samples in 3 parts: {to}\n"
    assert "500 of 500 samples" in said.err
    assert "to parquet" in said.err
    assert main([*words, "--save", "x,weight", "--rows-per-file", "200"]) == 0
    assert "3 of which were there" in capsys.readouterr().out
    assert main(words) == 7
    assert "holds another export" in capsys.readouterr().err
    assert main([*words[:2], "--to", str(tmp_path / "a"), "--format", "npy", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_png_needs_pillow(tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    from drs_fast.exporting import asked

    monkeypatch.setattr(asked.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install 'drs_fast\[export\]'"):
        export(run.path, tmp_path / "a", "imagefolder")
    with pytest.raises(RuntimeError, match="needs pyarrow"):
        export(run.path, tmp_path / "a", "parquet")


@pytest.mark.parametrize("there", [b"", b"\x93NUMPY\x01\x00v\x00", "array"])
def test_another_file_of_that_name_is_no_export(tmp_path, there):
    made(tmp_path / "run", grey())
    path = tmp_path / "there.npz"
    if there == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(there)
    before = path.read_bytes()
    with pytest.raises(drs.Conflict):
        export(tmp_path / "run", path, "npz")
    assert path.read_bytes() == before


def test_a_folder_of_parquet_files_is_read_as_one_table(tmp_path):
    run = made(tmp_path / "run", table())
    export(tmp_path / "run", tmp_path / "tables", "parquet", rows_per_file=128)
    read = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "tables")
    assert sorted(read["ids"].to_pylist()) == run.ids[:].tolist()


@pytest.mark.parametrize("name", ["npy", "npz"])
def test_what_was_not_checked_is_not_gone_on_with_as_checked(tmp_path, name, monkeypatch):
    drs.generate(drs.load("digits"), drs.samplers.DRS(burn_in=300), 50, out=tmp_path / "run")
    to = tmp_path / (f"a.{name}" if name == "npz" else "a")
    export(tmp_path / "run", to, name, check=False)
    assert export(tmp_path / "run", to, name, check=False).there > 0
    with pytest.raises(drs.Conflict):
        export(tmp_path / "run", to, name)
    if name == "npy":
        assert json.loads((to / "_export.json").read_text())["checked"] is False
    other = to.with_name(f"b{to.suffix}")
    export(tmp_path / "run", other, name)  # checked, and then gone on with unchecked
    if name == "npy":
        monkeypatch.setattr(engine.Engine, "skip", None)  # stopped before it has made anything
        with pytest.raises(TypeError):
            export(tmp_path / "run", other, name, check=False)
        assert json.loads((other / "_export.json").read_text())["checked"] is False
