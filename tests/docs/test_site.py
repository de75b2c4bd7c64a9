"""The site is built without a warning, needs no network, and its references hold every setting, option and name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("mkdocstrings")

from docs.hooks import commands, docstrings, pages, settings
from lucidflux_data.config import setting_names
from lucidflux_data.pairs.config import PairsConfig
from lucidflux_data.selection.config import FilterConfig
from lucidflux_model.training.config import TrainConfig
from pipelines.restoration.config import NetworkConfig, NetworkModel, RestoreConfig
from tests.support.paths import ROOT

CONFIGS = [FilterConfig(), PairsConfig(), TrainConfig(), RestoreConfig(), NetworkConfig(model=NetworkModel(file="F"))]
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(.*?)\"|<link\b[^>]*\bhref=\"(.*?)\"")
LINKED = re.compile(r"<a\b[^>]*\bhref=\"([^\"#]*)(?:#([^\"]*))?\"")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site. Warnings are errors; a connection would fail."""
    place = tmp_path_factory.mktemp("site")
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    environment = os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place


def test_every_page_is_in_the_navigation(site: Path) -> None:
    written = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["nav"]
    named = list(pages.named_pages(pages.expand(nav, written)))
    assert len(named) == len(set(named))
    made = {"reference/settings.md", "reference/lucidflux.md", "reference/lucidflux-data.md"}
    assert set(named) == {*written, *made}
    assert [name for name in named if not (site / name).with_suffix(".html").is_file()] == []


def test_a_pattern_of_the_navigation_stands_for_the_pages_that_are_named_nowhere() -> None:
    nav = ["a.md", {"More": ["b/*.md", {"Last": "c.md"}]}, "*.md"]
    found = pages.expand(nav, ["a.md", "b/d.md", "b/e/f.md", "b/g.md", "c.md", "h.md"])
    assert found == ["a.md", {"More": ["b/d.md", "b/g.md", {"Last": "c.md"}]}, "h.md"]


def test_what_a_block_needs_is_shown_to_readers(site: Path) -> None:
    page = (site / "model.html").read_text()
    assert re.findall(r"<p class=\"mark\">(.*?)</p>", page) == ["takes minutes", *["needs weights"] * 3]


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        loaded = [source or link for source, link in LOADED.findall(path.read_text())]
        assert [name for name in loaded if re.match(r"(?:https?:)?//", name)] == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", path.read_text()), path


def test_links_lead_to_pages_and_places_that_there_are(site: Path) -> None:
    ids = {path: set(re.findall(r"\bid=\"(.*?)\"", path.read_text())) for path in site.rglob("*.html")}
    checked = 0
    for path in ids.keys() - {site / "404.html"}:  # whose links begin at the root of a server
        for name, anchor in LINKED.findall(path.read_text()):
            if "://" not in name and not name.startswith("mailto:"):
                target = (path.parent / name).resolve() if name else path
                assert target.exists(), f"{path}: {name}"
                assert not anchor or anchor in ids[target], f"{path}: {name}#{anchor}"
                checked += 1
    assert checked > 1000


def test_the_readme_is_short_and_its_links_hold() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    for name, anchor in re.findall(r"\]\(([^)#\s]+)(?:#([^)]*))?\)", text):
        assert (ROOT / name).exists(), name
        headings = re.findall(r"^#+ (.*)$", (ROOT / name).read_text(), re.MULTILINE) if anchor else []
        slugs = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, f"{name}#{anchor}"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_every_setting_is_told_with_its_meaning_unit_and_source(config: Any) -> None:
    told = {setting.name: setting for part in settings.read_parts(config) for setting in part.settings}
    assert sorted(told) == sorted(setting_names(type(config)))
    assert [name for name, setting in told.items() if not setting.meaning or not setting.source] == []
    assert [name for name, setting in told.items() if setting.numeric and not setting.unit] == []


