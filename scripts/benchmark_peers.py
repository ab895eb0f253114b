"""Compares the training speed of d8 with that of other programs, on the same images, in turns.

python scripts/benchmark_peers.py --root blood-cells.zip --sizes 224 128 --batches 32 --rounds 3

Each program runs in its own process and environment, which uv creates (`pip install uv`), with the
same version of PyTorch, and is written as its users would write it: with default settings and, by
default, also compiled in bfloat16, which is what a careful user would try. `--settings` has others.
`bloodcell benchmark` runs in this environment, with its default precision and, if that is mixed and
the others' is not, also in 32 bits. The network is always Keras' MobileNet, with Keras' padding.
Ratios compare medians over the rounds.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from arguments import count, make_parser, positive, short_errors, writable
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from bloodcell import machine
from bloodcell.data.datamodule import BloodCells
from bloodcell.model.network import create_trunk
from bloodcell.model.pretrained import KERAS
from bloodcell.train.trainer import best_precision, device_name

PEERS = Path(__file__).parent / "peers"
WEIGHTS = "random.safetensors"  # its metadata contains the padding of the network
OURS = "bloodcell"
KERAS_CPU = "keras_mobilenet"
NAMES = {
    "plain_lightning": "plain Lightning, ImageFolder",
    "timm_step": "timm's loader and step",
    KERAS_CPU: "Keras, tensorflow-cpu",
}
SETTINGS = {  # options of the other programs
    "default": [],
    "compiled": ["--compiled"],
    "bfloat16": ["--bfloat16"],
    "both": ["--compiled", "--bfloat16"],
}


class Program(NamedTuple):
    """One row of the table.

    Attributes:
        name: its name there.
        script: without `.py`, in the folder of peers; None for bloodcell.
        options: its further options.
    """

    name: str
    script: str | None
    options: list[str]


def main() -> None:
    """Runs all programs, prints the table and writes the speeds."""
    parser = make_parser(__doc__)
    parser.add_argument("--root", default="drawn", help="as data.root (default: drawn)")
    parser.add_argument("--sizes", type=count, nargs="+", default=[224, 128], help="pixels")
    parser.add_argument("--batches", type=count, nargs="+", default=[32], help="batch sizes")
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        default=["default", "both"],
        help="of the other programs (default: default both)",
    )
    parser.add_argument("--seconds", type=positive, default=15, help="measured in each process")
    parser.add_argument("--rounds", type=count, default=3, help="default: 3")
    out = Path("benchmark_peers.json")
    parser.add_argument("--out", type=writable, default=out, help=f"results (default: {out})")
    given = parser.parse_args()
    if shutil.which("uv") is None and not Path(sys.executable).with_name("uv").is_file():
        sys.exit("benchmark_peers.py needs uv to create the environments: pip install uv")
    cuda = torch.cuda.is_available()
    mixed = best_precision("auto") != "32-true"
    programs = [Program(OURS, None, [])]
    if mixed and not cuda:
        programs.append(Program(f"{OURS}, 32 bits", None, ["--trainer.precision", "32-true"]))
    for script, name in NAMES.items():
        if cuda and script == KERAS_CPU:
            continue  # comparing a GPU with tensorflow-cpu would be meaningless
        for setting in given.settings:
            options = SETTINGS[setting]
            words = [name, *(option.removeprefix("--") for option in options)]
            programs.append(Program(", ".join(words), script, options))
    cases = [(size, batch) for size in given.sizes for batch in given.batches]
    speeds: dict[tuple[str, int, int], list[float]] = {}
    with TemporaryDirectory() as folder:
        with short_errors():
            _write_classes(given.root, Path(folder) / "images")
        trunk = create_trunk("mobilenetv1_100", KERAS)
        padding = {"pad_type": "same", "bn_eps": "1e-3"}
        save_file(trunk.state_dict(), Path(folder) / WEIGHTS, metadata=padding)
        for number in range(given.rounds):
            for size, batch in cases:
                for program in programs:
                    speed = _measure(program, given.root, Path(folder), size, batch, given.seconds)
                    speeds.setdefault((program.name, size, batch), []).append(speed)
                    where = f"round {number + 1}, {size} px, batch {batch}"
                    print(f"{where:30} {program.name:50} {speed:9,.1f} images/s", flush=True)
    _report(programs, cases, speeds, given.out)


def _write_classes(root: str, folder: Path) -> None:
    """Writes the training images into class folders, which the other programs read."""
    data = BloodCells(root)
    with data.source.reader() as read:
        for place in data.parts["train"]:
            row = data.table.rows[place]
            target = folder / row.class_name / f"{place}{Path(row.path).suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read(row.path))


def _measure(
    program: Program, root: str, folder: Path, size: int, batch: int, seconds: float
) -> float:
    """Runs one program and returns its images per second."""
    if program.script is None:
        return _measure_ours(program, root, folder, size, batch, seconds)
    words = ["--root", folder / "images", "--size", size, "--batch", batch, "--seconds", seconds]
    keras = program.script == KERAS_CPU
    same = [] if keras else ["--with", f"torch=={metadata.version('torch')}"]
    uv = shutil.which("uv") or Path(sys.executable).with_name("uv")
    script = PEERS / f"{program.script}.py"
    output = _run([uv, "run", "--no-project", *same, "--script", script, *words, *program.options])
    line = next(line for line in output.splitlines() if '"images_per_second"' in line)
    return float(json.loads(line)["images_per_second"])


def _measure_ours(
    program: Program, root: str, folder: Path, size: int, batch: int, seconds: float
) -> float:
    out = folder / "speeds.json"
    words = ["--data.root", root, "--data.image_size", size, "--batch_sizes", f"[{batch}]"]
    words += ["--model.weights", folder / WEIGHTS, "--seconds", seconds, "--out", out]
    _run([sys.executable, "-m", "bloodcell", "benchmark", *words, *program.options])
    return float(json.loads(out.read_text())["images_per_second"][0]["training"])


def _run(command: list[object]) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _report(
    programs: list[Program],
    cases: list[tuple[int, int]],
    speeds: dict[tuple[str, int, int], list[float]],
    out: Path,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    described = machine.describe(device_name(device))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("training images per second, and the speedup of bloodcell")
    for size, batch in cases:
        table.add_column(f"{size} px, batch {batch}", justify="right")
    for program in programs:
        cells = []
        for case in cases:
            here = median(speeds[program.name, *case])
            cells.append(f"{here:,.1f}   {median(speeds[OURS, *case]) / here:4.2f}")
        table.add_row(program.name, *cells)
    print(f"{described['device']}, {described['cpu_cores']} cores, {described['git_commit']}")
    Console(width=70 + 24 * len(cases)).print(table)
    runs = [
        {"program": program, "size": size, "batch": batch, "images_per_second": found}
        for (program, size, batch), found in speeds.items()
    ]
    out.write_text(json.dumps({"machine": described, "runs": runs}, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
