"""`bloodcell export`: exports a model for use without bloodcell, and checks its predictions."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bloodcell.errors import InputError, listed, require
from bloodcell.evaluate.card import CARD, write_card
from bloodcell.evaluate.scores import CONFUSION
from bloodcell.evaluate.unseen import add_unseen, check_labs, read_unseen
from bloodcell.files import beside, check_place, is_folder
from bloodcell.infer.agreement import (
    Agreement,
    compare,
    measure,
    print_agreement,
    read_images,
    sample_images,
)
from bloodcell.infer.inputs import STDIN, Named, check_given
from bloodcell.infer.onnx_runtime import OnnxModel
from bloodcell.infer.open import find_model
from bloodcell.infer.quantise import quantise
from bloodcell.infer.runtime import Predictor
from bloodcell.model.description import GALLERY, KEY, Description
from bloodcell.model.find import find_checkpoint

if TYPE_CHECKING:
    from bloodcell.infer.saved import Saved

LARGEST = 1e-3  # largest allowed difference between probabilities
LEAST_ALIKE = {8: 0.9, 16: 0.99}  # least share of images with the same class, by bits
_COMPARED, _CALIBRATED = 2_500, 200  # largest numbers of images
_HUB_FILES = {"config.json", "model.safetensors", "README.md"}
_CELL_NOTE = (
    "timm does not crop the cell. Give the model squares that "
    "bloodcell.data.crop.show has cropped: see README.md in that folder"
)
_FEWER_BITS = (
    "These are the scores of the 32-bit model. This {}-bit model predicts the same class for "
    "{:.2%} of {:,} images."
)


class Exported(NamedTuple):
    """An exported file or timm folder under a temporary name.

    Attributes:
        path: its final path.
        bits: bits per weight.
        size: size in bytes.
        model: runs the exported model.
        in_folder: whether it is a timm folder.
    """

    path: Path
    bits: int
    size: int
    model: Predictor
    in_folder: bool = False


def export(
    images: list[str],
    model: str | None = None,
    out: str | None = None,
    int8: str | None = None,
    labs: str | None = None,
) -> Agreement:
    """Exports a model, and checks the predictions of the export on images.

    An .onnx or .pt2 file maps images of any size to probabilities: it contains the resizing, the
    normalisation, the softmax and the class names. Each export is compared with the model on up to
    2,500 of the images, and kept only if the predictions agree: every class, and the probabilities
    to .001. With fewer bits, either is enough, and then the class may differ for one image in a
    hundred with 16 bits (.safetensors), and for one in ten with 8 bits.

    Args:
        images: files, folders, .zip files, folders in a .zip (x.zip/folder), patterns, or - to read
            paths from the standard input, one per line.
        model: a run folder, a .ckpt or a .safetensors file (default: the bundled model).
        out: a .onnx file, a .pt2 file for PyTorch, a .safetensors file for bloodcell in half
            precision, or a folder for timm in the layout of the Hugging Face Hub: an existing one,
            or a name that ends in / or has no suffix (default: NAME.onnx with the run's name).
        int8: training images; up to 200 of them calibrate a second file NAME.int8.onnx, which
            computes in 8 bits (default: none).
        labs: folder of a finished `labs` with the model's settings. Its results on data sets left
            out give the temperature, wider intervals of differential counts, and rows of the card
            (default: none).

    Returns:
        The agreement between the model and the exported file (not the 8-bit file).

    Raises:
        InputError: if an argument is invalid, or the predictions differ.
    """
    path = _check(images, model, out, int8, labs)
    folder = out is not None and is_folder(out)
    with ExitStack() as stack:
        sample = sample_images(images, _COMPARED, stack)
        training = sample_images([int8], _CALIBRATED, stack) if int8 else []
        from bloodcell.infer.saved import MODEL, load_saved  # imports torch: after the checks

        saved = load_saved(path)
        if labs:
            saved = saved._replace(description=_add_labs(saved.description, Path(labs)))
        description = saved.description
        source = find_checkpoint(MODEL, path, "best")
        target = Path(out or f"{description.name}.onnx")
        if folder:
            original, exported = _write_folder(saved, target, stack)
        else:
            metadata = _metadata(saved, source)
            original, exported = _write_files(saved, target, metadata, training, stack)
        models = [original, *(one.model for one in exported)]
        folders, measured = measure(models, sample, description.image_size)
        agreements = [compare(measured[0].probability, one.probability) for one in measured[1:]]
        for one, agreement in zip(exported, agreements, strict=True):
            _require_agreement(one, agreement)
    if not folder:
        _write_cards(description, exported, agreements)
    labels = ["PyTorch", *(str(one.path) for one in exported)]
    weights = saved.network.state_dict().values()  # a checkpoint also has the optimizer's state
    sizes = [sum(tensor.nbytes for tensor in weights), *(one.size for one in exported)]
    print_agreement(labels, sizes, measured, agreements, folders, description.class_names)
    if folder and description.crop == "cell":
        print(f"{target}: {_CELL_NOTE}.")
    return agreements[0]


def _check(
    given: Sequence[str], model: str | None, out: str | None, int8: str | None, labs: str | None
) -> Path:
    """Returns the path of the model; raises InputError if an argument is invalid."""
    path = find_model(model)
    if path.suffix == ".onnx":
        raise InputError(f"--model {model} is already exported. Give the run folder.")
    check_given(given)
    if out is not None and is_folder(out):
        _check_folder(Path(out))
    else:
        check_place("--out", out, ".onnx", ".pt2", ".safetensors")
    if int8 and out and (is_folder(out) or Path(out).suffix != ".onnx"):
        raise InputError(
            f"--int8 with --out {out}: only an .onnx file can have 8 bits. Leave one of them out."
        )
    if labs:
        check_labs(Path(labs))
    require(int8 != STDIN, "--int8", int8, "the paths of training images, not the standard input")
    return path


def _add_labs(description: Description, folder: Path) -> Description:
    """Returns a description with the results of its recipe on data sets left out of training."""
    rule = "a model with the scores.json of its run, as this version writes it"
    require(CONFUSION in (description.scores or {}), "--model", description.name, rule)
    found = read_unseen(folder, description.class_names)
    scores = add_unseen(description.scores, found, description.class_names)
    return replace(description, scores=scores, temperature=found["temperature"])


def _check_folder(folder: Path) -> None:
    """Raises InputError if a folder has other files, because timm could load them as weights."""
    require(folder.absolute().parent.is_dir(), "--out", folder, "in a folder that exists")
    require(not folder.is_file(), "--out", folder, "a folder, or a file with a suffix")
    others = {path.name for path in folder.iterdir()} - _HUB_FILES if folder.is_dir() else set()
    rule = f"empty, new or from an earlier export, but it contains {listed(sorted(others), 3)}"
    require(not others, "--out", folder, rule)


def _write_folder(
    saved: "Saved", target: Path, stack: ExitStack
) -> tuple[Predictor, list[Exported]]:
    """Writes a timm folder under a temporary name; closing the stack moves it to its path."""
    from bloodcell.infer.hub import HubModel, ResizingModel, folder_beside, write_hub_folder
    from bloodcell.infer.torch_runtime import TorchModel, find_devices

    partial = stack.enter_context(folder_beside(target))
    write_hub_folder(saved, partial, target.resolve().name)  # also of `.`
    size = sum(file.stat().st_size for file in partial.iterdir())
    input_format = saved.description.input_format
    exported = Exported(target, 32, size, HubModel(partial, input_format), in_folder=True)
    original = ResizingModel(TorchModel(saved, find_devices("cpu")), input_format)
    return original, [exported]


def _write_files(
    saved: "Saved",
    target: Path,
    metadata: dict[str, str],
    training: Sequence[Named],
    stack: ExitStack,
) -> tuple[Predictor, list[Exported]]:
    """Writes files under temporary names; closing the stack moves them to their paths."""
    from bloodcell.infer.deploy import Deployed, Pt2, capture, write_onnx, write_pt2
    from bloodcell.infer.saved import load_saved, write_saved

    deployed = Deployed(saved)
    partial = stack.enter_context(beside(target))
    bits = 32
    model: Predictor
    if target.suffix == ".safetensors":
        write_saved(saved, partial)
        model, bits = Deployed(load_saved(partial)), 16
    elif target.suffix == ".pt2":  # returns one tensor
        write_pt2(capture(Deployed(saved._replace(gallery=None))), metadata, partial)
        model = Pt2(partial)
    else:
        write_onnx(capture(deployed), metadata, partial)
        model = OnnxModel(partial)
    exported = [Exported(target, bits, partial.stat().st_size, model)]
    if training:
        smaller = target.with_stem(f"{target.stem}.int8")
        quantised = stack.enter_context(beside(smaller))
        quantise(partial, (pixels for _, pixels in read_images(training)), quantised)
        exported.append(Exported(smaller, 8, quantised.stat().st_size, OnnxModel(quantised)))
    return deployed, exported


def _require_agreement(one: Exported, agreement: Agreement) -> None:
    """Checks the predictions of an exported model; below 32 bits, a few classes may differ.

    They may also differ if no probability differs by more than `LARGEST`: only classes that are
    almost equally probable can then change places.

    Raises:
        InputError: if the predictions differ by more than the limit.
    """
    equal = agreement.difference <= LARGEST
    if least := LEAST_ALIKE.get(one.bits):
        kept = equal or agreement.share >= least
        share = f"{1 - least:.0%} of the images"
        rule = f"either another class for up to {share}, or differences up to {LARGEST:g}"
        hint = "The classes are too nearly equally probable for fewer bits"
        if one.bits == 8:
            hint += "; without --int8, the file in 32 bits is written"
    else:
        kept = equal and not agreement.other_class
        rule = f"no other class, and differences up to {LARGEST:g}"
        hint = "Try another version of PyTorch or ONNX"
        if one.in_folder:
            hint = "timm's model differs from this one. Give --out an .onnx file"
    if not kept:
        raise InputError(
            f"--out {one.path}: the exported model predicts another class for "
            f"{agreement.other_class:,} of {agreement.images:,} images, and its probabilities "
            f"differ by up to {agreement.difference:.2g} (allowed: {rule}). It is not kept. {hint}."
        )


def _write_cards(
    description: Description, exported: Sequence[Exported], agreements: Sequence[Agreement]
) -> None:
    for one, agreement in zip(exported, agreements, strict=True):
        remark = ""
        if one.bits < 32:
            remark = _FEWER_BITS.format(one.bits, agreement.share, agreement.images)
        card = one.path.with_name(f"{one.path.name}.{CARD}")
        write_card(card, description, one.path, remark)


def _metadata(saved: "Saved", source: Path) -> dict[str, str]:
    description, gallery = saved.description, saved.gallery
    threshold = {GALLERY: json.dumps({"threshold": gallery.threshold})} if gallery else {}
    return threshold | {
        KEY: description.as_json(),
        "class_names": ", ".join(description.class_names),
        "preprocessing": "inside: uint8 RGB (batch, height, width, 3) of any size to probabilities",
        "made_from_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "licence": "Apache-2.0",
    }
