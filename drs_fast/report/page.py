"""A report as one HTML file that needs no network: text, style and pictures are inside."""

import base64
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from drs_fast import zoo
from drs_fast.core import Sampler
from drs_fast.core.columns import SAVEABLE
from drs_fast.core.sampler import named
from drs_fast.report.draw import Picture
from drs_fast.report.facts import QUANTILES, heading
from drs_fast.run import advice
from drs_fast.squeeze import Squeeze
from drs_fast.store import Samples

STYLE = """
:root { color-scheme: light dark; --ink: #1f2a33; --soft: #5b6873; --line: #dde3e8;
  --paper: #f6f8f9; --card: #fff; --blue: #2f6f9f; --mark: #b4472f; --tint: #fdf3ef; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4eaee; --soft: #9aa8b3; --line: #2e3a43;
  --paper: #12181d; --card: #1a2228; --blue: #7db8e0; --mark: #f0987f; --tint: #2a201d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.01em; }
h2 { margin: 2.75rem 0 .9rem; font-size: 1.2rem; }
h3 { margin: 0; font-size: 1rem; }
p { margin: .4rem 0; }
.soft, figcaption p { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0; }
.tiles div, figure, .card { background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
.tiles div { padding: .8rem 1rem; }
.tiles b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.warning { margin: .6rem 0; padding: .7rem 1rem; background: var(--tint);
  border-left: .25rem solid var(--mark); border-radius: .3rem; }
figure { margin: 0 0 1.25rem; overflow: hidden; }
figcaption { padding: .9rem 1.1rem; border-bottom: 1px solid var(--line); }
.picture { overflow-x: auto; background: #fff; text-align: center; }
.picture img { display: block; margin: 0 auto; max-width: 100%; height: auto; }
.card { overflow-x: auto; padding: .3rem 1.1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem .45rem 0; text-align: left; vertical-align: top;
  border-top: 1px solid var(--line); }
tr:first-child > * { border-top: 0; }
th { font-weight: 500; color: var(--soft); }
.facts th { width: 13rem; }
.quantiles td, .quantiles th { text-align: right; white-space: nowrap; }
.quantiles th:first-child { text-align: left; }
pre { margin: .6rem 0; padding: .9rem 1.1rem; background: var(--card);
  border: 1px solid var(--line); border-radius: .6rem; white-space: pre-wrap; }
@media (max-width: 40rem) { body { padding-top: 1.5rem; } .wide img { max-width: none;
  width: 40rem; } .facts th, .facts td { display: block; width: auto; padding: .1rem 0; }
  .facts th { padding-top: .6rem; } .facts td { border: 0; padding-bottom: .6rem; } }
""".strip()
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
WIDE = 1.3  # width over height: such a picture scrolls on a phone, so that it stays legible


class Told(NamedTuple):
    """What the page says."""

    samples: Samples
    known: dict[str, str]  # the run's numbers, by name
    warnings: list[str]
    quantiles: dict[str, list[float]]
    reasons: list[str]  # why pictures are missing


def write(path: Path, told: Told, pictures: Sequence[Picture]) -> Path:
    """Writes the page, which holds the pictures, and returns its path."""
    path.write_text(html(told, pictures), encoding="utf-8")
    return path


