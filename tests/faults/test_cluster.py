"""Faults on a cluster of three nodes on this machine: workers, actors, nodes, memory; and docs/cluster.md followed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import psutil
import pytest
from ray._private.utils import get_system_memory, get_used_memory

from lucidflux_data.errors import ConfigError, Interrupted
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.storage.folder import Folder
from pipelines.execution.local import LocalExecutor
from pipelines.execution.on_ray import RayExecutor
from pipelines.execution.preflight import preflight
from pipelines.execution.progress import Progress
from pipelines.execution.worker import Events, Unit
from tests.support.paths import ROOT
from tests.support.scenarios import WIDE, Fault, check, failing, kill_worker, remote_tree, run_job

RAY = [sys.executable, "-m", "ray.scripts.scripts"]  # `ray`, of this environment
COMMAND = str(Path(sys.executable).with_name("lucidflux-data"))


@pytest.fixture(scope="module")
def cluster(local: LocalExecutor) -> Iterator[Any]:
    """Three nodes of one CPU on this machine."""
    local.close()  # its processes would share the two cores
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 * 2**20}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **memory})
    started.spare = [started.add_node(num_cpus=1, **memory) for _ in range(2)]
    started.memory = memory
    yield started
    started.shutdown()


def lose_node(cluster: Any) -> None:
    cluster.remove_node(cluster.spare.pop(0), allow_graceful=False)


def replace_node(cluster: Any) -> None:
    while len(cluster.spare) < 2:
        cluster.spare.append(cluster.add_node(num_cpus=1, **cluster.memory))
    cluster.wait_for_nodes()
    time.sleep(0.2)


@contextlib.contextmanager
def joined(cluster: Any) -> Iterator[RayExecutor]:
    replace_node(cluster)
    executor = RayExecutor(None, 0, cluster.address)
    try:
        assert executor.description.startswith(f"Ray cluster at {cluster.address}: 3 nodes, 3 CPUs")
        yield executor
    finally:
        executor.close()


def test_preflight_speaks_of_each_node(
    cluster: Any, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with joined(cluster) as executor:
        preflight(executor, [f"file://{photos}"], Folder(str(tmp_path / "run")), "none", Progress())
        assert "preflight: 3 nodes" in capsys.readouterr().err
        with pytest.raises(ConfigError, match=r"node .*: .*nowhere is not there"):
            preflight(executor, ["file:///nowhere"], Folder(str(tmp_path / "run")), "none", Progress())
        idle = cluster.add_node(num_cpus=0, **cluster.memory)  # as the head of docs/cluster.md: it runs no unit
        cluster.wait_for_nodes()
        preflight(executor, [f"file://{photos}"], Folder(str(tmp_path / "run")), "none", Progress())
        assert "preflight: 3 nodes" in capsys.readouterr().err
        cluster.remove_node(idle)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "at"), [(1, 8), (0, 3), (2, 10), (3, 13)])
def test_ray_worker_or_actor_killed(
    seed: int, at: int, photos: Path, cluster: Any, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    """Units 1 to 6 are scored by tasks, 7 to 12 by actors of the metric, 13 to 15 are packed by tasks."""
    run = tmp_path / "run"
    fault = Fault(at, lambda: kill_worker(run))
    with joined(cluster) as executor:
        run_job(f"file://{photos}", str(run), executor, fault, config)
    assert fault.struck
    check(run, quiet)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "at"), [(0, 3), (1, 9)])
def test_node_removed(
    seed: int, at: int, photos: Path, cluster: Any, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fault = Fault(at, lambda: lose_node(cluster))
    with joined(cluster) as executor:
        run_job(f"file://{photos}", str(run), executor, fault, config)
    assert fault.struck
    check(run, quiet)


@pytest.mark.slow
def test_driver_of_the_cluster_interrupted(
    photos: Path, cluster: Any, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with joined(cluster) as executor, pytest.raises(KeyboardInterrupt):
        run_job(f"file://{photos}", str(run), executor, Fault(8, interrupt), config)
    with joined(cluster) as executor:
        run_job(f"file://{photos}", str(run), executor, Progress(quiet=True), config)
    check(run, quiet)


def hungry(unit: Unit) -> int:
    """Takes memory until it is killed: `once` at the first attempt, `always` at each."""
    if unit.payload == "always" or (unit.payload == "once" and unit.attempt == 1):
        held = []
        while sum(map(len, held)) < 8 * 2**30:
            held.append(np.ones(2**26, np.uint8))
            time.sleep(0.01)
        time.sleep(30)
    return unit.attempt


@contextlib.contextmanager
def tight(patch: pytest.MonkeyPatch) -> Iterator[RayExecutor]:
    """A private cluster whose memory monitor strikes 2.5 GB above what the machine uses now."""
    limit = (get_used_memory() + 2.5 * 2**30) / get_system_memory()
    patch.setenv("RAY_memory_usage_threshold", f"{limit:.3f}")
    patch.setenv("RAY_memory_monitor_refresh_ms", "50")
    patch.setenv("RAY_AUTH_MODE", "disabled")  # else a private cluster turns it on for this whole process
    patch.setenv("PYTHONPATH", str(ROOT))  # workers find this file
    executor = RayExecutor(2, 0, "local")
    try:
        yield executor
    finally:
        executor.close()


@pytest.mark.slow
@pytest.mark.parametrize("stateful", [False, True], ids=["task", "actor"])
def test_a_worker_over_its_memory_is_killed_by_ray_and_its_unit_is_tried_again(
    stateful: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ray's own memory monitor, no signal of ours. It looks at the whole machine, where other work must hold still."""
    for _ in range(2):
        before = get_used_memory()
        try:
            with tight(monkeypatch) as executor:
                _starve(executor, stateful, Events(Folder(tmp_path), "score"), capfd)
            return
        except (AssertionError, Interrupted):
            time.sleep(1)
            if abs(get_used_memory() - before) < 2**29:
                raise
    pytest.skip("other processes of this machine took or gave back memory, twice")


