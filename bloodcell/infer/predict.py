"""`bloodcell predict`: classifies any number of images and writes one row for each."""

import random
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from bloodcell.data.crop import Field, Pixels, check_field
from bloodcell.errors import InputError, require_number
from bloodcell.files import at_home
from bloodcell.infer.answers import Answer, check_out, open_writer
from bloodcell.infer.cells import Cells, Uncounted
from bloodcell.infer.decoding import Decoded, decode_batches, decode_cells
from bloodcell.infer.inputs import STDIN, Input, check_given, find_images
from bloodcell.infer.onnx_runtime import OnnxModel, OnnxSquares
from bloodcell.infer.open import open_model
from bloodcell.infer.runtime import AUTO, Classified, Runtime, classify_views
from bloodcell.infer.tally import Tally
from bloodcell.memory import keep_memory

BATCH_SIZE = 32


def predict(
    images: list[str],
    model: str | None = None,
    out: str | None = None,
    abstain: float = 0.0,
    tta: bool = False,
    adapt: bool = False,
    cells: bool = False,
    field: Field | None = None,
    draw: str | None = None,
    batch_size: int = BATCH_SIZE,
    devices: str | None = None,
) -> bool:
    """Classifies images, and writes a table with a row for each image.

    The probabilities are calibrated if the run has fitted a temperature, as `fit` does.
    The exit status is 1 if an image could not be read; its row gives the reason.

    Args:
        images: files, folders, .zip files, folders in a .zip (x.zip/folder), patterns, or - to read
            paths from the standard input, one per line.
        model: a run folder, a .ckpt, a .safetensors or an exported .onnx file, which needs no
            PyTorch (default: the bundled model).
        out: a .csv, .jsonl or .parquet file (default: CSV on the standard output).
        abstain: give no class to images whose largest probability is below this value, 0 to 1.
        tta: average over the eight rotations and reflections, which takes eight times as long.
        adapt: mix BatchNorm's statistics with those of these images, which are read twice, the
            first time in batches of 32. This improves the predictions for some other laboratories,
            and worsens them for others.
        cells: find the white cells of each image, and write a row for each cell and the
            differential count.
        field: with --cells, the width of the field of view relative to that of the Kaggle set,
            which is about 6.4 red cells; 0.1 to 50, or auto, which measures it in each picture
            (default: as the model was trained).
        draw: with --cells, the folder for copies of the images with boxed and labelled cells
            (default: none).
        batch_size: images per batch.
        devices: cpu, cuda, or several, such as cuda:0,cuda:1 (default: all GPUs, or the CPU).

    Returns:
        Whether every image could be read.

    Raises:
        InputError: if an argument is invalid.
    """
    check_numbers(abstain, batch_size, field)
    settings = _check(images, out, cells, field, draw)
    total = None if STDIN in images else _count(images)
    keep_memory()
    opened = open_model(model, devices or AUTO)
    if settings:
        opened = settings.prepare(opened)
    start = time.perf_counter()
    tally = Tally(cells, opened.description.scores)
    names = opened.description.class_names
    with ExitStack() as opened_files, _open_bar() as bar:
        task = bar.add_task("classifying", total=None if cells else total)
        found: Iterable[Input] = find_images(images, opened_files, tally.left_out)
        if adapt:
            opened, found = adapt_to(opened, found, settings)
        writer = open_writer(Path(out) if out else None, sys.stdout, names, cells)
        write = opened_files.enter_context(writer)  # last, as a model may be refused
        answers = answer_images(found, opened, settings, abstain, tta, batch_size)
        for answer in settings.draw_each(answers, names, tally.drawn) if settings else answers:
            write(answer)
            tally.add(answer)
            bar.advance(task)
    print(tally.summary(names, time.perf_counter() - start), file=sys.stderr)
    _name_output(out, draw, len(tally.drawn))
    return not tally.counts[Uncounted.UNREADABLE]


def _open_bar() -> Progress:
    """Returns a progress bar on the standard error, shown only in a terminal."""
    console = Console(file=sys.stderr)
    return Progress(console=console, transient=True, disable=not sys.stderr.isatty())


def _name_output(out: str | None, draw: str | None, drawn: int) -> None:
    """Prints the paths of the table and of the drawings to the standard error."""
    if out:
        print(out, file=sys.stderr)
    if draw:
        print(f"{at_home(draw)}: {drawn:,} picture{'s' * (drawn != 1)}", file=sys.stderr)


def _check(
    images: list[str], out: str | None, cells: bool, field: Field | None, draw: str | None
) -> Cells | None:
    """Checks the arguments; returns the settings of `--cells`, None without it."""
    check_given(images)
    check_out(out)
    for flag, value in (("--field", field), ("--draw", draw)):
        if value is not None and not cells:
            raise InputError(f"{flag} {value} needs --cells: add it, or leave {flag} out.")
    if not cells:
        return None
    settings = Cells(field, at_home(draw) if draw else None)
    settings.check_folder(images)
    return settings


