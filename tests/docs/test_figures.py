"""The tables in docs/ agree with the files in benchmarks/results/."""

import json
import re
import subprocess
import sys

import pytest
from pages import ROOT

NUMBER = re.compile(r"[\d,]+(?:\.\d+)?")
QUALITY = {  # columns of a row's figures, and whether the table gives a standard deviation
    "toy25": (("hq", True), ("sd", False), ("jsd", False), ("w1", True)),
    "digits": (("frechet", True), ("precision", False), ("recall", False), ("imbalance", False)),
}


def results(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def table(page, name):
    """The cells below the head of the table between <!-- name --> and <!-- /name -->."""
    text = (ROOT / "docs" / page).read_text()
    (found,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    rows = [line.strip("| ").split(" | ") for line in found.splitlines()[2:]]
    assert rows, f"{page} has no rows of {name}"
    return [[cell.strip("*`| ") for cell in row] for row in rows]


def says(cell, *values):
    """Whether a cell shows these numbers, to the digits it has."""
    written = NUMBER.findall(cell)
    return len(written) == len(values) and all(
        abs(float(number.replace(",", "")) - value)
        <= 0.501 * 10.0 ** -len(number.partition(".")[2])
        for number, value in zip(written, values, strict=True)
    )


def test_a_wrong_figure_is_seen():
    assert says("99.92 ± 0.02", 99.916, 0.0182)
    assert says("5,633", 5632.6)
    assert not says("99.93 ± 0.02", 99.916, 0.0182)
    assert not says("5,633", 5631.9)
    assert not says("99.92", 99.92, 0.02)


def quality(row, columns, cost=True):
    """The values of a row's cells, in column order; None where the table has a dash."""
    found = [row[key] if spread else row[key][:1] for key, spread in columns]
    return (
        found
        + [[row[key][0]] if row[key][0] else None for key in ("d_calls", "gradients")][: 2 * cost]
    )


@pytest.mark.parametrize("name", QUALITY)
def test_quality(name):
    measured = results(name)["measured"]
    first = next(iter(measured.values()))["rows"]
    rows = table("benchmarks.md", name)
    assert [row[0] for row in rows] == list(first)
    for way, *cells in rows:
        expected = quality(first[way], QUALITY[name])
        if way in ("real", "raw"):
            expected[-2:] = None, None
        if "swissroll" in measured:
            expected += quality(
                measured["swissroll"]["rows"][way], (("hq", True), ("w1", True)), cost=False
            )
        for cell, values in zip(cells, expected, strict=True):
            assert cell == "-" if values is None else says(cell, *values), (way, cell, values)


def test_ctgan():
    measured = results("ctgan")["measured"]["30 epochs"]["rows"]
    rows = table("tables.md", "ctgan")
    assert [row[0] for row in rows] == list(measured)
    for way, *cells, calls in rows:
        found = measured[way]
        assert found["dtypes"] == [1.0, 0.0]
        for cell, key in zip(cells, ("auc", "correlation"), strict=True):
            assert says(cell, *found[key]), (way, cell)
        assert calls == "-" if way == "real" else says(calls, *found["calls"]), way


def test_ops():
    row = results("ops-cpu")["rows"][0]
    ms = {name: value["median"] for name, value in row["ms"].items() if name != "drs_fast, no out"}
    own = row["ms"]["drs_fast, out given"]["median"]
    cells = table("benchmarks.md", "ops")
    for (name, shown, relative), value in zip(cells, ms.values(), strict=True):
        assert says(shown, value), name
        assert says(relative, value / own), name


def test_loop():
    cells = table("benchmarks.md", "loop")
    for (name, alone, *shares), row in zip(cells, results("loop-cpu")["rows"], strict=True):
        ratios = row["ratios"]
        ours, disk = ratios["drs_fast / limit"], ratios["to disk / limit"]
        plain = ours / ratios["drs_fast / plain"], disk / ratios["to disk / plain to disk"]
        assert says(
            alone.removesuffix(" ms"),
            1e3 * row["seconds"]["limit: G and D alone"] / row["steps"],
        ), name
        for cell, value in zip(shares, (ours, disk, *plain), strict=True):
            assert says(cell, value), (name, cell, value)


GPU_WAYS = (
    "accept_compact, CUDA C++", "accept_compact", "limit: index_select", "torch.compile",
    "CUB DeviceSelect", "torch eager",
)  # fmt: skip


def gpu_ops():
    """Milliseconds of every way to accept and compact, by the number of rows."""
    return {
        row["n"]: row["ms"]
        for row in results("gpu-h200")["rows"]
        if (row["d"], row["share"], row["dtype"]) == (128, 0.2, "float32")
    }


def test_gpu_ops():
    found = gpu_ops()
    for n, *cells in table("gpu.md", "gpu-ops"):
        timings = [found[int(n.replace(",", ""))][way] for way in GPU_WAYS]
        for cell, timing in zip(cells, timings, strict=True):
            assert says(cell, 1e3 * timing.get("graph", timing["launch"])["median"]), (n, cell)


def test_gpu_loop():
    wanted = ("drs_fast / plain", "to disk / plain to disk", "graph / calls")
    cells = table("gpu.md", "gpu-loop")
    for (name, *shares), row in zip(cells, results("gpu-h200")["loop"], strict=True):
        assert name == f"{row['model']}, {row['batch']:,}"
        for cell, ratio in zip(shares, wanted, strict=True):
            assert says(cell, row["ratios"][ratio]), (name, ratio)


def used(row):
    """Calls with a bound, what it loses in %, with the interval; None where none was used."""
    if not row["used"]:
        return [None, None]
    lost = (row["lost_mass"], *row["lost_mass_interval"])
    return [[row["squeezed_calls"]], [100 * share for share in lost]]


def faster(row):
    return [[row["seconds"][n] / row["squeezed_seconds"][n]] for n in ("10000", "1000000")]


def test_squeeze():
    found = {
        (model, rule): row
        for name in ("squeeze", "squeeze-refused", "squeeze-mnist")
        for model, measured in results(name)["measured"].items()
        for rule, row in measured["rows"].items()
    }
    for title, *cells in table("squeeze.md", "squeeze"):
        model, rule = title.split(";")[0].rsplit(", ", 1)
        row = found[model.strip("`"), rule]
        calls = [[row["calls"]], [row["calls_by_own_burn_in"]]]
        for cell, values in zip(cells, calls + used(row) + faster(row), strict=True):
            same = cell in ("-", "not used") if values is None else says(cell, *values)
            assert same, (title, cell, values)


def test_squeeze_of_law_version_2():
    found = results("squeeze-version-2")["measured"]["digits, plain"]["rows"]
    for rule, *cells in table("squeeze.md", "squeeze-version-2"):
        row = found[rule]
        expected = [[row["calls"]], *used(row), *faster(row)]
        for cell, values in zip(cells, expected, strict=True):
            assert says(cell, *values), (rule, cell, values)


def test_cascades():
    rows = {f"{row['model']}, {row['way']}": row for row in results("cascade-cpu")["rows"]}
    shown = list(table("squeeze.md", "cascade"))
    assert [title for title, *_ in shown] == list(rows)
    for title, *cells in shown:
        row = rows[title]
        own = row["cascades"]["cascade, bf16"]
        ours = own["ratios"]
        pays = own["pays_from"]
        expected = (
            f"{row['accepted']:.1%}",
            f"{row['ratios']['fp32 / bf16, tuned']:.2f}",
            f"{row['flips']:.1%}",
            f"{ours['fp32 / it']:.2f}",
            f"{ours['fp32, tuned / it']:.2f}",
            "never" if pays is None else f"{pays:,}",
        )
        assert [cell.replace(" %", "%") for cell in cells] == list(expected), title


def test_the_headlines_of_the_readme():
    text = (ROOT / "README.md").read_text()
    ops, laws = results("ops-cpu")["rows"][0], results("laws")["laws"]
    hq = results("toy25")["measured"]["25gaussians"]["rows"]
    digits = results("digits")["measured"]["digits"]["rows"]
    squeezed = results("squeeze-version-2")["measured"]["digits, plain"]["rows"]["gamma 0"]
    eager = ops["ratios"]["x eager"]
    ways = ("raw", "DRS p80", "DRS gamma 0")
    ways_on_gpu = ("accept_compact, CUDA C++", "torch.compile", "CUB DeviceSelect")
    million = gpu_ops()[1_000_000]
    runs = [
        row["ratios"][ratio]
        for row in results("gpu-h200")["loop"]
        for ratio in ("drs_fast / plain", "to disk / plain to disk")
    ]
    worst = max(abs(law["found"] - law["expected"]) / law["error"] for law in laws if law["error"])
    assert worst < 4.5
    for line in (
        f"{ops['ms']['drs_fast, out given']['median']:.1f} ms; `sigmoid`, `rand`, `latents[mask]` "
        f"takes {eager:.2f} times as long",
        "{:.3f} ms; `torch.compile` {:.3f}, CUB {:.3f}; whole runs {:.2f} to {:.2f} times".format(
            *(million[way]["graph"]["median"] for way in ways_on_gpu), min(runs), max(runs)
        ),
        "raw {:.2f} %, `DRS()` {:.2f} %, `DRS(gamma=0)` {:.2f} %".format(
            *(hq[way]["hq"][0] for way in ways)
        ),
        "raw {:.2f}, `DRS()` {:.2f}, `MH()` {:.2f}, real {:.2f}".format(
            *(digits[way]["frechet"][0] for way in ("raw", "DRS p80", "MH", "real"))
        ),
        f"{squeezed['squeezed_calls']:.2f} instead of {squeezed['calls']:,.0f}; "
        f"{faster(squeezed)[1][0]:.0f} times as fast at 1,000,000 samples; "
        f"{squeezed['lost_mass']:.2%} of the samples lost".replace("%", " %"),
        f"{len(laws)} figures",
    ):
        assert line in text, line


def curves(file):
    """The points of every curve with a name in an SVG, by name."""
    found = re.findall(r'<g id="([a-z-]+)">\s*<path d="([^"]*)"', file.read_text())
    return {name: [float(number) for number in re.findall(r"[\d.]+", d)] for name, d in found}


def test_the_picture_of_weights(tmp_path):
    """Within a fraction of a pixel, because a processor may round a logit otherwise."""
    pytest.importorskip("matplotlib")
    made, kept = tmp_path / "weights.svg", ROOT / "docs/weights.svg"
    subprocess.run([sys.executable, ROOT / "docs/weights.py", made], check=True, cwd=ROOT)
    drawn, shown = curves(made), curves(kept)
    assert list(shown) == ["ratio", "kept", "samples", "weighted-samples", "data", "model"]
    assert {name: pytest.approx(points, abs=0.2) for name, points in shown.items()} == drawn
    assert kept.stat().st_size < 50_000
