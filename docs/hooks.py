"""Puts what the benchmarks measured into the site, where pages link to it."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

RESULTS = "benchmarks/results/"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files, under the path that they have in the repository."""
    folder = Path(config.config_file_path).parent / RESULTS
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".png"):
            files.append(File.generated(config, RESULTS + file.name, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that lead out of docs/ in the repository lead to the same files in the site."""
    return markdown.replace(f"](../{RESULTS}", f"]({RESULTS}")
