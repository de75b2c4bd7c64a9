"""What a new user waits for: `first-minutes --images PHOTOS`, on a machine that does nothing else.

    clone of this checkout -> make demo -> the demo once more -> README's commands on 20 photos -> explore in Chromium

Each part runs what a user types, in a process of its own, with the packages that pip has in its cache.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.throughput.large.generated import generate_run
from benchmarks.throughput.timing import Facts, Images, OutFile, print_json, real_photos, seconds
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.storage.folder import Folder
from pipelines.execution.executor import available_cpus

app = typer.Typer()
ROOT = Path(__file__).resolve().parents[2]
PHOTOS = 20
ROUNDS = 3  # of opening a page
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PARTS = ("demo", "commands", "explore")


@app.command("first-minutes")
def first_minutes_command(
    images: Images,
    part: Annotated[list[str] | None, typer.Option(help="Just demo, commands or explore; may be repeated.")] = None,
    rows: Annotated[int, typer.Option(help="Of the generated run that explore is made of.")] = 2_950_000,
    download: Annotated[bool, typer.Option(help="Add up the packages of the demo, too.")] = True,
    out: OutFile = None,
) -> None:
    """Wall time of installation and demo, of README's commands on 20 photos, and of explore and its page."""
    part = part or list(PARTS)
    if unknown := set(part) - set(PARTS):
        raise ConfigError(f"a part is one of {', '.join(PARTS)}, not {unknown.pop()}")
    result: Facts = {"cpus": available_cpus()}
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "clone"
        if "demo" in part:
            result["demo"] = measure_demo(clone, Path(place) / "wheels" if download else None)
        if "commands" in part:
            programs = clone / ".venv" / "bin" if "demo" in part else Path(sys.executable).parent
            result["commands"] = measure_commands(images, Path(place) / "home", programs)
        if "explore" in part:
            result["explore"] = measure_explore(Path(place) / "generated", rows)
    print_json(result, out)


def measure_demo(clone: Path, wheels: Path | None) -> Facts:
    """`make demo` in a new clone, installation included; the demo again; whether torch came along; with a folder for
    `wheels`, the bytes of the packages."""
    _run("git", "clone", "-q", str(ROOT), str(clone), at=ROOT)
    found: Facts = {"make_demo_seconds": _timed("make", "demo", at=clone)}
    shutil.rmtree(clone / "demo")
    found["demo_again_seconds"] = _timed(".venv/bin/lucidflux", "demo", at=clone)
    found["torch"] = any(clone.glob(".venv/lib/*/site-packages/torch"))
    if wheels is not None:
        lock = ["--require-hashes", "--no-deps", "-r", "requirements/demo-py311.txt"]
        _run(".venv/bin/pip", "download", "-q", "-d", str(wheels), *lock, at=clone)
        found["packages"] = len(list(wheels.iterdir()))
        found["package_bytes"] = sum(path.stat().st_size for path in wheels.iterdir())
    return found


def measure_commands(images: Path, home: Path, programs: Path) -> dict[str, float]:
    """Seconds of each of README's first commands, in their order, in a folder with PHOTOS photos."""
    (home / "photos").mkdir(parents=True)
    chosen = real_photos(images)[:PHOTOS]
    if len(chosen) < PHOTOS:
        raise InputError(f"{images} has {len(chosen)} photos: {PHOTOS} are wanted")
    for photo in chosen:
        shutil.copy(photo, home / "photos")
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {line: _timed("bash", "-c", line, at=home, PATH=path) for line in first_commands()}


def first_commands(readme: Path = ROOT / "README.md") -> list[str]:
    """The lines of the block of shell under "First commands", without what is said of them."""
    block = re.search(r"^## First commands$.*?^```sh\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL)
    if block is None:
        raise InputError(f"{readme} has no block of commands under First commands")
    return [re.split(r"\s{2,}# ", line)[0] for line in block[1].splitlines()]


def measure_explore(run: Path, rows: int) -> Facts:
    """Of a generated run: the page made, its bytes, and opened in Chromium beside an empty page."""
    folder = Folder(str(run))
    generate_run(folder, rows)
    program = str(Path(sys.executable).with_name("lucidflux-data"))
    _run(program, "select", str(run), "--executor", "local", at=run)
    made = _timed(program, "explore", str(run), at=run)
    page, empty = run / "explore.html", run / "empty.html"
    empty.write_text('<!doctype html><html data-ready="yes"><title>empty</title></html>')
    return {
        "rows": rows,
        "made_seconds": made,
        "page_bytes": page.stat().st_size,
        "opened_seconds": open_page(page),
        "empty_page_opened_seconds": open_page(empty),
    }


def open_page(page: Path) -> float:
    """Seconds from the start of a new Chromium to the text of a page whose script says that it is ready: the median."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise ConfigError(f"no Chromium is installed: one of {', '.join(BROWSERS)} is wanted")
    times = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as profile:
            options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
            command = [browser, *options, "--virtual-time-budget=60000", page.absolute().as_uri()]
            texts: list[str] = []
            times.append(seconds(lambda: texts.append(_run(*command, at=page.parent))))  # noqa: B023
        if 'data-ready="yes"' not in texts[0]:
            raise InputError(f"{page} was not ready when Chromium gave its text")
    return round(statistics.median(times), 2)


def _timed(*command: str, at: Path, **environment: str) -> float:
    return round(seconds(lambda: _run(*command, at=at, **environment)), 2)


def _run(*command: str, at: Path, **environment: str) -> str:
    """What a command says. InputError with its last words where it fails."""
    done = subprocess.run(
        command, cwd=at, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout
