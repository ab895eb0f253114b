"""Formats times, sizes and commands for people."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path


def clock(seconds: float) -> str:
    """Writes a time as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def binary_size(n_bytes: int) -> str:
    """Writes a number of bytes in GiB, or in MiB below one GiB."""
    if n_bytes < 2**30:
        return f"{n_bytes / 2**20:.2f} MiB"
    return f"{n_bytes / 2**30:.2f} GiB"


def near(path: Path | str) -> str:
    """Returns a path relative to the current folder; unchanged on another drive of Windows."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return str(path)


def command(program: str, *words: object) -> str:
    """Returns a shell command that works whether or not the environment is activated.

    Args:
        program: `bloodcell`, `tensorboard`.
        words: its arguments.
    """
    beside = Path(sys.executable).with_name(program)
    activated = shutil.which(program) == str(beside)
    if beside.is_file() and not activated:
        inside = beside.is_relative_to(Path.cwd())
        program = str(beside.relative_to(Path.cwd()) if inside else beside)
    join = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return join([program, *map(str, words)])
