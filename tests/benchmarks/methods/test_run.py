"""Adapters against small command-line programs that take the repositories' options and write in their layouts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pynvml
import pytest

from benchmarks.environment import gpus, nvidia_driver
from benchmarks.methods import adapters, submission
from benchmarks.methods.memory import gpu_memory, session_memory
from benchmarks.suites.suite import ad_hoc_suite, images_by_id
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.images import decode
from pipelines.bench import infer as pipeline
from pipelines.bench import own
from pipelines.bench.making import Place
from pipelines.execution.progress import Progress

# A stand-in: takes the folder options of a repository's script, upscales by Pillow, and names its outputs as that
# script does. It records its arguments, so that a test sees the command as the program does.
PROGRAM = """
import json, os, sys, time
from pathlib import Path
from PIL import Image
arguments = sys.argv[1:]
taken = dict(zip(arguments, arguments[1:]))
inputs, outputs = Path(taken["{inputs}"]), Path(taken["{outputs}"])
Path("arguments.json").write_text(json.dumps(arguments))
print("loading weights", flush=True)
time.sleep(float(os.environ.get("SLOW", 0)))
if os.environ.get("BROKEN"):
    sys.exit("CUDA out of memory")
for k, path in enumerate(sorted(inputs.iterdir())):
    if os.environ.get("ONLY") and k >= int(os.environ["ONLY"]):
        sys.exit("killed half-way")
    assert path.suffix == ".png", f"stray file {{path}}"
    image = Image.open(path).convert("RGB")
    big = image.resize({size}, Image.Resampling.LANCZOS)
    stem = path.stem
    for name in {names}:
        (outputs / name).parent.mkdir(parents=True, exist_ok=True)
        big.save(outputs / name)