def _starve(executor: RayExecutor, stateful: bool, events: Events, capfd: pytest.CaptureFixture[str]) -> None:
    units = [Unit(f"unit-{number}", 1, "once" if number == 1 else None) for number in range(4)]
    answers = {unit.name: attempt for unit, attempt in executor.map(units, hungry, events, stateful)}
    assert answers == {"unit-0": 1, "unit-1": 2, "unit-2": 1, "unit-3": 1}
    why = "" if stateful else " (its node ran out of memory)"  # Ray does not say it of actors
    assert f"unit-1 lost its worker{why}: attempt 2 of 3" in capfd.readouterr().err
    if not stateful:
        with pytest.raises(Interrupted, match="unit-7 lost its worker 3 times"):
            list(executor.map([Unit("unit-7", 1, "always")], hungry))


class ByCommands:
    """Three nodes as docs/cluster.md starts them: `ray start`, with a token. Ends its own processes alone."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.port, self.dashboard = free_port(), free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="rc"))  # short: sockets lie in it
        self.log = log
        self.environment = os.environ | environment
        self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.start("--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}", f"--temp-dir={self.folder}")
        self.wait_for(1)
        for number in (2, 3):
            self.start(f"--address=127.0.0.1:{self.port}")
            self.wait_for(number)

    def start(self, *options: str) -> None:
        agent = f"--dashboard-agent-listen-port={free_port()}"  # its default is taken where another cluster runs here
        options = (
            *options,
            agent,
            "--num-cpus=1",
            "--object-store-memory=80000000",
            "--disable-usage-stats",
            "--block",
        )
        command = [*RAY, "start", *options]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self.nodes.append(process)

    def wait_for(self, count: int) -> None:
        page = f"http://127.0.0.1:{self.dashboard}/nodes?view=summary"
        asked = urllib.request.Request(page, headers={"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"})
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, KeyError, ValueError), urllib.request.urlopen(asked, timeout=5) as answer:
                nodes = json.load(answer)["data"]["summary"]
                if sum(node["raylet"].get("state") == "ALIVE" for node in nodes) >= count:
                    return
            time.sleep(0.3)
        raise TimeoutError(self.log.read_text()[-3000:])

    def kill_one(self) -> None:
        self.kill(self.nodes.pop())

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """All processes of a node at once, as if its machine were gone."""
        family = [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait(timeout=30)

    def close(self) -> None:
        while self.nodes:
            self.kill_one()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def by_commands(store: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByCommands]:
    pytest.importorskip("aiohttp_cors", reason="the job server is in ray[default]")
    nodes = ByCommands(store.environment, tmp_path_factory.mktemp("nodes") / "log")
    yield nodes
    nodes.close()


OWN_LINES = re.compile(
    r"resuming .*|[\d,]+ candidates, .*|Ray cluster at .*|preflight: .*|(score|niqe|pack): [\d,]+/[\d,]+ \(.*\)"
    r"|(score|niqe): [\d,]+ done before, .*|[a-z0-9-]+ lost its worker.*: attempt \d of 3|no unit has ended for .*"
    r"|(run|label|listed|ignored|ignored_by|candidates|kept|included|rejected|failed|shards|shard_bytes|urls): .*"
    r"|(look at|next): .*| {9}\S.*"
)


def submitted(command: list[str], environment: dict[str, str], folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """The running `ray job submit` and the file of its output; again where the head's agent is not there yet."""
    said = folder / "said"
    deadline = time.monotonic() + 90
    while True:
        with open(said, "wb") as file:
            job = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        while job.poll() is None and "submitted successfully" not in said.read_text():
            time.sleep(0.2)
        if "try again later" not in said.read_text() or time.monotonic() > deadline:
            return job, said
        time.sleep(1)


