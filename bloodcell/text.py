"""Formats times, sizes and commands for people."""

import shlex
import shutil
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


def command(program: str, *words: object) -> str:
    """Returns a shell command that works whether or not the environment is activated.

    Args:
        program: `bloodcell`, `tensorboard`.
        words: its arguments.
    """
    beside = Path(sys.executable).with_name(program)
    activated = shutil.which(program) == str(beside)
    if beside.is_file() and not activated:
        near = beside.is_relative_to(Path.cwd())
        program = str(beside.relative_to(Path.cwd()) if near else beside)
    return shlex.join([program, *map(str, words)])