def test_defaults_bounds_and_presets_stand_on_the_page(site: Path) -> None:
    page = (site / "reference" / "settings.html").read_text()
    rows = re.findall(r"<tr>\n(.*?)</tr>", page, re.DOTALL)
    plain = [re.sub(r"<.*?>", "", row).strip().split("\n") for row in rows]
    told = [[row[0], *row[2:5]] for row in plain if len(row) == 6]
    assert ["min_laplacian_variance", "150", "number from 0", "squared grey levels"] in told
    assert ["sigma", "0.2,1.5", "2 of number, by a comma", "pixels"] in told  # the second stage's
    assert ["near_duplicates", "none", "integer from 0 to 16, or none", "bits of a 64-bit hash"] in told
    assert ["file", "required", "text", "-"] in told
    strict = next(row for row in plain if row[0] == "select.near_duplicates")
    assert strict == ["select.near_duplicates", "", "4"]
    assert any(row[0] == "batch_size" and "arXiv 2509.22414" in row[-1] for row in plain)


def test_every_cell_of_a_setting_is_filled() -> None:
    """Default, what it takes, unit and source, of every setting; a dash where there is no unit."""
    rows = [line for line in settings.describe_settings().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    whole = [row for row in cells if len(row) == 6]
    assert len(whole) == sum(len(setting_names(type(config))) for config in CONFIGS)
    assert [row for row in whole if not all(row)] == []


def test_every_command_that_takes_settings_is_named_on_the_page() -> None:
    titles = " ".join(re.findall(r"^## (.*) \{", settings.describe_settings(), re.MULTILINE)).replace(",", " ").split()
    takes = {
        name.split()[-1] for name, command in every_command() if any("--set" in one.opts for one in command.params)
    }
    assert takes - set(titles) == set()


def helped(command: Any, name: str) -> str:
    """What `--help` shows of a command, on a wide terminal."""
    from typer.testing import CliRunner

    done = CliRunner().invoke(commands.APPS[name.split()[0]], [*name.split()[1:], "--help"], env={"COLUMNS": "250"})
    assert done.exit_code == 0, done.output
    return done.output


def every_command() -> Iterator[tuple[str, Any]]:
    for program in commands.APPS:
        yield from commands.walk(commands.read_program(program), program)


def test_every_command_and_option_of_the_help_is_on_the_page() -> None:
    sections = {
        section.split(" {#")[0]: section
        for program in commands.APPS
        for section in commands.describe_program(program).split("\n## ")[1:]
    }
    assert sections.keys() == {name for name, _ in every_command()}
    for name, command in every_command():
        shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", helped(command, name).split("Options", 1)[1])) - {"--help"}
        listed = set(re.findall(r"^\| (?:`-\w`, )?`(--[a-z-]+)`", sections[name], re.MULTILINE))
        assert listed, name
        assert listed <= shown, name
        assert {option for option in shown - listed if f"`{option}`" not in sections[name]} <= mentioned(sections[name])


def mentioned(section: str) -> set[str]:
    """Options that help texts speak of, as in "ray with --address"."""
    return set(re.findall(r"--[a-z][a-z-]+", section))


def test_docstrings_become_lists_and_code(site: Path) -> None:
    text = """Does it.\n\npath: where\nit is. other: no.\nsize: px\nRaises X.\n\n>>> f(1)\n2\n\nEnd: so.\n>>> g()"""
    told = docstrings.to_markdown(text, {"path", "size"})
    items = "\n\n- `path`: where\n  it is. other: no.\n- `size`: px\n\nRaises X.\n"
    assert told == f"Does it.\n{items}\n\n```pycon\n>>> f(1)\n2\n```\n\nEnd: so.\n\n```pycon\n>>> g()\n```"
    page = (site / "reference" / "api.html").read_text()
    assert "<blockquote>" not in page
    assert "<li><code>on_error</code>:" in page


@pytest.mark.parametrize("package", ["lucidflux_data", "lucidflux_model", "benchmarks"])
def test_every_public_name_is_on_the_page_of_python(package: str, site: Path) -> None:
    import importlib

    ids = set(re.findall(r"\bid=\"(.*?)\"", (site / "reference" / "api.html").read_text()))
    names = getattr(importlib.import_module(package), "__all__", [])
    assert {f"{package}.{name}" for name in names} <= ids
    assert not [name for name in ids if name.startswith(f"{package}._")]
