"""One of two processes under torchrun: python train_worker.py PAIRS OUT. Not a test; see test_train_command.py.

The first call trains OUT/whole to the end, then OUT/killed until process 0 kills itself with SIGKILL in step 5. The
second goes on with OUT/killed, then trains OUT/fsdp with everything in pieces, and OUT/ddp to compare it with.
"""

import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "lucidflux_model"))

import training

from lucidflux_model.loading import quiet_libraries
from lucidflux_model.runtime import open_runtime


def kill_in_step_5(line: dict) -> None:
    if line["step"] == 5:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    quiet_libraries()
    torch.set_num_threads(1)
    pairs, out = map(Path, sys.argv[1:])
    with open_runtime("cpu") as runtime:
        assert runtime.world == 2
        if not (out / "killed").exists():
            training.run(pairs, out / "whole", "steps=7", runtime=runtime)
            training.run(pairs, out / "killed", "steps=7", runtime=runtime, on_step=kill_in_step_5)
        training.run(pairs, out / "killed", "steps=7", runtime=runtime)
        sharded = ("parallel=fsdp", "shard_frozen=true", "micro_batch=1", "validation.fraction=0.4")
        validated = ("validation.images=1", "validation.steps=1", "validation.samples=1", "validation.every=2")
        training.run(pairs, out / "fsdp", "steps=4", *sharded, *validated, runtime=runtime)
        training.run(pairs, out / "ddp", "steps=4", *validated, "validation.fraction=0.4", runtime=runtime)


if __name__ == "__main__":
    main()
