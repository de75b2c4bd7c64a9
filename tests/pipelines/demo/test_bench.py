"""The ranking at the end of the demo: four methods, intervals, a pinned suite; a second call scores nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.demo.bench import run_bench_demo
from pipelines.execution.opening import open_executor
from pipelines.execution.progress import Progress


def test_four_methods_are_ranked_with_intervals(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with open_executor("local", 1, 0, None) as executor:
        told = run_bench_demo(tmp_path, executor, Progress())
        assert told["ranked_methods"] == 4
        board = json.loads((tmp_path / "results" / "leaderboard.json").read_text())
        for name in ("niqe", "psnr", "ssim"):
            rows = board["metrics"][name]["rows"]
            assert sorted(row["rank"] for row in rows.values()) == [1, 2, 3, 4]
            assert all(row["low"] < row["mean"] < row["high"] for row in rows.values())
            assert len(board["metrics"][name]["pairs"]) == 6
        assert "|pin:" in board["signature"]
        ssim = {method: row["mean"] for method, row in board["metrics"]["ssim"]["rows"].items()}
        assert ssim["nlmeans"] > ssim["lanczos"]  # the inputs are noisy
        capsys.readouterr()
        assert run_bench_demo(tmp_path, executor, Progress()) == told
        assert "psnr: 44 done before, 0 to do" in capsys.readouterr().err
    again = json.loads((tmp_path / "results" / "leaderboard.json").read_text())
    assert {**again, "runs": board["runs"]} == board  # outputs were made anew: their times differ, nothing else


@pytest.mark.slow
def test_the_demo_with_torch_ranks_real_esrgan(tmp_path: Path, monkeypatch) -> None:
    """Sharper than interpolation, and no truer: the trade that papers report."""
    pytest.importorskip("ncnn")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with open_executor("local", 1, 0, None) as executor:
        assert run_bench_demo(tmp_path, executor, Progress(), ("realesrgan",))["ranked_methods"] == 5
    metrics = json.loads((tmp_path / "results" / "leaderboard.json").read_text())["metrics"]
    assert metrics["niqe"]["rows"]["realesrgan[x4plus]"]["rank"] == 1
    assert sorted(row["rank"] for row in metrics["psnr"]["rows"].values()) == [1, 2, 3, 4, 5]
    closeness = {method: row["mean"] for method, row in metrics["lr_consistency"]["rows"].items()}
    assert closeness["realesrgan[x4plus]"] < closeness["bicubic"] - 10
