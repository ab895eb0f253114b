"""The devices of concurrent trainings: a GPU for each, or a share of the CPUs."""

import os
import re
import shutil
import subprocess

from bloodcell.machine import usable_cpus


def list_devices(jobs: int | None, accelerator: str | None) -> list[dict[str, str]]:
    """Lists the environment variables of each concurrent run, which select its device.

    Args:
        jobs: number of concurrent runs; None means one per GPU, or one without a GPU.
        accelerator: as `trainer.accelerator`; None if it is not given.
    """
    gpus = [] if accelerator == "cpu" else _visible_gpus()
    if gpus:
        return [
            {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} for place in range(jobs or len(gpus))
        ]
    if not jobs or jobs == 1:
        return [{}]
    return [{"OMP_NUM_THREADS": str(max(1, usable_cpus() // jobs))}] * jobs


def _visible_gpus() -> list[str]:
    """Returns names or numbers of the GPUs in the format of CUDA_VISIBLE_DEVICES."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return re.findall(r"^GPU (\d+):", listing.stdout, re.MULTILINE)
