"""`bloodcell export`: a model as one file that needs no bloodcell, checked before it is kept."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bloodcell.data.decode import READ_ERRORS, Pixels, open_rgb
from bloodcell.errors import InputError
from bloodcell.model.checkpoint import find_checkpoint
from bloodcell.model.description import KEY
from bloodcell.report.whole import beside, check_place
from bloodcell.use.deploy import Deployed, capture, write_onnx, write_pt2
from bloodcell.use.images import check_given, find_images
from bloodcell.use.model import Probabilities, find_model
from bloodcell.use.onnx_model import OnnxModel
from bloodcell.use.saved import MODEL, load_saved

LARGEST = 1e-3  # difference of a probability that is allowed
_CHECKED = 200  # images


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


def export(model: str | None, given: Sequence[str], out: str | None = None) -> Check:
    """Writes a model as ONNX or for PyTorch, if it says what the model says.

    Args:
        model: a run folder, a .ckpt or a .safetensors file.
        given: images, as of `predict`; the first 200 that can be read are asked about.
        out: .onnx or .pt2; None: the model's name and .onnx, here.

    Returns:
        What the check found.

    Raises:
        InputError: if a word cannot be used, or the answers differ.
    """
    path = find_model(model)
    if path.suffix == ".onnx":
        raise InputError(f"--model {model} is exported already. Give the run folder.")
    check_given(given)
    check_place("--out", out, ".onnx", ".pt2")
    pictures = _read(given)
    saved = load_saved(path)
    target = Path(out or f"{saved.description.name}.onnx")
    source = path if path.is_file() else find_checkpoint(MODEL, path, "best")
    said = {
        KEY: saved.description.as_json(),
        "class_names": ", ".join(saved.description.class_names),
        "preprocessing": "inside: uint8 RGB (batch, height, width, 3) of any size to probabilities",
        "made_from_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "licence": "Apache-2.0",
    }
    deployed = Deployed(saved)
    program = capture(deployed)
    with beside(target) as partial:
        if target.suffix == ".pt2":
            write_pt2(program, said, partial)
            module = torch.export.load(str(partial)).module()
            answers = [module(torch.from_numpy(one[None])).numpy(force=True) for one in pictures]
        else:
            write_onnx(program, said, partial)
            exported = OnnxModel(partial)
            answers = [exported.classify(one[None]) for one in pictures]
        check = _compare([deployed.classify(one[None]) for one in pictures], answers)
        if check.other_class or check.difference > LARGEST:
            raise InputError(
                f"--out {target}: the exported model names {check.other_class} of {check.images} "
                f"images differently, and its probabilities differ by up to {check.difference:.2g} "
                f"(allowed: {LARGEST:g}). It is not kept. Try another version of PyTorch or ONNX."
            )
    print(
        f"{target}: {target.stat().st_size / 1e6:.1f} MB; of {check.images} images the same class "
        f"as PyTorch for all, probabilities differ by {check.difference:.1g} at most"
    )
    return check


def _compare(before: Sequence[Probabilities], after: Sequence[Probabilities]) -> Check:
    one, other = np.concatenate(before), np.concatenate(after)
    differently = int((one.argmax(1) != other.argmax(1)).sum())
    return Check(len(one), differently, float(np.abs(one - other).max()))


def _read(given: Sequence[str]) -> list[Pixels]:
    """The first images that can be read, each (H, W, 3) as it is."""

    def readable() -> Iterator[Pixels]:
        for image in find_images(given, archives):
            try:
                yield np.array(open_rgb(image.read()))
            except READ_ERRORS:
                continue

    with ExitStack() as archives:
        pictures = list(islice(readable(), _CHECKED))
    if not pictures:
        raise InputError(f"{' '.join(given)}: none of these images can be read.")
    return pictures