(outputs / "log.txt").write_text("not an image")
"""
TIMES_4 = "(image.width * 4, image.height * 4)"
LAUNCH = "import runpy, sys\nsys.argv = sys.argv[5:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
# adapter -> script, option of the inputs, of the outputs, size, files written for a stem
LAYOUTS = {
    "seesr": ("test_seesr.py", "--image_path", "--output_dir", TIMES_4, "[f'sample00/{stem}.png']"),
    "supir": ("test.py", "--img_dir", "--save_dir", TIMES_4, "[f'{stem}_0.png']"),
    "dreamclear": (
        *("test.py", "--image_path", "--save_dir", TIMES_4),
        "[f'results/output/{path.name}', f'results/input/{path.name}']",
    ),
    "resshift": ("inference_resshift.py", "-i", "-o", TIMES_4, "[f'{stem}.png']"),
    "stablesr": (
        *("scripts/sr_val_ddpm_text_T_vqganfin_oldcanvas_tile.py", "--init-img", "--outdir", TIMES_4),
        "[f'{stem}.png']",
    ),
    "sinsr": ("inference.py", "-i", "-o", TIMES_4, "[f'{stem}.png']"),
    "diffbir": ("inference.py", "--input", "--output", TIMES_4, "[f'{stem}.png']"),
    "lucidflux-published": (
        *("inference.py", "--control_image", "--output_dir", "(1024, 1024)"),
        "[f'{stem}_result.jpeg', f'{stem}_lq_processed.jpeg']",
    ),
    "pisa-sr": ("test_pisasr.py", "--input_image", "--output_dir", TIMES_4, "[f'{stem}.png']"),
    "tsd-sr": ("test/test_tsdsr.py", "-i", "-o", TIMES_4, "[f'{stem}.png']"),
    "invsr": ("inference_invsr.py", "-i", "-o", TIMES_4, "[f'{stem}.png']"),
    "adcsr": ("test.py", "--LR_dir", "--SR_dir", TIMES_4, "[f'{stem}.png']"),
    "faithdiff": ("test.py", "--img_dir", "--save_dir", TIMES_4, "[f'{stem}.png']"),
}
STAGED_ELSEWHERE = {"osediff", "hypir", "dit4sr"}  # test_staging.py and test_prompts.py: small inputs, prompts


def infer(method: str, inputs: Path, out: Path, **options: object) -> dict[str, object]:
    """In this process, as the command does after it has read its options."""
    place = {key: options.pop(key) for key in ("repo", "timeout_s", "model") if key in options}
    found = Place(python=sys.executable, **place)
    values = {"scale": 4, "seeds": [], "settings": []} | options
    return pipeline.infer_method(method, images_by_id(inputs), out, place=found, progress=Progress(True), **values)


def make_repository(root: Path, name: str) -> Path:
    """A git checkout that holds the stand-in of an adapter."""
    script, inputs, outputs, size, names = LAYOUTS[name]
    file = root / script
    file.parent.mkdir(parents=True)
    file.write_text(PROGRAM.format(inputs=inputs, outputs=outputs, size=size, names=names))
    if name == "dreamclear":  # python -m torch.distributed.launch finds this before any installed torch
        (root / "torch" / "distributed").mkdir(parents=True)
        (root / "torch" / "distributed" / "launch.py").write_text(LAUNCH)
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "stand-in"]):
        subprocess.run([*git, *command], check=True)
    return root


@pytest.fixture
def two(photos: Path, tmp_path: Path) -> Path:
    """Two inputs; one of them is a JPEG, since suites hold such."""
    from PIL import Image

    folder = tmp_path / "lq"
    folder.mkdir()
    shutil.copyfile(photos / "lq" / "coins.png", folder / "coins.png")
    shutil.copyfile(photos / "lq" / "coffee.png", folder / "coffee.png")
    with Image.open(photos / "lq" / "coffee.png") as image:
        assert image.size == (48, 48)
    return folder


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_each_layout_is_staged_run_and_collected(name: str, two: Path, tmp_path: Path) -> None:
    repo = make_repository(tmp_path / "repo", name)
    out = tmp_path / "out"
    seeds = [7] if adapters.load_adapter(name).takes("seed") else []
    summary = infer(name, two, out, repo=repo, seeds=seeds)
    assert (summary["images"], summary["missing"]) == (2, [])
    assert summary["wrong_size"] == []
    suffix = ".jpeg" if name == "lucidflux-published" else ".png"
    images = sorted(path.name for path in (out / name).iterdir() if path.suffix in (".png", ".jpeg"))
    assert images == [f"coffee{suffix}", f"coins{suffix}"]
    arguments = json.loads((repo / "arguments.json").read_text())
    assert "--seed" not in arguments if not seeds else arguments[arguments.index("--seed") + 1] == "7"
    if suffix == ".png":
        from PIL import Image

        with Image.open(two / "coins.png") as small:
            expected = small.convert("RGB").resize((192, 192), Image.Resampling.LANCZOS)
        assert np.array_equal(decode((out / name / "coins.png").read_bytes()), np.asarray(expected))
    about = json.loads((out / name / "method.json").read_text())
    head = subprocess.run(["git", "-C", str(repo), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert about["commit"] == head
    assert about["at_pinned_commit"] is False
    run = about["runs"]["7" if seeds else "0"][0]
    assert run["exit_code"] == 0
    assert run["wall_seconds"] > 0
    assert not [path for path in (out / name).iterdir() if path.name.startswith(".work")]


def test_the_folder_is_a_method_of_the_leaderboard(photos: Path, two: Path, bench, bench_here, tmp_path: Path) -> None:
    repo = make_repository(tmp_path / "repo", "supir")
    for seed in (("--seed", 1, "--seed", 2), ()):
        made = ["--inputs", two, "--out", tmp_path / f"out{len(seed)}", *seed]
        done = bench_here("infer", "supir", *made, "--repo", repo, "--python", sys.executable)
        assert done.returncode == 0, done.stderr
    references = tmp_path / "gt"
    references.mkdir()
    for name in ("coins", "coffee"):
        shutil.copyfile(photos / "gt" / f"{name}.png", references / f"{name}.png")
    done = bench("--outputs", tmp_path / "out4", "--gt", references, "--metrics", "psnr", "--json", "--num-cpus", 1,
                 "--out", tmp_path / "results")  # fmt: skip
    board = json.loads(done.stdout)
    assert board["metrics"]["psnr"]["rows"]["supir"]["seeds"] == 2
    assert "one seed" not in board["flags"]["supir"]
    assert board["runs"]["supir"]["seconds_per_image"] > 0


def test_what_is_there_is_not_made_again(two: Path, bench_here, tmp_path: Path) -> None:
    """A program that dies half-way: its images are kept, and the next call stages the others only."""
    repo = make_repository(tmp_path / "repo", "resshift")
    asked = [
        "infer",
        "resshift",
        "--inputs",
        two,
        "--out",
        tmp_path / "out",
        "--repo",
        repo,
        "--python",
        sys.executable,
    ]
    first = bench_here(*asked, "--json", "--max-failed", "0.1", ONLY="1")
    assert first.returncode == 4, first.stderr
    assert json.loads(first.stdout)["missing"] == ["coins"]
    before = (tmp_path / "out" / "resshift" / "coffee.png").stat().st_mtime_ns
    second = json.loads(bench_here(*asked, "--json").stdout)
    assert (second["images"], second["there_before"], second["missing"]) == (1, 1, [])
    assert (tmp_path / "out" / "resshift" / "coffee.png").stat().st_mtime_ns == before
    runs = json.loads((tmp_path / "out" / "resshift" / "method.json").read_text())["runs"]["0"]
    assert [(run["exit_code"], run["images"]) for run in runs] == [(1, 1), (0, 1)]
    (repo / "changed.txt").write_text("x")
    subprocess.run(["git", "-C", str(repo), "add", "-A"], check=True)
    other = bench_here(*asked)
    assert other.returncode == 2
    assert "made with another commit" in other.stderr


def test_what_an_interrupted_run_had_finished_is_kept(two: Path, tmp_path: Path, monkeypatch) -> None:
    """Ctrl-C while the program waits after its first image, and a harness that was killed: neither loses that image."""
    repo = make_repository(tmp_path / "repo", "stablesr")
    script = repo / LAYOUTS["stablesr"][0]
    pause = "        time.sleep(float(os.environ.get('PAUSE', 0)))\n"
    script.write_text(script.read_text().replace("big.save(outputs / name)\n", "big.save(outputs / name)\n" + pause))
    monkeypatch.setenv("PAUSE", "60")
    folder = tmp_path / "out" / "stablesr"

    def interrupt() -> None:
        while not list(folder.glob(".work-*/outputs/coffee.png")):
            time.sleep(0.05)
        time.sleep(0.3)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # who waits for the program is woken

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        infer("stablesr", two, tmp_path / "out", repo=repo)
    assert decode((folder / "coffee.png").read_bytes()).shape == (192, 192, 3)
    assert not list(folder.glob(".work-*"))
    # As SIGKILL leaves it: one output whole, one cut short.
    left = folder / ".work-0-abcd" / "outputs"
    left.mkdir(parents=True)
    shutil.move(folder / "coffee.png", left / "coffee.png")
    (left / "coins.png").write_bytes((left / "coffee.png").read_bytes()[:500])
    monkeypatch.setenv("PAUSE", "0")
    assert infer("stablesr", two, tmp_path / "out", repo=repo)["images"] == 1
    assert {path.name for path in folder.iterdir()} == {"coffee.png", "coins.png", "method.json", "log.txt"}
    assert decode((folder / "coins.png").read_bytes()).shape == (192, 192, 3)


def test_settings_are_in_the_name(two: Path, tmp_path: Path) -> None:
    repo = make_repository(tmp_path / "repo", "seesr")
    infer("seesr", two, tmp_path / "out", repo=repo, settings=["steps=20"])
    arguments = json.loads((repo / "arguments.json").read_text())
    assert arguments[arguments.index("--num_inference_steps") + 1] == "20"
    assert arguments[arguments.index("--prompt") + 1] == ""
    assert json.loads((tmp_path / "out" / "seesr[steps=20]" / "method.json").read_text())["settings"]["steps"] == "20"


def stand_in_driver(monkeypatch: pytest.MonkeyPatch, used: Callable[[], list[dict[int, int | None]]]) -> None:
    """NVIDIA's library on a machine without a driver: `used` gives pid -> MB of each GPU, None where it is not told."""

    def running(number: int) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=None if mb is None else mb * 2**20 + 1)
            for pid, mb in used()[number].items()
        ]

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(used()))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda number: number)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", running)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda number: f"NVIDIA H{number}")
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "570.1")


