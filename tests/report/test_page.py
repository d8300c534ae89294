"""The page of a report, looked at in headless Chromium, and what is in it."""

import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
import torch
from torch import nn

import drs_fast as drs
from drs_fast.cli import main as cli
from drs_fast.report import page, report
from drs_fast.samplers.drs import DRS

pytest.importorskip("matplotlib")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
LOOK = """<script>addEventListener("load", () => {
  const loaded = [...document.images].filter(one => one.complete && one.naturalWidth > 0).length;
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.seen = `${loaded} of ${document.images.length}, wide: ${wide}`; });
</script></body>"""


class Shown(nn.Module):
    def forward(self, z, y):
        return torch.sigmoid(z.view(-1, 1, 4, 4) + y.view(-1, 1, 1, 1) / 2)


class Judge(nn.Module):
    def forward(self, x, y):
        return 4 * x.flatten(1).mean(dim=1) - y


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "digits"
    sampler = DRS(percentile=90, burn_in=1_000)
    drs.generate(drs.load("digits"), sampler, 60, out=folder, seed=3, batch_size=256)
    return folder, report.write(folder)


def chromium(*given):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    logged = ["--enable-logging=stderr", "--virtual-time-budget=3000"]
    return subprocess.run(
        [*command, *logged, *given], capture_output=True, text=True, timeout=120, check=True
    )


@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed")
@pytest.mark.parametrize(("name", "size"), [("desk", "1100,4200"), ("phone", "500,4200")])
def test_a_browser_shows_the_page(digits, tmp_path, name, size):
    """SCREENSHOTS names a folder that keeps what it looked like."""
    _, written = digits
    html = written.page.read_text()
    copy = tmp_path / "page.html"
    copy.write_text(
        html.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
        .replace("</body>", LOOK)
    )  # fmt: skip
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    seen = chromium(profile, f"--window-size={size}", "--dump-dom", copy.as_uri())
    assert "<title>digits: 60 samples, acceptance" in seen.stdout
    assert f'data-seen="{len(written.pictures)} of {len(written.pictures)}, wide: false"' in (
        seen.stdout
    )
    assert "CONSOLE" not in seen.stderr
    shots = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    shots.mkdir(parents=True, exist_ok=True)
    shot = shots / f"report-{name}.png"
    chromium(profile, f"--window-size={size}", f"--screenshot={shot}", written.page.as_uri())
    assert shot.stat().st_size > 20_000


def test_the_page_holds_all_and_asks_for_nothing(digits):
    folder, written = digits
    html = written.page.read_text()
    assert html.count("data:image/png;base64,") == len(written.pictures) == 5
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', html)
    assert all(source.startswith("data:") for source in sources)
    assert "http" not in re.sub(r"http-equiv|base64,[^\"]*", "", html)
    assert "<script" not in html
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    for fact in ("60 (complete)", "DRS(burn_in=1000", drs.open(folder).manifest["law"]):
        assert fact in unescape(html)
    for head in ("Accepted and rejected", "From accepted to rejected", "Make it again"):
        assert head in html


def test_the_command_on_the_page_makes_the_run_again(digits, tmp_path):
    folder, written = digits
    (command,) = re.findall(r"<pre><code>(.*?)</code></pre>", written.page.read_text())
    words = unescape(command).split()
    assert words[:2] == ["drs-fast", "generate"]
    words[words.index("run")] = str(tmp_path / "again")
    assert cli.main([*words[1:], "--quiet"]) == 0
    first, again = drs.open(folder), drs.open(tmp_path / "again")
    assert torch.equal(first.ids[:], again.ids[:])
    assert first.manifest == again.manifest


def test_of_a_gan_made_in_python_the_call_is_shown(tmp_path):
    gan = drs.GAN(Shown(), Judge(), 16, labels=3)
    drs.generate(gan, DRS(burn_in=1_000), 90, out=tmp_path / "run", batch_size=256)
    without = report.write(tmp_path / "run")
    assert without.text.endswith("--model MODEL also shows what was rejected")
    assert [path.name for path in without.pictures] == [
        "samples.png", "classes.png", "scores.png", "logits.png",
    ]  # fmt: skip
    written = report.write(tmp_path / "run", gan=gan)
    assert {path.name for path in written.pictures} > {"proposals.png", "interpolation.png"}
    html = unescape(written.page.read_text())
    assert (
        "drs.generate(gan, drs.samplers.DRS(burn_in=1000), 90, batch_size=256, out='run')" in html
    )
    assert "<h1>Shown and Judge</h1>" in html
    assert drs.open(tmp_path / "run").manifest["model"] == "custom"


def test_a_report_refuses_another_gan(digits, tmp_path):
    with pytest.raises(drs.Conflict, match=r"swissroll has .*; give the GAN that the run was made"):
        report.write(digits[0], tmp_path / "out", gan=drs.load("swissroll"))
    assert not (tmp_path / "out").exists()


def test_what_a_reader_should_know_is_a_warning(tmp_path):
    gan = drs.load("25gaussians")
    with pytest.raises(drs.Starvation):
        drs.generate(
            gan, DRS(burn_in=1_000), 90_000, out=tmp_path / "run", chunk_rows=2**14,
            max_proposals=2**15,
        )  # fmt: skip
    html = report.write(tmp_path / "run").page.read_text()
    assert re.search(r'class="warning" role="note">The run is unfinished: it holds [\d,]+ of', html)
    assert 'class="warning"' not in page_of_a_complete_run(tmp_path)


def page_of_a_complete_run(tmp_path):
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0].clamp(max=1.0), 2)
    drs.generate(gan, DRS(burn_in=4_000), 200, out=tmp_path / "whole", batch_size=256)
    return report.write(tmp_path / "whole").page.read_text()


def test_names_are_escaped(tmp_path):
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0], 2, name="<i>& co")
    drs.generate(gan, DRS(burn_in=1_000), 20, out=tmp_path / "run", batch_size=256)
    html = report.write(tmp_path / "run").page.read_text()
    assert "<i>" not in html
    assert html.count("&lt;i&gt;&amp; co") == 3


def test_a_sampler_of_ones_own_has_no_command():
    spec = {"name": "Own", "law_version": 1}
    assert page.command({"sampler": spec}) is None
    squeezed = {"name": "Squeeze", "law_version": drs.Squeeze.law_version, "sampler": spec}
    assert page.command({"sampler": squeezed}) is None


def test_the_command_line_names_the_page(digits, tmp_path, capsys):
    assert cli.main(["report", str(digits[0]), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out" / "report.html")
    assert cli.main(["report", str(digits[0]), "--model", "swissroll"]) == 7
    assert "was made by a GAN with the sha256" in capsys.readouterr().err