def check_numbers(abstain: float, batch_size: int, field: Field | None) -> None:
    """Checks the numbers that `predict` and `LoadedModel.predict` share.

    Args:
        abstain: as for `predict`.
        batch_size: as for `predict`.
        field: as for `Cells`.

    Raises:
        InputError: if one of them is not a number or out of range.
    """
    require_number("--abstain", abstain, "a number from 0 to 1, e.g. 0.5", 0, 1)
    require_number("--batch_size", batch_size, "a whole number, 1 or more, e.g. 32", 1, whole=True)
    if field is not None:
        check_field("--field", field)


def adapt_to(
    model: Runtime, images: Iterable[Input], cells: Cells | None
) -> tuple[Runtime, Sequence[Input]]:
    """Returns the model with BatchNorm's statistics adapted to the images, and the images.

    It prints a report to the standard error. The images are read in mixed order, in batches of 32.

    Args:
        model: the model.
        images: the images, which are decoded once more when they are classified.
        cells: as for `answer_images`.

    Raises:
        InputError: if the model cannot be adapted.
    """
    if isinstance(model, OnnxModel | OnnxSquares):
        raise InputError(
            f"--adapt cannot change the exported model {model.description.name}. Give --model the "
            "run folder, or a .safetensors file."
        )
    from bloodcell.infer.adapt import adapt  # imports torch
    from bloodcell.infer.torch_runtime import TorchModel

    assert isinstance(model, TorchModel)

    images = list(images)
    mixed = random.Random(0).sample(images, len(images))  # folders are often sorted by class
    decoded = _decode(mixed, model, cells, BATCH_SIZE)  # the user's would change the statistics
    pixels = (one.pixels for batch in decoded for one in batch if one.pixels is not None)
    full = iter(lambda: list(islice(pixels, BATCH_SIZE)), [])  # also after unreadable images
    adapted = adapt(model, map(np.stack, full))
    print(adapted.report, file=sys.stderr)
    return adapted.runtime, images


def _decode(
    images: Iterable[Input], model: Runtime, cells: Cells | None, batch_size: int
) -> Iterator[list[Decoded]]:
    if cells:
        trained = model.description.field
        field = trained if cells.field is None else cells.field
        return decode_cells(images, model.description.image_size, field, batch_size)
    return decode_batches(images, model.input_format, batch_size)


def answer_images(
    images: Iterable[Input],
    model: Runtime,
    cells: Cells | None,
    abstain: float,
    tta: bool,
    batch_size: int,
) -> Iterator[Answer]:
    """Yields the predictions in the order of the images, with a few batches in memory at a time.

    Args:
        images: the images.
        model: classifies them; for cells, the model's `on_squares`.
        cells: settings for finding the white cells; None classifies each image as one cell.
        abstain: as for `predict`.
        tta: as for `predict`.
        batch_size: images per batch.
    """
    batches = _decode(images, model, cells, batch_size)
    names = model.description.class_names
    for batch, classified in _on_all_devices(batches, model, tta):
        coming = zip(*classified, strict=True)
        for image in batch:
            if image.pixels is None:
                yield Answer(image.name, None, None, image.error, None, image.read)
                continue
            probability, distance = next(coming)
            best = int(probability.argmax())
            chosen = names[best] if probability[best] >= abstain else None
            named = dict(zip(names, probability.tolist(), strict=True))
            answer = Answer(image.name, chosen, named, "", image.cell, image.read, image.note)
            if model.threshold is not None:
                far = bool(distance > model.threshold)
                answer = answer._replace(unlike=far, distance=float(distance))
            yield answer


def _on_all_devices(
    batches: Iterable[list[Decoded]], model: Runtime, tta: bool
) -> Iterator[tuple[list[Decoded], Classified]]:
    """Classifies batches on all devices in parallel and yields the results in order."""
    waiting: deque[tuple[list[Decoded], Future[Classified]]] = deque()

    def classify(pixels: Pixels) -> Classified:
        return classify_views(model, pixels) if tta else model.classify(pixels)

    def classify_batch(batch: list[Decoded]) -> Classified:
        pixels = [image.pixels for image in batch if image.pixels is not None]
        if not pixels:
            return Classified.alone(np.empty((0, len(model.description.class_names)), np.float32))
        if model.input_format is None:  # whole images of different sizes
            return Classified.join([classify(image[None]) for image in pixels])
        return classify(np.stack(pixels))

    with ThreadPoolExecutor(model.n_devices) as pool:
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(classify_batch, batch)))
                if len(waiting) > model.n_devices:
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _count(given: Sequence[str]) -> int:
    """Returns the number of images; a missing path fails here, before the model is loaded."""
    with ExitStack() as archives:
        return sum(1 for _ in find_images(given, archives))