def test_gpus_are_listed_and_their_memory_is_of_the_session_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_driver(monkeypatch, lambda: [{1: 5, 7: 100}, {7: 20, 8: None, 9: 3}])
    assert gpus() == ["NVIDIA H0, 570.1", "NVIDIA H1, 570.1"]
    with nvidia_driver() as driver:
        assert gpu_memory(driver, {7, 8}) == 120

        def refuse(_number: int) -> None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", refuse)
        assert gpu_memory(driver, {7, 8}) is None
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", refuse)
    assert gpus() == []

    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert gpus() == []
    with nvidia_driver() as driver:
        assert gpu_memory(driver, {7}) is None


def test_the_memory_of_a_session_is_what_the_kernel_says() -> None:
    """A shell and its child, against /proc; this process is in another session."""
    code = "import time; block = bytearray(30_000_000); print('there', flush=True); time.sleep(60)"
    with subprocess.Popen(
        ["sh", "-c", f'{sys.executable} -c "{code}"; true'], stdout=subprocess.PIPE, start_new_session=True
    ) as shell:
        try:
            assert shell.stdout is not None
            shell.stdout.readline()
            found = session_memory(shell.pid)
            told = {pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in found}
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    assert len(found) == 2
    assert shell.pid in found
    assert os.getpid() not in found
    assert max(found.values()) > 30_000_000
    assert all(abs(found[pid] - told[pid]) < 2**20 for pid in found)


