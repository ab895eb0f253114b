"""Describes where a score comes from: machine, package versions, git commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("bloodcell", "torch", "lightning", "timm", "torchmetrics", "numpy", "pillow")


def describe(device: str) -> dict[str, object]:
    """Describes the machine.

    Args:
        device: name of the processor or GPU that trained.

    Returns:
        `device`, `cpu_cores`, `system`, `python`, `versions` by package, `git_commit` (None outside
        a checkout of this project; ends in `+` if files differ from the commit).
    """
    return {
        "device": device,
        "cpu_cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "git_commit": git_commit(Path(__file__).parents[1]),
    }


def usable_cpus() -> int:
    """Returns the number of CPUs that this process may use, e.g. those of a SLURM job."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Returns the name of the CPU if the system provides it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit(project: Path) -> str | None:
    """Returns the commit, with `+` if tracked files differ from it; None outside a checkout."""
    if not (project / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(project), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
