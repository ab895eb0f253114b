"""Measures how fast a trained model classifies images with several programs, in turns.

python scripts/benchmark_inference.py RUN_FOLDER d8.onnx d8.int8.onnx --images FOLDER

The .onnx files are those of `bloodcell export`. Each row has the time for one image and for a batch
of 32 images of the model's input size, and the agreement with the first row. OpenVINO is measured
if it is installed (`pip install openvino`).
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import torch
from arguments import existing, make_parser, short_errors
from rich import box
from rich.console import Console
from rich.table import Table

from bloodcell import machine
from bloodcell.data.crop import Pixels
from bloodcell.errors import require
from bloodcell.infer.agreement import sample_images
from bloodcell.infer.decoding import decode_batches
from bloodcell.infer.onnx_runtime import OnnxModel
from bloodcell.infer.prepare import prepare_network
from bloodcell.infer.runtime import Probabilities
from bloodcell.infer.saved import Saved, load_saved
from bloodcell.infer.torch_runtime import TorchModel, apply_temperature, as_images
from bloodcell.memory import keep_memory
from bloodcell.train.trainer import device_name

Program = Callable[[Pixels], Probabilities]
CPU = torch.device("cpu")
BATCHES = (1, 32)
_COMPARED, _ROUNDS = 128, 15


def with_torch(saved: Saved) -> dict[str, Program]:
    """Returns PyTorch as `predict` runs it, with BatchNorm, and compiled."""

    def run(forward: Callable[[torch.Tensor], torch.Tensor]) -> Program:
        def classify(pixels: Pixels) -> Probabilities:
            with torch.inference_mode():
                logits = forward(as_images(pixels, CPU))
                found: Probabilities = apply_temperature(
                    logits, saved.description.temperature
                ).numpy()
                return found

        return classify

    plain = saved.network
    prepared = prepare_network(plain, saved.description.image_size)
    model = TorchModel(saved, [CPU])
    return {
        "PyTorch, as `predict`": lambda pixels: model.classify(pixels).probability,
        "PyTorch, with BatchNorm": run(plain),
        "PyTorch, compiled": run(torch.compile(prepared, dynamic=False)),
    }


def with_onnxruntime(path: Path) -> dict[str, Program]:
    """Returns onnxruntime as `predict` runs it, and with its own default settings."""
    model = OnnxModel(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    default = onnxruntime.InferenceSession(path, options, providers=providers)
    return {
        f"onnxruntime, as `predict`, {path.name}": lambda pixels: (
            model.classify(pixels).probability
        ),
        f"onnxruntime, waiting actively, {path.name}": lambda pixels: default.run(
            ["probability"], {"pixels": pixels}
        )[0],
    }


def with_openvino(path: Path) -> dict[str, Program]:
    """Returns OpenVINO in 32 bits, and with its own default precision."""
    try:
        import openvino
    except ImportError:
        print("OpenVINO is not measured: pip install openvino")
        return {}
    core = openvino.Core()

    def compiled(**settings: str) -> Program:
        model = core.compile_model(path, "CPU", {"PERFORMANCE_HINT": "LATENCY"} | settings)
        return lambda pixels: np.array(model({"pixels": pixels})["probability"])

    return {
        f"OpenVINO, 32 bits, {path.name}": compiled(INFERENCE_PRECISION_HINT="f32"),
        f"OpenVINO, {path.name}": compiled(),
    }


def read_pixels(given: str, saved: Saved) -> Pixels:
    """Returns images of the model's input size, as many as fill whole batches.

    Raises:
        InputError: if there are too few.
    """
    with ExitStack() as archives:
        images = sample_images([given], _COMPARED, archives)
        (decoded,) = decode_batches(images, saved.description.input_format, len(images))
    pixels = [one.pixels for one in decoded if one.pixels is not None]
    rule = f"images of which at least {BATCHES[-1]} can be read"
    require(len(pixels) >= BATCHES[-1], "--images", given, rule)
    return np.stack(pixels[: len(pixels) // BATCHES[-1] * BATCHES[-1]])


def measure(programs: dict[str, Program], pixels: Pixels) -> dict[str, list[float]]:
    """Returns for each program the median seconds of a call, for each size of a batch."""
    found: dict[str, list[float]] = {name: [] for name in programs}
    for size in BATCHES:
        taken: dict[str, list[float]] = {name: [] for name in programs}
        for number in range(_ROUNDS + 2):
            batch = np.ascontiguousarray(pixels[number * size % (len(pixels) - size + 1) :][:size])
            for name, classify in programs.items():
                classify(batch)  # wakes its threads
                start = time.perf_counter()
                classify(batch)
                if number >= 2:
                    taken[name].append(time.perf_counter() - start)
        for name, seconds in taken.items():
            found[name].append(median(seconds))
    return found


def main() -> None:
    """Prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("run", type=existing, help="a run folder")
    parser.add_argument("onnx", type=existing, nargs="*", help=".onnx files of the same run")
    parser.add_argument("--images", required=True, help="a folder or pattern, as for predict")
    given = parser.parse_args()
    keep_memory()  # as `predict` does
    with short_errors():
        saved = load_saved(given.run)
        pixels = read_pixels(given.images, saved)
        programs = with_torch(saved)
        for path in given.onnx:
            programs |= with_onnxruntime(path) | with_openvino(path)
    answers = {
        name: np.concatenate(
            [classify(part) for part in np.split(pixels, len(pixels) // BATCHES[-1])]
        )
        for name, classify in programs.items()
    }
    seconds = measure(programs, pixels)
    first = next(iter(programs))
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", *(f"batch {n}" for n in BATCHES), "images/s", "same class", "difference"):
        table.add_column(column, justify="right" if column else "left")
    for name, times in seconds.items():
        alike = (answers[name].argmax(1) == answers[first].argmax(1)).mean()
        table.add_row(
            name,
            *(f"{one * 1e3:.1f} ms" for one in times),
            f"{BATCHES[-1] / times[-1]:,.0f}",
            f"{alike:.1%}",
            f"{np.abs(answers[name] - answers[first]).max():.1g}",
        )
    described = machine.describe(device_name(CPU))
    threads = torch.get_num_threads()
    print(f"{described['device']}, {threads} threads of PyTorch, {described['git_commit']}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