def html(told: Told, pictures: Sequence[Picture]) -> str:
    """The page as text."""
    manifest, known = told.samples.manifest, told.known
    title = f"{heading(told.samples)} - drs_fast"
    name = Path(known.get("model", "run")).name
    acceptance = known["acceptance"].partition(" ")[0]
    tiles = {
        "samples": f"{len(told.samples):,}",
        "proposals": known["proposals"],
        "accepted": acceptance,
        "sampler": str(manifest["sampler"]["name"]),
    }
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="soft">{escape(str(told.samples.path))}</p>',
        '<section class="tiles">',
        *(f'<div><b>{escape(b)}</b><span class="soft">{a}</span></div>' for a, b in tiles.items()),
        "</section>",
    ]
    if "law" in known:
        parts.append(f"<p>The samples follow this law: <b>{escape(known['law'])}</b>.</p>")
    parts += [f'<p class="warning" role="note">{escape(line)}</p>' for line in told.warnings]
    if pictures:
        parts += ["<h2>Pictures</h2>", *map(_figure, pictures)]
    if told.reasons:
        parts += ["<p>Not drawn:</p>", "<ul>"]
        parts += [*(f"<li>{escape(reason)}</li>" for reason in told.reasons), "</ul>"]
    rows = "".join(
        f"<tr><th scope=row>{escape(key)}</th><td>{escape(value)}</td></tr>"
        for key, value in known.items()
    )
    parts += ["<h2>Numbers</h2>", f'<div class="card"><table class="facts">{rows}</table></div>']
    if told.quantiles:
        parts += ["<h2>Quantiles of the logits</h2>", _quantiles(told.quantiles)]
    parts += ["<h2>Make it again</h2>", *_commands(manifest)]
    parts.append(
        f'<p class="soft">Written by drs_fast {escape(str(manifest.get("version", "")))}.'
        " This page needs no network.</p>"
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>\n{STYLE}\n</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def command(manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    """What makes the run again, for a shell and for Python; None for a sampler of one's own."""
    sampler = _sampler(manifest["sampler"])
    if sampler is None:
        return None
    options = {
        "seed": manifest["seed"],
        "save": tuple(name for name in SAVEABLE if name in manifest["save"]),
        "batch_size": manifest["batch_size"],
        "device": None if manifest["device"] == "cpu" else manifest["device"],
        "precision": manifest["precision"],
        "images": manifest.get("images"),
        "tune": tuple(manifest.get("tune", ())),
        "label_weights": tuple(manifest.get("label_weights") or ()) or None,
    }
    model = manifest.get("model", advice.MODEL)
    if model not in zoo.NAMES and ":" not in model:
        model = advice.MODEL
    called = shlex.quote(model)
    if "value_range" in manifest:
        called += " --value-range {:g} {:g}".format(*manifest["value_range"])
    shell, python = advice.calls(called, sampler, manifest["n"], options, save=False)
    return shell, f"{python[:-1]}, out='run')"


def _commands(manifest: Mapping[str, Any]) -> list[str]:
    found = command(manifest)
    if found is None:
        name = escape(str(manifest["sampler"]["name"]))
        return [f"<p>{name} is not a sampler of drs_fast, so its call is not known here.</p>"]
    shell, python = (f"<pre><code>{escape(line)}</code></pre>" for line in found)
    if advice.MODEL not in found[0].split():
        return [shell]
    return ["<p>In Python, with the GAN that made it as <code>gan</code>:</p>", python]


def _sampler(spec: Mapping[str, Any]) -> Sampler | None:
    """The sampler that a manifest describes, if drs_fast has one of this name and version."""
    kind = Squeeze if spec["name"] == Squeeze.__name__ else named(spec["name"])
    if kind is None or spec["law_version"] != kind.law_version:
        return None
    given = {each.name: spec[each.name] for each in dataclasses.fields(kind) if each.name in spec}
    if kind is Squeeze:
        given["sampler"] = _sampler(given["sampler"])
        if given["sampler"] is None:
            return None
    try:
        return kind(**given)
    except (TypeError, ValueError):  # it was given a function, which no manifest holds
        return None


def _figure(picture: Picture) -> str:
    data = picture.path.read_bytes()
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))  # of PNG's first chunk
    wide = " wide" if width > WIDE * height else ""
    alt = f"{picture.title}. {picture.caption}"
    return (
        f"<figure><figcaption><h3>{escape(picture.title)}</h3><p>{escape(picture.caption)}</p>"
        f'</figcaption><div class="picture{wide}"><img alt="{escape(alt)}" '
        f'width="{2 * width // 3}" height="{2 * height // 3}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}"></div></figure>'
    )


def _quantiles(quantiles: Mapping[str, Sequence[float]]) -> str:
    heads = "".join(f"<th scope=col>{escape(head)}</th>" for head in QUANTILES)
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th>"
        + "".join(f"<td>{number:.3g}</td>" for number in numbers)
        + "</tr>"
        for name, numbers in quantiles.items()
    )
    return (
        f'<div class="card"><table class="quantiles"><tr><th></th>{heads}</tr>{rows}</table></div>'
    )