def test_time_and_memory_are_recorded_and_a_limit_stops_it(two: Path, tmp_path: Path, monkeypatch) -> None:
    """NVIDIA's library is a stand-in of two GPUs: the program, one process, has 1000 MB and 500 MB on them."""
    stand_in_driver(monkeypatch, lambda: [{pid: 1000 for pid in psutil.pids()}, {pid: 500 for pid in psutil.pids()}])
    repo = make_repository(tmp_path / "repo", "sinsr")
    monkeypatch.setenv("SLOW", "1.2")
    summary = infer("sinsr", two, tmp_path / "out", repo=repo)
    assert summary["peak_gpu_mb"] == 1500
    assert summary["seconds_per_image"] > 0.6
    run = json.loads((tmp_path / "out" / "sinsr" / "method.json").read_text())["runs"]["0"][0]
    assert 3 < run["peak_rss_mb"] < 1000
    monkeypatch.setenv("SLOW", "60")
    with pytest.raises(InputError, match="was stopped at its time limit and made no image: loading weights"):
        infer("sinsr", two, tmp_path / "late", repo=repo, timeout_s=0.7)


def test_a_broken_program_is_told_with_its_last_line(two: Path, bench_here, tmp_path: Path) -> None:
    repo = make_repository(tmp_path / "repo", "diffbir")
    asked = ["infer", "diffbir", "--inputs", two, "--out", tmp_path / "out", "--repo", repo]
    done = bench_here(*asked, "--python", sys.executable, BROKEN="1")
    assert done.returncode == 3
    assert "ended with exit code 1 and made no image: CUDA out of memory" in done.stderr
    assert "CUDA out of memory" in (tmp_path / "out" / "diffbir" / "log.txt").read_text()
    done = bench_here(*asked[:-2], "--repo", repo, "--python", "no-such-python")
    assert done.returncode == 2
    done = bench_here(*asked[:-2])
    assert done.returncode == 2
    assert "git clone https://github.com/XPixelGroup/DiffBIR, git checkout 3f8b530" in done.stderr
    with pytest.raises(ConfigError, match=r"has no inference\.py: is it a checkout of .*/DiffBIR\?"):
        infer("diffbir", two, tmp_path / "other", repo=tmp_path)


def test_the_interpreter_is_found_from_where_the_command_is_given(two: Path, tmp_path: Path, monkeypatch) -> None:
    """`--python env/bin/python` is a path from here, though the program starts in a checkout two folders away."""
    repo = make_repository(tmp_path / "repo", "sinsr")
    monkeypatch.chdir(tmp_path)
    place = Place(repo=Path("repo"), python=os.path.relpath(sys.executable, tmp_path))
    done = pipeline.infer_method("sinsr", images_by_id(two), tmp_path / "out", 4, [], [], place, Progress(True))
    assert (done["images"], done["missing"]) == (2, [])
    assert (repo / "arguments.json").exists()


def test_inputs_are_written_as_png_where_the_codec_would_follow(photos: Path, tmp_path: Path) -> None:
    from PIL import Image

    from benchmarks.methods.staging import stage

    with Image.open(photos / "lq" / "coins.png") as image:
        image.save(tmp_path / "coins.jpg", quality=90)
    for how, suffix in (("png", ".png"), ("link", ".jpg")):
        stage({"coins": tmp_path / "coins.jpg"}, tmp_path / how, how)
        (staged,) = (tmp_path / how).iterdir()
        assert staged.name == f"coins{suffix}"
        assert np.array_equal(decode(staged.read_bytes()), decode((tmp_path / "coins.jpg").read_bytes()))
    with Image.open(photos / "lq" / "coins.png") as image:
        image.save(tmp_path / "coins.webp", lossless=True)
    stage({"coins": tmp_path / "coins.webp"}, tmp_path / "webp", "link")  # some repositories read no WebP
    assert decode((tmp_path / "webp" / "coins.png").read_bytes()).shape == (48, 48, 3)


