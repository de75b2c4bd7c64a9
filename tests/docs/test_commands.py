"""Every command and every Python block of README.md and docs/ runs on a few photos, in the order of the pages, or is
marked and parsed."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cli
from tests.support import doc_blocks
from tests.support.paths import ROOT
from tests.support.photos import write_small

PAGES = doc_blocks.pages()
IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]
MAINS = {"lucidflux": cli.lucidflux_main, "lucidflux-data": cli.data_main}
BLOCKS = [block for path in PAGES for block in doc_blocks.read_blocks(path)]
MARKED = [block for block in BLOCKS if block.language == "sh" and block.mark]
MARKED_PYTHON = [block for block in BLOCKS if block.language == "python" and block.mark]
AGAIN = "lucidflux-data pack "  # does not repeat what it did where another selection came between
APART = ("docs/python.md",)  # whose snippets tests/docs/test_python.py runs, and compares with what they tell


class Runner:
    """Runs the commands of one page after the other in one folder; a line that stands on several pages is run once, but
    for AGAIN."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wrong: dict[Path, list[str]] = {}
        self._seen: set[str] = set()

    def run_until(self, page: Path) -> list[str]:
        """What went wrong on a page, the pages before it having been run."""
        for path in PAGES[: PAGES.index(page) + 1]:
            if path not in self.wrong:
                self.wrong[path] = list(self._run_page(path))
        return self.wrong[page]

    def _run_page(self, path: Path) -> Iterator[str]:
        for name, content in doc_blocks.files_of(path):
            (self.folder / name).write_text(content)
        for block in doc_blocks.read_blocks(path):
            if block.language == "sh" and not block.mark:
                for command in doc_blocks.split_commands(block.text):
                    if command not in self._seen or command.startswith(AGAIN):
                        self._seen.add(command)
                        said = self._run(command)
                        if said:
                            yield f"{block.page}:{block.line}: {command}\n{said}"
            elif block.language == "python" and not block.mark and block.page not in APART:
                said = self._run_python(block)
                if said:
                    yield f"{block.page}:{block.line}: {said}"

    def _run_python(self, block: doc_blocks.Block) -> str:
        """Nothing, or what was raised. Each block stands alone, as a reader may paste it, in a process that has no
        threads yet: some start workers. The same statements are run once."""
        what = ast.dump(ast.parse(block.text))
        if what in self._seen:
            return ""
        self._seen.add(what)
        command = [sys.executable, "-c", block.text]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        return "" if done.returncode == 0 else done.stderr[-2000:]

    def _run(self, command: str) -> str:
        """Nothing, or the exit code and what the command said."""
        if command.split()[0] not in MAINS:
            done = subprocess.run(["bash", "-c", command], cwd=self.folder, capture_output=True, text=True, check=False)
            return "" if done.returncode == 0 else f"exit {done.returncode}: {done.stderr}"
        words = doc_blocks.expand(command, self.folder)
        words += _quick(words)
        err, code = io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(err), contextlib.redirect_stdout(err):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", words)
            try:
                MAINS[words[0]]()
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return "" if code == 0 else f"exit {code}: {err.getvalue()[-2000:]}"


def _quick(words: list[str]) -> list[str]:
    """Options for a small machine, where a command has them and does not say otherwise."""
    wanted = {"--executor": "local", "--num-cpus": "1", "--resamples": "200"}
    known = doc_blocks.options_of(words)
    return [part for name, value in wanted.items() if name in known and name not in words for part in (name, value)]


