"""What the build of the site does beside rendering: patterns in the nav become pages, and the reference is made.

mkdocs calls `on_config`, `on_files` and `on_page_markdown` by name.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.hooks.commands import describe_program
from docs.hooks.settings import describe_settings

MARK = re.compile(r"^<!-- (needs-\w+|long) -->$", re.MULTILINE)  # before a block whose commands not every machine runs
Nav = list[Any]  # as mkdocs.yml has it: pages, {title: page}, {title: [...]}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the pages that a pattern stands for in its place."""
    folder = Path(config.docs_dir)
    pages = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.md"))
    assert config.nav is not None, "mkdocs.yml has a nav"
    config.nav = expand(config.nav, pages)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code."""
    made = {
        "reference/settings.md": describe_settings(),
        "reference/lucidflux.md": describe_program("lucidflux"),
        "reference/lucidflux-data.md": describe_program("lucidflux-data"),
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=f'{text}\n<span class="made"></span>\n'))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Shows the marks of blocks to readers, too."""
    return MARK.sub(lambda match: f'<p class="mark">{say_mark(match[1])}</p>\n', markdown)


def say_mark(mark: str) -> str:
    return {"long": "takes minutes", "needs-gpu": "needs GPUs", "needs-package": "needs a package of others"}.get(
        mark, mark.replace("-", " ")
    )


def expand(nav: Nav, pages: list[str]) -> Nav:
    """The nav with each pattern replaced by the pages that match it and are named nowhere. `*` ends at a slash."""
    named = set(named_pages(nav))
    return _expand(nav, [page for page in pages if page not in named])


def _expand(nav: Nav, pages: list[str]) -> Nav:
    expanded: Nav = []
    for entry in nav:
        if isinstance(entry, str) and "*" in entry:
            expanded += [page for page in pages if fnmatch.fnmatch(page, entry) and page.count("/") == entry.count("/")]
        elif isinstance(entry, dict):
            expanded.append({
                title: _expand(below, pages) if isinstance(below, list) else below for title, below in entry.items()
            })  # fmt: skip
        else:
            expanded.append(entry)
    return expanded


def named_pages(nav: Nav) -> Iterator[str]:
    """Every page that the nav names, patterns left out."""
    for entry in nav:
        for below in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(below, list):
                yield from named_pages(below)
            elif "*" not in below:
                yield below
