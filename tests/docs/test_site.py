"""The built site: it fetches nothing from outside, and the reference shows the docstrings."""

import html
import inspect
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urldefrag

import pytest
from pages import ROOT, public

pytestmark = pytest.mark.skipif(
    find_spec("mkdocs") is None, reason="the site is built with pip install -e '.[docs]'"
)
# What a browser loads by itself: all but the links that a reader may follow.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'> ]*"
    r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//[^\"'> ]*"
    r"|(?:url\(|@import )\s*[\"']?(?:https?:)?//[^)\"']*"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    where = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", where],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return where


def test_nothing_is_fetched_from_outside(site):
    files = [file for file in site.rglob("*") if file.suffix in (".html", ".css")]
    assert len(files) > 14
    found = {file.name: LOADED.findall(file.read_text()) for file in files}
    assert {name: urls for name, urls in found.items() if urls} == {}


@pytest.mark.parametrize(
    "line",
    [
        '<script src="https://unpkg.com/iframe-worker/shim"></script>',
        "<script async src=//cdn.example/a.js></script>",
        '<link rel="stylesheet" href="https://fonts.googleapis.com/css?family=Roboto">',
        '<link rel="preconnect" href="https://fonts.gstatic.com" crossorigin>',
        '<img alt="x" src="https://img.shields.io/badge.svg">',
        "@font-face{src:url(https://fonts.example/a.woff2)}",
        '@import "https://example.org/a.css";',
    ],
)
def test_what_is_fetched_is_seen(line):
    assert LOADED.search(line)


def test_links_between_pages_lead_somewhere(site):
    pages = {file: file.read_text() for file in site.glob("*.html") if file.name != "404.html"}
    names = {file: set(re.findall(r'\bid="([^"]+)"', text)) for file, text in pages.items()}
    for file, text in pages.items():
        for link in re.findall(r'<a\b[^>]*\bhref="([^"]*)"', text):
            target, anchor = urldefrag(html.unescape(link))
            if "://" not in target and link != ".":
                there = file.parent / target if target else file
                assert there.exists(), (file.name, link)
                assert not anchor or there not in names or anchor in names[there], (file.name, link)


def plain(text):
    """The text without the marks and line breaks that Markdown turns into something else."""
    return " ".join(re.sub(r"[`*]", "", text).split())


def test_the_reference_shows_every_docstring(site):
    text = plain(html.unescape(re.sub(r"<[^>]+>", "", (site / "api.html").read_text())))
    first = {name: plain(inspect.getdoc(value).split("\n")[0]) for name, value in public()}
    assert [name for name, line in first.items() if line not in text] == []


def test_the_reference_has_the_methods_of_a_gan(site):
    from drs_fast import GAN

    text = (site / "api.html").read_text()
    methods = [name for name in vars(GAN) if not name.startswith("_")]
    assert len(methods) > 10
    assert [name for name in methods if f'id="drs_fast.GAN.{name}"' not in text] == []


def test_every_page_is_in_the_menu(site):
    home = (site / "index.html").read_text()
    for page in Path(ROOT / "docs").glob("*.md"):
        assert f'href="{page.stem}.html"' in home