def test_a_dry_run_shows_the_recipe_and_the_command(two: Path, bench_here) -> None:
    told = json.loads(bench_here("infer", "dreamclear", "--inputs", two, "--scale", 2, "--dry-run", "--json").stdout)
    assert (told["images"], told["scale"], told["commit"]) == (2, 2, "fbe0938")
    assert told["environment"][0] == "conda create -n dreamclear python=3.9"
    assert told["command"][:3] == ["<python>", "-m", "torch.distributed.launch"]
    assert told["command"][told["command"].index("--upscale") + 1] == "2"


def test_a_checkpoint_says_which_suites_it_was_validated_on(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, tmp_path / "seen.safetensors", metadata={"contaminated": "reallq250,realsr"})
    save_file({"a": np.zeros(3)}, tmp_path / "clean.safetensors")

    def marked(name: str) -> list[str]:
        return own.describe_own("lucidflux", 4, [], Place(model="tiny", trained=str(tmp_path / name)))[0][
            "contaminated"
        ]

    assert marked("seen.safetensors") == ["reallq250", "realsr"]
    assert marked("clean.safetensors") == []
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(InputError, match="is not a complete safetensors file"):
        marked("text.safetensors")


def test_adapters_are_whole() -> None:
    assert set(adapters.adapter_names()) == LAYOUTS.keys() | STAGED_ELSEWHERE
    for name in adapters.adapter_names():
        adapter = adapters.load_adapter(name)
        assert adapter.environment
        assert adapter.gotchas
        assert adapter.licence
        assert len(adapter.commit) == 7
    with pytest.raises(ConfigError, match="seesr"):
        adapters.load_adapter("seesrr")
    with pytest.raises(ConfigError, match="has the settings steps, guidance"):
        adapters.resolve(adapters.load_adapter("seesr"), ["step=3"])


@pytest.mark.parametrize("name", ["bicubic", "lanczos"])
def test_own_resamplers_are_pillows(name: str, two: Path, tmp_path: Path) -> None:
    from PIL import Image

    infer(name, two, tmp_path, scale=3)
    with Image.open(two / "coins.png") as small:
        expected = small.resize((144, 144), getattr(Image.Resampling, name.upper()))
    assert np.array_equal(decode((tmp_path / name / "coins.png").read_bytes()), np.asarray(expected))
    again = infer(name, two, tmp_path, scale=3)
    assert (again["images"], again["there_before"]) == (0, 2)
    with pytest.raises(ConfigError, match="made with another settings"):
        infer(name, two, tmp_path, scale=4)


