"""Images, licences and suites with hostile names: in the pages, in a real Chromium, and on the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.audit.report import make_report
from lucidflux_data.escapes import for_html, show
from lucidflux_data.pairs.card import card_text, make_card
from lucidflux_data.pairs.view import make_view
from lucidflux_data.storage.folder import Folder
from tests.lucidflux_data.test_escapes import is_seen
from tests.support import chromium
from tests.support.here import run_filter, run_synthesize
from tests.support.hostile import TEXTS
from tests.support.pages import check_page
from tests.support.run_files import rewrite_run

LONG = "x" * 200
LOOSE = ["rules.max_laplacian_variance=999999", "rules.min_laplacian_variance=0", "iqa.metric=none"]


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (112, 112, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of images whose names and licences are hostile, and of a table with hostile uris."""
    root = tmp_path_factory.mktemp("hostile")
    source = root / "source"
    source.mkdir()
    rows = []
    for number, text in enumerate((*TEXTS, LONG)):
        name = f"{number} {text}.jpg".replace("/", "\u2215")
        (source / name).write_bytes(jpeg(number))
        rows.append({"file_name": name, "license": text, "licence": text, "group": text})
    pq.write_table(pa.Table.from_pylist(rows), source / "metadata.parquet")
    run_filter(source, root / "run", *LOOSE, "select.carry=license,licence", "rules.max_flat_fraction=1")
    return root / "run"


def test_pages_of_hostile_names_do_nothing(run: Path, tmp_path: Path, tab: chromium.Page) -> None:
    about = json.loads((run / "run.json").read_text())
    rewrite_run(run, about | {"preset": "".join(TEXTS)})
    pairs = tmp_path / "pairs"
    run_synthesize(run, pairs, "degrade.size=96", "variants=1")
    told = json.loads((pairs / "run.json").read_text())
    rewrite_run(pairs, told | {"label": "".join(TEXTS)})
    (tmp_path / "report.html").write_bytes(make_report(Folder(run)))
    (tmp_path / "view.html").write_bytes(make_view(Folder(pairs), len(TEXTS) + 1))
    assert make_report(Folder(run)) == (tmp_path / "report.html").read_bytes(), "equal runs give equal bytes"
    assert make_view(Folder(pairs), len(TEXTS) + 1) == (tmp_path / "view.html").read_bytes()
    rewrite_run(run, about)
    for name in ("report.html", "view.html"):
        check_page(tab, tmp_path / name)
        text = tab.value("document.documentElement.textContent")
        assert tab.value("document.documentElement.dataset.hostile ?? null") is None
        assert tab.value("document.querySelectorAll('[onerror], [onload], [onmouseover]').length") == 0
        assert is_seen(text, "\n\t")
        missing = [t for t in TEXTS if show(t.replace("/", "\u2215")) not in text and show(t, lines=True) not in text]
        assert missing == []
        assert all(tab.value("[...document.images].map(i => i.alt)")), "each picture says what it is of"
    assert LONG in text
    card = card_text(make_card(Folder(pairs), None))
    assert is_seen(card, "\n")
    assert "<script>" not in card
    assert for_html("<script>") in card


@pytest.mark.parametrize("command", ["explain", "what-if", "verify", "summary"])
def test_the_terminal_gets_no_control_sequence(command: str, run: Path, data_command) -> None:
    ledger = pq.read_table(run / "selected.parquet").to_pylist()
    for number in (25, 26) if command == "explain" else (0,):
        row = next(row for row in ledger if row["source_key"].startswith(f"{number} "))
        arguments = {
            "explain": ("explain", run, row["key"]),
            "summary": ("explain", run, "\x1b[2J\u202eno such image"),
        }.get(command, (command, run))
        done = data_command(*arguments)
        assert is_seen(done.stdout + done.stderr, "\n")
        assert done.returncode == (3 if command == "summary" else 0), done.stderr


def test_a_source_with_a_hostile_name_is_one_sentence(tmp_path: Path, data_command) -> None:
    name = f"{tmp_path}/\x1b[2Jno\nsuch\u202e"
    done = data_command("filter", name, "--out", tmp_path / "run", "--executor", "local", "--iqa", "none")
    assert done.returncode == 3
    assert is_seen(done.stderr, "\n")
    assert done.stderr.count("\n") == 1
