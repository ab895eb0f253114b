"""`bloodcell export`: a model as one file that needs no bloodcell, checked before it is kept."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from bloodcell.data.crop import Pixels
from bloodcell.data.decode import READ_ERRORS, open_rgb
from bloodcell.errors import InputError, reason, require
from bloodcell.evaluate.card import CARD, write_card
from bloodcell.evaluate.tables import print_wide
from bloodcell.files import beside, check_place
from bloodcell.infer.inputs import STDIN, Named, check_given, find_images
from bloodcell.infer.onnx_runtime import OnnxModel
from bloodcell.infer.open import find_model
from bloodcell.infer.quantise import quantise
from bloodcell.infer.runtime import Asked, Probabilities
from bloodcell.model.description import KEY, Description

LARGEST = 1e-3  # difference of a probability that is allowed
LEAST_ALIKE = {8: 0.9, 16: 0.99}  # share of the images that fewer bits must name as before
_CHECKED, _CALIBRATED = 2_500, 200  # images at most
_BATCH, _ROUNDS = 32, 5  # of the measurement of speed
_HEADINGS = ("", "MB", "same class", "difference", "accuracy", "one image", "images/s")
_LEGEND = (
    "Same class, and largest difference of a probability: as PyTorch in 32 bits, of {n:,} images. "
    "Accuracy: of the {known:,} that lie in a folder named as their class. One image: median time, "
    f"resizing included. Images/s: in batches of {_BATCH}, of the model's size already."
)
_FEWER_BITS = (
    "These are the scores of the model in 32 bits. In {} bits, as here, it names {:.2%} of {:,} "
    "images as in 32."
)


class Said(NamedTuple):
    """What a model says of the images that all are asked about, and how fast.

    Attributes:
        probability: (n, classes).
        seconds: for one image, the median.
        per_second: images, in batches.
    """

    probability: Probabilities
    seconds: float
    per_second: float


class Check(NamedTuple):
    """How far an exported model is from the one it was made from.

    Attributes:
        images: how many both were asked about.
        other_class: how many of them they name differently.
        difference: the largest of a probability.
    """

    images: int
    other_class: int
    difference: float

    @property
    def alike(self) -> float:
        """Share of the images that both name alike."""
        return 1 - self.other_class / self.images


def export(
    given: Sequence[str], model: str | None = None, out: str | None = None, int8: str | None = None
) -> Check:
    """Writes a model as one file, with its card, if it says what the model says.

    Args:
        given: images, as of `predict`; 2,500 at most, evenly spread, are asked about.
        model: a run folder, a .ckpt or a .safetensors file; None: the bundled model.
        out: .onnx, .pt2 (PyTorch's), or .safetensors (for bloodcell, in half precision); None: the
            model's name and .onnx, here.
        int8: training images, as of `predict`: also write NAME.int8.onnx, calibrated on 200 of
            them; None: do not.

    Returns:
        What the check of the file found, not of the one in 8 bits.

    Raises:
        InputError: if a word cannot be used, or the answers differ.
    """
    path = find_model(model)
    if path.suffix == ".onnx":
        raise InputError(f"--model {model} is exported already. Give the run folder.")
    check_given(given)
    check_place("--out", out, ".onnx", ".pt2", ".safetensors")
    if int8 and out and Path(out).suffix != ".onnx":
        raise InputError(f"--int8 with --out {out}: 8 bits are for .onnx. Leave one of them out.")
    require(int8 != STDIN, "--int8", int8, "training images by name, not the standard input")
    # torch: not before the words are checked
    from bloodcell.infer.deploy import Deployed, Pt2, capture, write_onnx, write_pt2
    from bloodcell.infer.saved import MODEL, load_saved, write_saved
    from bloodcell.model.checkpoint import find_checkpoint

    with ExitStack() as kept:
        images = _some(given, _CHECKED, kept)
        training = _some([int8], _CALIBRATED, kept) if int8 else []
        saved = load_saved(path)
        deployed = Deployed(saved)
        target = Path(out or f"{saved.description.name}.onnx")
        source = path if path.is_file() else find_checkpoint(MODEL, path, "best")
        metadata = _metadata(saved.description, source)
        asked: dict[Path, Asked] = {}
        bits = {target: 32}
        partial = kept.enter_context(beside(target))
        if target.suffix == ".safetensors":
            write_saved(saved, partial)
            asked[target] = Deployed(load_saved(partial))
            bits[target] = 16
        elif target.suffix == ".pt2":
            write_pt2(capture(deployed), metadata, partial)
            asked[target] = Pt2(partial)
        else:
            write_onnx(capture(deployed), metadata, partial)
            asked[target] = OnnxModel(partial)
        if int8:
            smaller = target.with_stem(f"{target.stem}.int8")
            quantised = kept.enter_context(beside(smaller))
            quantise(partial, (pixels for _, pixels in _readable(training)), quantised)
            asked[smaller] = OnnxModel(quantised)
            bits[smaller] = 8
        names, (before, *after) = _ask(
            [deployed, *asked.values()], images, saved.description.image_size
        )
        checks = [_compare(before.probability, said.probability) for said in after]
        for file, check in zip(asked, checks, strict=True):
            _judge(file, check, bits[file])
    for file, check in zip(asked, checks, strict=True):
        fewer = _FEWER_BITS.format(bits[file], check.alike, check.images)
        card = file.with_name(f"{file.name}.{CARD}")
        write_card(card, saved.description, file, fewer if bits[file] < 32 else "")
    sizes = [source.stat().st_size, *(file.stat().st_size for file in asked)]
    labels = ["PyTorch", *(str(file) for file in asked)]
    _report(labels, sizes, [before, *after], [None, *checks], names, saved.description.class_names)
    return checks[0]


def _metadata(description: Description, source: Path) -> dict[str, str]:
    return {
        KEY: description.as_json(),
        "class_names": ", ".join(description.class_names),
        "preprocessing": "inside: uint8 RGB (batch, height, width, 3) of any size to probabilities",
        "made_from_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "licence": "Apache-2.0",
    }


def _some(given: Sequence[str], most: int, kept: ExitStack) -> list[Named]:
    """Images evenly spread over all that are given, which mostly come class by class."""
    images = list(find_images(given, kept))
    require(bool(images), "IMAGES", " ".join(given), "at least one image")
    places = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
    return [images[place] for place in places]


def _readable(images: Sequence[Named]) -> Iterator[tuple[Named, Pixels]]:
    """Each image that can be read, (H, W, 3) as it is.

    Raises:
        InputError: if none can.
    """
    found, why = False, ""
    for image in images:
        try:
            pixels = np.array(open_rgb(image.read()))
        except READ_ERRORS as error:
            why = reason(error)
            continue
        found = True
        yield image, pixels
    if not found:
        raise InputError(f"{images[0].name}: none of these images can be read ({why}).")


def _ask(
    models: Sequence[Asked], images: Sequence[Named], size: int
) -> tuple[list[str], list[Said]]:
    """Asks all models about the same images; returns the folder of each image, and what they say.

    In turns, image by image, so that all run on the same machine in the same state.
    """
    folders: list[str] = []
    said: list[list[Probabilities]] = [[] for _ in models]
    seconds: list[list[float]] = [[] for _ in models]
    for image, pixels in _readable(images):
        folders.append(Path(image.name).parent.name)
        for place, model in enumerate(models):
            start = time.perf_counter()
            said[place].append(model.classify(pixels[None]))
            seconds[place].append(time.perf_counter() - start)
    batch = np.zeros((_BATCH, size, size, 3), np.uint8)
    rounds: list[list[float]] = [[] for _ in models]
    for _ in range(_ROUNDS):
        for place, model in enumerate(models):
            start = time.perf_counter()
            model.classify(batch)
            rounds[place].append(time.perf_counter() - start)
    return folders, [
        Said(np.concatenate(one), median(times), _BATCH / median(batches))
        for one, times, batches in zip(said, seconds, rounds, strict=True)
    ]


def _compare(before: Probabilities, after: Probabilities) -> Check:
    differently = int((before.argmax(1) != after.argmax(1)).sum())
    return Check(len(before), differently, float(np.abs(before - after).max()))


def _judge(file: Path, check: Check, bits: int) -> None:
    """Refuses a file that answers differently; one with fewer bits may, a little.

    Raises:
        InputError: if it does.
    """
    if least := LEAST_ALIKE.get(bits):
        kept = check.alike >= least
        rule, hint = f"{1 - least:.0%} may be", "This model is too unsure for fewer bits"
    else:
        kept = not check.other_class and check.difference <= LARGEST
        rule, hint = f"allowed: {LARGEST:g}", "Try another version of PyTorch or ONNX"
    if not kept:
        raise InputError(
            f"--out {file}: the exported model names {check.other_class:,} of {check.images:,} "
            f"images differently, and its probabilities differ by up to {check.difference:.2g} "
            f"({rule}). It is not kept. {hint}."
        )


def _report(
    labels: Sequence[str],
    sizes: Sequence[int],
    all_said: Sequence[Said],
    checks: Sequence[Check | None],
    folders: Sequence[str],
    class_names: list[str],
) -> None:
    known = np.array([folder in class_names for folder in folders])
    true = np.array([class_names.index(f) for f in folders if f in class_names])
    rows = []
    for label, size, said, check in zip(labels, sizes, all_said, checks, strict=True):
        right = said.probability[known].argmax(1) == true
        rows.append(
            [
                label,
                f"{size / 1e6:.1f}",
                f"{check.alike:.2%}" if check else "",
                f"{check.difference:.1g}" if check else "",
                f"{right.mean():.4f}" if len(right) else "not known",
                f"{said.seconds * 1e3:.1f} ms",
                f"{said.per_second:,.0f}",
            ]
        )
    legend = _LEGEND.format(n=len(folders), known=int(known.sum()))
    print_wide(_HEADINGS, rows, legend, words=("",))