def test_an_output_belongs_to_its_input(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A replaced input, with the size and the time of the one before, and an output that is cut or changed."""
    folder = tmp_path / "out" / "bicubic"
    infer("bicubic", two, tmp_path / "out")
    before = {path.stem: path.read_bytes() for path in folder.glob("*.png")}
    records = json.loads((folder / "method.json").read_text())["made"]["0"]
    for id_, record in records.items():
        assert record == {
            "input_sha256": hashlib.sha256((two / f"{id_}.png").read_bytes()).hexdigest(),
            "sha256": hashlib.sha256(before[id_]).hexdigest(),
        }
    coffee, coins = ((two / f"{name}.png").read_bytes() for name in ("coffee", "coins"))
    state = (two / "coffee.png").stat()
    (two / "coffee.png").write_bytes(coins)
    os.utime(two / "coffee.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    again = infer("bicubic", two, tmp_path / "out")
    assert (again["images"], again["there_before"]) == (1, 1)
    assert (folder / "coffee.png").read_bytes() == before["coins"]
    assert "coffee is made again (1 such)" in capsys.readouterr().err
    (folder / "coins.png").write_bytes(before["coins"][:300])
    assert infer("bicubic", two, tmp_path / "out")["images"] == 1
    assert (folder / "coins.png").read_bytes() == before["coins"]
    (folder / "coins.png").write_bytes(before["coins"] + b"x")
    (two / "coffee.png").write_bytes(coffee)
    (method,) = submission.find_methods([str(folder)])
    suite = ad_hoc_suite(two, None, set())
    submission.inspect([method], suite, submission.check_ids([method], suite))
    assert "made of other inputs than these: 1 images" in method.flags
    assert "changed since `bench infer` made them: 1 images" in method.flags
    infer("bicubic", two, tmp_path / "out")
    (method,) = submission.find_methods([str(folder)])
    submission.inspect([method], suite, submission.check_ids([method], suite))
    assert not [flag for flag in method.flags if "inputs" in flag or "changed" in flag]
    (two / "coffee.png").write_bytes(b"no image")
    gone = infer("bicubic", two, tmp_path / "out")
    assert (gone["images"], gone["missing"], sorted(gone["remarks"])) == (0, ["coffee"], ["coffee"])
    assert gone["remarks"]["coffee"].startswith("not_an_image")
    assert {path.name for path in folder.iterdir()} == {"coins.png", "method.json"}
    (two / "coffee.png").write_bytes(coffee)
    infer("bicubic", two, tmp_path / "out")
    assert (folder / "coffee.png").read_bytes() == before["coffee"]


def test_what_a_killed_run_left_of_a_replaced_input_is_not_taken(two: Path, tmp_path: Path) -> None:
    repo, folder = make_repository(tmp_path / "repo", "stablesr"), tmp_path / "out" / "stablesr"
    infer("stablesr", two, tmp_path / "out", repo=repo)
    wanted = {path.stem: path.read_bytes() for path in folder.glob("*.png")}
    left = folder / ".work-0-abcd" / "outputs"
    left.mkdir(parents=True)
    shutil.move(folder / "coffee.png", left / "coffee.png")
    shutil.copyfile(two / "coins.png", two / "coffee.png")
    assert infer("stablesr", two, tmp_path / "out", repo=repo)["images"] == 1
    assert (folder / "coffee.png").read_bytes() == wanted["coins"]


def test_images_of_one_seed_are_not_taken_for_those_of_another(two: Path, tmp_path: Path) -> None:
    infer("bicubic", two, tmp_path / "one", seeds=[1])
    with pytest.raises(ConfigError, match="was made with seed 1, not 2: choose another --out"):
        infer("bicubic", two, tmp_path / "one", seeds=[2])
    with pytest.raises(ConfigError, match="holds images of one seed"):
        infer("bicubic", two, tmp_path / "one", seeds=[1, 2])
    infer("bicubic", two, tmp_path / "several", seeds=[1, 2])
    assert infer("bicubic", two, tmp_path / "several", seeds=[2, 3])["there_before"] == 2
    with pytest.raises(ConfigError, match="was made with seed 1, 2, 3, not 0"):
        infer("bicubic", two, tmp_path / "several")


def test_lucidflux_is_a_method_with_its_settings(two: Path, tmp_path: Path) -> None:
    """The pipeline of the tiny model gives the images that `lucidflux restore` gives."""
    pytest.importorskip("diffusers")
    from lucidflux_data.storage.folder import Folder
    from pipelines.restoration import job as restore
    from pipelines.restoration.config import RestoreConfig
    from pipelines.restoration.records import list_remaining
    from pipelines.restoration.unit import RestoreUnit

    (two / "coffee.png").unlink()
    infer("lucidflux[flux,1]", two, tmp_path / "out", model="tiny", seeds=[3])
    made = tmp_path / "out" / "lucidflux[flux,1,tiny]" / "coins.png"
    config = RestoreConfig(model={"name": "tiny"}, steps=1, upscale=4, schedule="flux", seed=3)
    folder = Folder(tmp_path / "restored")
    units = list_remaining(folder, restore.start(folder, [str(two)], config), 1)
    assert [unit.size for unit in restore.run_here(folder, units, RestoreUnit(config))] == [1]
    assert made.read_bytes() == folder.read("coins.png")
    about = json.loads(made.with_name("method.json").read_text())
    assert about["settings"] == {"schedule": "flux", "steps": "1", "model": "tiny", "scale": "4"}
    infer("proxy", two, tmp_path / "out", model="tiny")
    assert decode((tmp_path / "out" / "proxy[tiny]" / "coins.png").read_bytes()).shape == (192, 192, 3)


OWN_MISTAKES = {
    "lucidflux[linear,20]": "published or flux",
    "lucidflux[flux,0]": "published or flux",
    "bicubic[3]": "has no settings",
    "proxy": "--weights FOLDER",
    "srgan": "there is no method 'srgan'",
}


@pytest.mark.parametrize("method", list(OWN_MISTAKES))
def test_mistakes(method: str, two: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=OWN_MISTAKES[method]):
        infer(method, two, tmp_path)


def test_suite_or_inputs(two: Path, bench_here, tmp_path: Path) -> None:
    done = bench_here("infer", "bicubic", "--inputs", two, "--suite", "offline-photos", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (2, "error: give --suite NAME or --inputs DIR\n")
