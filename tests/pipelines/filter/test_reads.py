"""A command reads each measure file once; scores/basic, whose 30 million rows are never held, a few times."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.selection.config import make_config
from lucidflux_data.storage.folder import Folder
from pipelines.filter import job
from tests.support.here import QUIET, Here, run_filter


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file below a folder was opened to be read, by its name."""
    counted: Counter[str] = Counter()
    read = Folder.read

    def counting(self: Folder, name: str, *rest: object, **options: object) -> bytes:
        counted[name] += 1
        return read(self, name, *rest, **options)

    monkeypatch.setattr(Folder, "read", counting)
    return counted


def test_a_strict_select_reads_each_measure_file_once(
    candidates: Path, photo_paths: list[Path], tmp_path: Path, reads: Counter[str]
) -> None:
    out = tmp_path / "run"
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / photo_paths[0].name).write_bytes(photo_paths[0].read_bytes())
    rules = ("iqa.metric=niqe", "cut.top_fraction=0.5", "rules.min_jpeg_quality=30", "rules.max_blockiness=3")
    more = ("select.near_duplicates=4", f"select.forbid={suite}", "rules.min_laplacian_variance=20")
    run_filter(candidates, out, *rules, *more)
    folder = Folder(str(out))
    ledger = folder.read_table("selected.parquet", ["uri"])
    labels = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"uri": ledger["uri"], "label": list(range(ledger.num_rows))}), labels)
    changed = (f"select.join={labels}", "select.where=label >= 0 and blockiness > 0", "select.carry=label,noise")
    config = make_config(settings=[*rules, *more, *changed])
    reads.clear()
    counts = job.select(folder, config, Here(), QUIET)
    assert counts["kept"] > 0
    measured = {name: count for name, count in reads.items() if name.startswith("scores/")}
    kinds = {name.split("/")[1].split("-")[0] for name in measured}
    assert kinds == {"basic", "history", "niqe", "firewall"}
    beside = {name: count for name, count in measured.items() if not name.startswith("scores/basic/")}
    assert set(beside.values()) == {1}
    streamed = {count for name, count in measured.items() if name not in beside}
    assert len(streamed) == 1
    # The rules, the ledger and `--join` once each, and the uris once more for what stands beside them: three measures,
    # the column of `--where`, the ones that are carried.
    assert streamed <= set(range(9))