@pytest.fixture(scope="module")
def runner(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A home of its own, with the folders that the pages speak of: photos, gt and lq, RealSR/HR, labels.parquet."""
    home = tmp_path_factory.mktemp("home")
    colour = [path for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee", "rocket")]
    photos = write_small(home / "photos", colour, 320, 288)
    write_small(home / "gt", colour[:3], 192, 160)
    write_small(home / "more", [path for path in photo_paths if path.stem in ("retina", "hubble_deep_field")], 320, 288)
    (home / "lq").mkdir()
    for path in (home / "gt").iterdir():
        cv2.imwrite(
            str(home / "lq" / path.name), cv2.resize(cv2.imread(str(path)), (96, 80), interpolation=cv2.INTER_AREA)
        )
    (home / "RealSR").mkdir()
    write_small(home / "RealSR" / "HR", [path for path in photo_paths if path.stem in ("brick", "coins")], 256, 256)
    keys = [hashlib.sha256(path.read_bytes()).hexdigest()[:20] for path in sorted(photos.iterdir())]
    table = {"key": keys, "aesthetic": [6.0] * 4, "nsfw": [0.0] * 4, "license": ["CC0"] * 4, "photographer": ["NN"] * 4}
    pq.write_table(pa.table(table), home / "labels.parquet")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "HOME": home,
            "XDG_CACHE_HOME": home / ".cache",
            "LUCIDFLUX_SUITES": home / "suites",
        }.items():
            patch.setenv(name, str(value))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield Runner(home)


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_every_block_says_what_it_is(path: Path) -> None:
    blocks = doc_blocks.read_blocks(path)
    assert path.read_text().count("\n```") == 2 * len(blocks), "a fence is not closed, or not at the start of its line"
    assert [f"line {block.line} names no language" for block in blocks if not block.language] == []
    assert [
        f"line {block.line}: bash, write sh" for block in blocks if block.language in ("bash", "shell", "console")
    ] == []
    assert [
        block.mark
        for block in blocks
        if block.language in ("sh", "python") and block.mark not in ("", *doc_blocks.MARKS)
    ] == []


@pytest.mark.parametrize("block", MARKED, ids=lambda block: f"{block.page}:{block.line}")
def test_a_marked_command_is_one_that_the_programs_take(block: doc_blocks.Block, tmp_path: Path) -> None:
    commands = doc_blocks.split_commands(block.text)
    assert commands
    for command in commands:
        doc_blocks.check_command(command, tmp_path)


@pytest.mark.parametrize("block", MARKED_PYTHON, ids=lambda block: f"{block.page}:{block.line}")
def test_a_marked_block_of_python_compiles_and_imports_what_there_is(block: doc_blocks.Block) -> None:
    doc_blocks.check_python(block.text)


@pytest.mark.parametrize("text", ["x = (", "from lucidflux_data import Nothing", "import lucidflux_data.nothing"])
def test_a_block_of_python_that_is_wrong_is_found(text: str) -> None:
    with pytest.raises((SyntaxError, AttributeError, ImportError)):
        doc_blocks.check_python(text)


def test_few_blocks_are_marked() -> None:
    """Of Python: two want published weights, three are for readers of others, and one network takes minutes."""
    by_mark = Counter(block.mark for block in MARKED_PYTHON)
    assert by_mark == {"needs-weights": 2, "needs-package": 3, "long": 1}


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_the_commands_of_a_page_run(path: Path, runner: Runner) -> None:
    assert runner.run_until(path) == []


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_commands_inside_sentences_name_what_there_is(path: Path) -> None:
    assert [span for span in doc_blocks.spans(path) if not doc_blocks.is_known(span)] == []


def test_a_span_that_is_wrong_is_found() -> None:
    assert doc_blocks.is_known("bench --suite S")
    assert doc_blocks.is_known("lucidflux-data pack RUN --strip gps,author")
    assert doc_blocks.is_known("weights verify")
    assert not doc_blocks.is_known("lucidflux-data pck RUN")
    assert not doc_blocks.is_known("pack RUN --stripe gps")
    assert not doc_blocks.is_known("lucidflux weights nothing")


@pytest.mark.parametrize(
    "command",
    [
        "lucidflux-data filtr photos --out run",
        "lucidflux-data filter photos --out run --top 3",
        "lucidflux-data filter photos",
        "lucidflux-data filter photos --out run --limit many",
        "lucidflux-data filter photos --out run --set rules.nothing=1",
        "lucidflux train --data pairs --out run --config lucidflux --set betas=2",
        "torchrun --no-python lucidflux train --data pairs",
        "make nothing",
        "pip install 'lucidflux[nothing]'",
        "python -m benchmarks.throughput.main nothing",
        "unheard-of photos",
    ],
)
def test_a_command_that_is_wrong_is_found(command: str, tmp_path: Path) -> None:
    with pytest.raises(Exception):  # noqa: B017 - click's, ours or an assertion
        doc_blocks.check_command(command, tmp_path)


def test_a_block_is_split_as_a_shell_splits_it() -> None:
    text = "# a note\na 'b # c' \"$(d && e)\" # f\ng \\\n  --h i#j && k\n\nl\n"
    assert doc_blocks.split_commands(text) == ["a 'b # c' \"$(d && e)\"", "g    --h i#j", "k", "l"]
