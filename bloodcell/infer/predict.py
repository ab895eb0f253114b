"""`bloodcell predict`: classifies any number of images and writes one row for each."""

import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from bloodcell.data.crop import Pixels
from bloodcell.errors import require_number
from bloodcell.infer.answers import Answer, check_out, open_writer
from bloodcell.infer.cells import UNREADABLE, UNSURE, Cells, differential
from bloodcell.infer.inputs import (
    NO_CELL,
    STDIN,
    Decoded,
    Input,
    check_given,
    decode_batches,
    decode_cells,
    find_images,
)
from bloodcell.infer.open import open_model
from bloodcell.infer.runtime import AUTO, Probabilities, Runtime, classify_views

BATCH_SIZE = 32


def predict(
    given: Sequence[str],
    model: str | None = None,
    out: str | None = None,
    abstain: float = 0.0,
    tta: bool = False,
    batch_size: int = BATCH_SIZE,
    devices: str | None = None,
    cells: Cells | None = None,
) -> bool:
    """Classifies images, writes a table and prints a summary.

    Args:
        given: files, folders, archives, patterns or `-`.
        model: as for `--model`.
        out: .csv, .jsonl or .parquet file; None writes CSV to the standard output.
        abstain: images get no class if their largest probability is below this value, 0 to 1.
        tta: whether to average the probabilities over the eight rotations and reflections.
        batch_size: images per batch.
        devices: as for `--devices`; None uses all GPUs, or the CPU if there is none.
        cells: settings for finding the white cells; None classifies each image as one cell.

    Returns:
        Whether every image could be read.

    Raises:
        InputError: if an argument is invalid.
    """
    check_given(given)
    check_numbers(abstain, batch_size, cells.field if cells else 1.0)
    check_out(out)
    if cells:
        cells.check_folder(given)
    total = None if STDIN in given else _count(given)
    opened = open_model(model, devices or AUTO)
    if cells:
        opened = cells.prepare(opened)
    start = time.perf_counter()
    counts: Counter[str] = Counter()
    names = opened.description.class_names
    console = Console(file=sys.stderr)
    with (
        ExitStack() as archives,
        Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar,
        open_writer(Path(out) if out else None, sys.stdout, names, cells is not None) as write,
    ):
        task = bar.add_task("classifying", total=None if cells else total)
        images = find_images(given, archives)
        answers = answer_images(images, opened, cells, abstain, tta, batch_size)
        for answer in cells.draw_each(answers, names) if cells else answers:
            write(answer)
            counts[_kind(answer)] += 1
            bar.advance(task)
    print(_summary(counts, names, time.perf_counter() - start, cells is not None), file=sys.stderr)
    if out:
        print(out, file=sys.stderr)
    return not counts[UNREADABLE]


def check_numbers(abstain: float, batch_size: int, field: float) -> None:
    """Checks numbers that Python code gives; those of the command line are checked there.

    Args:
        abstain: as for `predict`.
        batch_size: as for `predict`.
        field: as for `Cells`.

    Raises:
        InputError: if one of them is not a number or out of range.
    """
    require_number("abstain", abstain, "a number from 0 to 1, e.g. 0.5", 0, 1)
    require_number("batch_size", batch_size, "a whole number, 1 or more, e.g. 32", 1, whole=True)
    require_number("field", field, "a number from 0.1 to 50, e.g. 3", 0.1, 50)


def _summary(counts: Counter[str], names: list[str], seconds: float, cells: bool) -> str:
    per_second = f"{counts.total() / seconds:,.0f}"
    if cells:
        return f"{differential(counts, names)}\n{per_second} cells/s"
    kinds = [kind for kind in (*names, UNSURE, UNREADABLE) if counts[kind]]
    by_class = ", ".join(f"{kind} {counts[kind]:,}" for kind in kinds) or "none"
    return f"{counts.total():,} images: {by_class} ({per_second} images/s)"


def _kind(answer: Answer) -> str:
    if answer.error:
        return NO_CELL if answer.error.startswith(NO_CELL) else UNREADABLE
    return answer.class_name or UNSURE


def answer_images(
    images: Iterable[Input],
    model: Runtime,
    cells: Cells | None,
    abstain: float,
    tta: bool,
    batch_size: int,
) -> Iterator[Answer]:
    """Yields the answers in the order of the images, with a few batches in memory at a time.

    Args:
        images: the images.
        model: classifies them; for cells, the model's `on_squares`.
        cells: settings for finding the white cells; None classifies each image as one cell.
        abstain: as for `predict`.
        tta: as for `predict`.
        batch_size: images per batch.
    """
    if cells:
        size = model.description.image_size
        batches = decode_cells(images, size, cells.field, batch_size)
    else:
        batches = decode_batches(images, model.input_format, batch_size)
    names = model.description.class_names
    for batch, probabilities in _on_all_devices(batches, model, tta):
        coming = iter(probabilities)
        for image in batch:
            if image.pixels is None:
                yield Answer(image.name, None, None, image.error, None, image.read)
                continue
            probability = next(coming)
            best = int(probability.argmax())
            chosen = names[best] if probability[best] >= abstain else None
            named = dict(zip(names, probability.tolist(), strict=True))
            yield Answer(image.name, chosen, named, "", image.cell, image.read)


def _on_all_devices(
    batches: Iterable[list[Decoded]], model: Runtime, tta: bool
) -> Iterator[tuple[list[Decoded], Probabilities]]:
    """Classifies batches on all devices in parallel and yields the probabilities in order."""
    waiting: deque[tuple[list[Decoded], Future[Probabilities]]] = deque()

    def classify(pixels: Pixels) -> Probabilities:
        return classify_views(model, pixels) if tta else model.classify(pixels)

    def classify_batch(batch: list[Decoded]) -> Probabilities:
        pixels = [image.pixels for image in batch if image.pixels is not None]
        if not pixels:
            return np.empty((0, 0), np.float32)
        if model.input_format is None:  # whole images of different sizes
            return np.concatenate([classify(image[None]) for image in pixels])
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