@pytest.mark.slow
def test_a_submitted_job_loses_a_node_meets_errors_and_equals_a_quiet_machine(
    store: Any, bucket: str, by_commands: ByCommands, quiet_bucket: dict[str, str], tmp_path: Path
) -> None:
    """docs/cluster.md, followed: a submitted job, with a token; 5% of the requests fail, half-way a node is gone."""
    (tmp_path / "runtime.yaml").write_text("env_vars: {LUCIDFLUX_TEST: followed}\n")
    words = ["filter", bucket, "--out", "s3://faults/submitted", "--preset", "demo", "--address", "auto"]
    words += [word for setting in WIDE for word in ("--set", setting)]
    submit = ["job", "submit", "--address", f"http://127.0.0.1:{by_commands.dashboard}"]
    command = [*RAY, *submit, "--runtime-env", str(tmp_path / "runtime.yaml"), "--", COMMAND, *words]
    before = store.faults.failures
    with failing(store, 0.05, 77):
        job, said = submitted(command, by_commands.environment, tmp_path)
        while job.poll() is None and len(store.files("faults", "submitted/scores/niqe/")) < 2:
            time.sleep(0.3)
        assert job.poll() is None, said.read_text()
        by_commands.kill_one()
        assert job.wait(timeout=200) == 0, said.read_text()
    assert store.faults.failures > before
    assert remote_tree(store, "submitted") == quiet_bucket
    text = re.sub(r"\x1b\[\d+m", "", said.read_text())
    assert "Ray cluster at auto: 3 nodes, 3 CPUs, 0 GPUs" in text
    assert "preflight: 3 nodes have the same versions" in text
    lines = text.partition("Running entrypoint for job")[2].splitlines()[1:]
    strange = [
        line for line in lines if not OWN_LINES.fullmatch(line) and not re.match(r"\S+ \S+\t(INFO|SUCC) |-*$", line)
    ]
    assert strange == [], "a lost node is a line of ours, and nothing of Ray's own logs"


@pytest.mark.slow
def test_without_the_token_a_sentence_says_so(
    by_commands: ByCommands, photos: Path, tmp_path: Path, data_command
) -> None:
    words = [
        "filter",
        photos,
        "--out",
        tmp_path / "run",
        "--preset",
        "demo",
        "--address",
        f"127.0.0.1:{by_commands.port}",
    ]
    plain = {name: value for name, value in by_commands.environment.items() if not name.startswith("RAY_AUTH")}
    plain["HOME"] = str(tmp_path)
    for more, sentence in (
        ({}, "asks for its token: set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, "asks for its token: set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_MODE": "token"}, "there is no token: set RAY_AUTH_MODE=token"),
    ):
        done = data_command(*words, env=plain | more)
        assert done.returncode == 2, done.stderr
        assert sentence in done.stderr
        assert len([line for line in done.stderr.splitlines() if "candidates" not in line]) == 1, done.stderr


def test_an_address_where_nobody_listens_is_a_sentence(photos: Path, tmp_path: Path, data_command) -> None:
    gone = data_command("filter", photos, "--out", tmp_path / "other", "--preset", "demo", "--address", "127.0.0.1:9")
    assert gone.returncode == 2
    assert "no Ray cluster could be joined at 127.0.0.1:9" in gone.stderr


def test_no_cluster_to_join_is_a_sentence(photos: Path, tmp_path: Path, data_command) -> None:
    from ray._private.services import find_gcs_addresses

    if find_gcs_addresses():
        pytest.skip("a Ray cluster runs on this machine, and `auto` would join it")
    gone = data_command("filter", photos, "--out", tmp_path / "run", "--preset", "demo", "--address", "auto")
    assert gone.returncode == 2
    assert "no Ray cluster could be joined at auto" in gone.stderr


def test_the_file_for_ray_up_is_one() -> None:
    """By Ray's own check, which refuses unknown keys; the KubeRay file has what its operator insists on."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    yaml = pytest.importorskip("yaml")
    text = (ROOT / "docs" / "cluster.md").read_text()
    files = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    (ray_up,) = [file for file in files if "cluster_name" in file]
    validate_config(prepare_config(ray_up))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(ray_up | {"max_worker": 3}))
    (job,) = [file for file in files if file.get("kind") == "RayJob"]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    assert job["spec"]["rayClusterSpec"]["rayVersion"] >= "2.52", "KubeRay asks for it beside authOptions"
