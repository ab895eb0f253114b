"""`bloodcell predict`: what a model says of images, a row an image, however many there are."""

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
from bloodcell.files import check_place
from bloodcell.infer.answers import SUFFIXES, Answer, load_pyarrow, open_writer
from bloodcell.infer.cells import UNREADABLE, UNSURE, Cells, differential
from bloodcell.infer.inputs import (
    NO_CELL,
    STDIN,
    Decoded,
    check_given,
    decode_batches,
    decode_cells,
    find_images,
)
from bloodcell.infer.open import AUTO, open_model
from bloodcell.infer.runtime import Probabilities, Runtime, classify_views

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
    """Classifies images, writes a table and says what was found.

    Args:
        given: files, folders, archives, patterns or `-`.
        model: as `--model`.
        out: .csv, .jsonl or .parquet; None writes CSV to the standard output.
        abstain: an image whose most probable class is less probable than this stays unnamed.
        tta: whether to average over the eight ways an image can lie.
        batch_size: images the model takes at a time.
        devices: as `--devices`; None: all GPUs, or what there is.
        cells: how the white cells of each picture are found; None: a picture is one cell.

    Returns:
        Whether each image could be read.

    Raises:
        InputError: if a word cannot be used.
    """
    check_given(given)
    check_place("--out", out, *SUFFIXES)
    if cells:
        cells.check_folder(given)
    if out and Path(out).suffix == ".parquet":
        load_pyarrow()  # before any work is done for it
    total = None if STDIN in given else _count(given)
    opened = open_model(model, devices or AUTO)
    names = opened.description.class_names
    if cells:
        cells.check(opened)
    start = time.perf_counter()
    counts: Counter[str] = Counter()
    with (
        ExitStack() as archives,
        Progress(
            console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty()
        ) as bar,
        open_writer(Path(out) if out else None, sys.stdout, names, cells is not None) as write,
    ):
        task = bar.add_task("classifying", total=None if cells else total)
        images = find_images(given, archives)
        if cells:
            size = opened.description.image_size
            batches = decode_cells(images, size, cells.field, batch_size)
        else:
            batches = decode_batches(images, opened.input_format, batch_size)
        answers = answer_batches(opened, batches, abstain, tta)
        for answer in cells.draw_each(answers, names) if cells else answers:
            write(answer)
            counts[_kind(answer)] += 1
            bar.advance(task)
    seconds, n = time.perf_counter() - start, counts.total()
    if cells:
        print(f"{differential(counts, names)}\n{n / seconds:,.0f} cells/s", file=sys.stderr)
    else:
        kinds = [kind for kind in (*names, UNSURE, UNREADABLE) if counts[kind]]
        said = ", ".join(f"{kind} {counts[kind]:,}" for kind in kinds) or "none"
        print(f"{n:,} images: {said} ({n / seconds:,.0f} images/s)", file=sys.stderr)
    if out:
        print(out, file=sys.stderr)
    return not counts[UNREADABLE]


def _kind(answer: Answer) -> str:
    if answer.error:
        return NO_CELL if answer.error == NO_CELL else UNREADABLE
    return answer.class_name or UNSURE


def answer_batches(
    model: Runtime, batches: Iterable[list[Decoded]], abstain: float, tta: bool
) -> Iterator[Answer]:
    """Answers for images, in their order, with a few batches in memory at a time.

    Args:
        model: is asked.
        batches: as `decode_batches` gives them.
        abstain: an image whose most probable class is less probable than this stays unnamed.
        tta: whether to average over the eight ways an image can lie.
    """
    for batch, said in _on_all_devices(batches, model, tta):
        yield from answer_batch(batch, said, model.description.class_names, abstain)


def answer_batch(
    batch: list[Decoded], said: Probabilities, names: list[str], abstain: float
) -> Iterator[Answer]:
    """Joins the images of a batch with what the model said of those that can be read."""
    coming = iter(said)
    for image in batch:
        if image.pixels is None:
            yield Answer(image.name, None, None, image.error, None, image.read)
            continue
        probability = next(coming)
        best = int(probability.argmax())
        sure = probability[best] >= abstain
        named = dict(zip(names, probability.tolist(), strict=True))
        yield Answer(image.name, names[best] if sure else None, named, "", image.cell, image.read)


def _on_all_devices(
    batches: Iterable[list[Decoded]], model: Runtime, tta: bool
) -> Iterator[tuple[list[Decoded], Probabilities]]:
    """Hands a batch to each device, and gives the answers back in order."""
    waiting: deque[tuple[list[Decoded], Future[Probabilities]]] = deque()

    def ask_one(pixels: Pixels) -> Probabilities:
        return classify_views(model, pixels) if tta else model.classify(pixels)

    def ask(batch: list[Decoded]) -> Probabilities:
        pixels = [image.pixels for image in batch if image.pixels is not None]
        if not pixels:
            return np.empty((0, 0), np.float32)
        if model.input_format is None:  # whole pictures, of many sizes and perhaps large
            return np.concatenate([ask_one(image[None]) for image in pixels])
        return ask_one(np.stack(pixels))

    with ThreadPoolExecutor(model.n_devices) as pool:
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(ask, batch)))
                if len(waiting) > model.n_devices:
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _count(given: Sequence[str]) -> int:
    """How many images there are; refuses what is not there before a model is loaded."""
    with ExitStack() as archives:
        return sum(1 for _ in find_images(given, archives))
