"""Reads damaged and hostile files of every kind, and counts crashes, hangs and escapes.

    python scripts/fuzz.py --cases 1000

Prints a table: kind, cases, numbers of read and refused files, crashes (an error other than
InputError, or the end of the process), hangs (over 20 seconds), and escapes (a file written outside
of the case's folder, a program started, a connection opened).
"""

import json
import os
import re
import signal
import string
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import torch
from arguments import count, make_parser
from hostile import Kind, make_kinds, read_run

from bloodcell.errors import InputError

SECONDS = 20


class Hang(BaseException):
    """Raised in a case that takes too long; no `except Exception` catches it."""


def mutate(data: bytes, draw: Random) -> bytes:
    """Damages a file in one to three ways; text mostly stays text."""
    text = draw.random() < 0.9 and not re.search(rb"[^\t\n\r -~]", data)
    signs = string.printable.encode()

    def some(count: int) -> bytes:
        return bytes(draw.choices(signs, k=count)) if text else draw.randbytes(count)

    for _ in range(draw.randint(1, 3)):
        place, size = draw.randrange(len(data) + 1), draw.choice([1, 2, 4, 16, 256])
        way = draw.randrange(7)
        if way == 0:
            data = data[:place]
        elif way == 1:
            data = data[:place] + some(size) + data[place + size :]
        elif way == 2:
            data = data[:place] + some(size) + data[place:]
        elif way == 3:
            data = data[:place] + data[place + size :]
        elif way == 4:  # a wrong length
            number = draw.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1])
            wrong = str(number).encode() if text else struct.pack(draw.choice("<>") + "I", number)
            data = data[:place] + wrong + data[place + 4 :]
        elif way == 5:
            data = data[:place] + data[place : place + size] * 9 + data[place + size :]
        else:  # within the first bytes, which identify the format
            place = draw.randrange(min(len(data), 64) + 1)
            data = data[:place] + some(1) + data[place + 1 :]
    return data


def watch(folder: Path) -> list[str]:
    """Returns a list to which Python's actions outside of a folder are added from now on."""
    escapes: list[str] = []
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    own = (str(folder), os.devnull, "/dev/shm", "/proc/self")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
            escapes.append(f"{event} {args[:2]}")
        elif event == "socket.connect":
            escapes.append(f"{event} {args[1]}")
        elif event == "open" and isinstance(args[0], str) and args[2] & writing:
            path = os.path.abspath(args[0])  # noqa: PTH100  within a hook: nothing else may run
            if not path.startswith(own) and "__pycache__" not in path:
                escapes.append(f"writes {path}")

    sys.addaudithook(hook)
    return escapes


def try_case(kind: Kind, name: str, data: bytes, folder: Path, escapes: list[str]) -> str:
    """Reads one file; returns `read`, `refused`, or the failure."""
    folder.mkdir()
    for other, whole in kind.samples.items():  # a run folder has several files
        if kind.read is read_run and other != name:
            (folder / other).write_bytes(whole)
    path = folder / name
    path.write_bytes(data)
    os.chdir(folder)
    escapes.clear()

    def late(_: int, __: FrameType | None) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(path)
        outcome = "read"
    except InputError:
        outcome = "refused"
    except Hang:
        outcome = "hang"
    except BaseException as error:
        outcome = f"crash {type(error).__name__}: {str(error)[:150]}"
    finally:
        signal.alarm(0)
    if escapes or (folder / "evil").exists() or (folder.parent / "evil.png").exists():
        outcome = f"escape {escapes[:1]}"
    return outcome


def try_kind(
    kind: Kind, cases: int, seed: int, folder: Path, kept: Path | None = None
) -> Counter[str]:
    """Reads all samples unchanged, then damaged ones; a crash starts a new process.

    Args:
        kind: samples and how to read them.
        cases: number of files to read.
        seed: seed of the damage.
        folder: folder to create.
        kept: folder for files that caused a failure; None keeps none.
    """
    folder.mkdir()
    found: Counter[str] = Counter()
    done = 0
    while done < cases:
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about forking
            child = os.fork()
        if child == 0:
            os.close(reader)
            escapes = watch(folder)
            for number in range(done, cases):
                name, data = make_case(kind, number, seed)
                outcome = try_case(kind, name, data, folder / str(number), escapes)
                os.write(writer, json.dumps([number, name, outcome]).encode() + b"\n")
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as lines:
            for line in lines:
                number, name, outcome = json.loads(line)
                found[outcome.split()[0]] += 1
                done = number + 1
                if outcome not in ("read", "refused"):
                    _report(kind, number, seed, name, outcome, kept)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            found["crash"] += 1
            name, _ = make_case(kind, done, seed)
            _report(kind, done, seed, name, f"crash: the process ended with {status}", kept)
            done += 1
    return found


def make_case(kind: Kind, number: int, seed: int) -> tuple[str, bytes]:
    """Returns the n-th case: an unchanged sample, or a damaged one."""
    names = list(kind.samples)
    if number < len(names):
        return names[number], kind.samples[names[number]]
    draw = Random(f"{seed} {number}")
    name = draw.choice(names)
    return name, mutate(kind.samples[name], draw)


def _report(kind: Kind, number: int, seed: int, name: str, outcome: str, kept: Path | None) -> None:
    print(f"case {number} ({name}): {outcome}", flush=True)
    if kept:
        kept.mkdir(exist_ok=True)
        (kept / f"{number}-{name}").write_bytes(make_case(kind, number, seed)[1])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cases", type=count, default=1000, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--kind", help="read only this kind")
    parser.add_argument("--keep", type=Path, help="folder for the files that caused a failure")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"
        Path(place, "made").mkdir()
        kinds = make_kinds(Path(place, "made"))
        for number, (name, kind) in enumerate(kinds.items()):
            if given.kind in (None, name):
                start = time.monotonic()
                found = try_kind(
                    kind, given.cases, given.seed, Path(place, str(number)), given.keep
                )
                cells = [found[key] for key in ("read", "refused", "crash", "hang", "escape")]
                shown = " | ".join(map(str, [given.cases, *cells]))
                lines.append(f"| {name} | {shown} |")
                print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    print("\n| kind | cases | read | refused | crashes | hangs | escapes |\n|---|" + "---|" * 6)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
