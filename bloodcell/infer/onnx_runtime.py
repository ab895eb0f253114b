"""Runs an exported model with onnxruntime, without PyTorch."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bloodcell.data.crop import InputFormat, Pixels
from bloodcell.errors import InputError, reason
from bloodcell.infer.runtime import Classified
from bloodcell.model.description import GALLERY, KEY, Description

PROBABILITY, DISTANCE = "probability", "distance"  # outputs of the graph

CROPS = ("GridSample", "Round")  # the last operation of a crop, which no network contains


class OnnxModel:
    """An exported model, which includes resizing, normalisation and softmax.

    Args:
        path: the .onnx file.

    Raises:
        InputError: if the file is damaged or not from bloodcell, or onnxruntime is missing.
    """

    n_devices = 1

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session = _start(path, path.read_bytes())
        metadata = self._session.get_modelmeta().custom_metadata_map
        if KEY not in metadata:
            raise InputError(
                f"--model {path} was not exported by bloodcell: its classes are unknown."
            )
        try:
            self.description = Description.from_json(metadata[KEY])
            cuts = self.description.crop != "none"
            self.input_format: InputFormat | None = None if cuts else self.description.input_format
            self.threshold = _read_threshold(metadata)
        except ValueError as error:
            raise InputError(f"--model {path}: {error}. Export it again.") from error

    @cached_property
    def on_squares(self) -> "OnnxSquares":
        """The part of the model after the crop of the cell."""
        return OnnxSquares(self._path, self.description, self.threshold)

    def classify(self, pixels: Pixels) -> Classified:
        """Classifies images (B, H, W, 3) of any size."""
        return _run(self._session, {"pixels": np.ascontiguousarray(pixels)})


class OnnxSquares:
    """The part of an exported model of single cells that classifies the square around a cell.

    Args:
        path: the .onnx file.
        description: classes, network, input size, temperature, scores.
        threshold: as for `Runtime`.

    Raises:
        InputError: if the file has no such part, or the package onnx is missing.
    """

    n_devices = 1

    def __init__(self, path: Path, description: Description, threshold: float | None) -> None:
        try:
            import onnx
            from onnx.utils import Extractor
        except ImportError as error:
            raise InputError(
                f"--cells with --model {path} needs onnx: pip install 'bloodcell[export]'."
            ) from error
        self.description, self.threshold = description, threshold
        self.input_format: InputFormat | None = description.input_format
        model = onnx.load(path)
        squares = [node.output[0] for node in model.graph.node if node.op_type in CROPS]
        if len(squares) != 1:
            raise InputError(
                f"--model {path} has {len(squares)} crop steps instead of one, so "
                "--cells cannot use it. Export it again."
            )
        self._square = squares[0]
        # `pixels` only supplies the batch size
        outputs = [output.name for output in model.graph.output]
        part = Extractor(model).extract_model(["pixels", self._square], outputs)
        self._session = _start(path, part.SerializeToString())

    @property
    def on_squares(self) -> "OnnxSquares":
        """The model itself."""
        return self

    def classify(self, pixels: Pixels) -> Classified:
        """Classifies squares (B, size, size, 3)."""
        square = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
        return _run(self._session, {"pixels": np.ascontiguousarray(pixels), self._square: square})


def _run(session: Any, given: dict[str, Any]) -> Classified:
    """Runs a model; one without a gallery has no output for distances."""
    probability, *distance = session.run(None, given)
    return Classified(probability, *distance) if distance else Classified.alone(probability)


def _read_threshold(metadata: dict[str, str]) -> float | None:
    """Returns the threshold of the distances; None if the model has no gallery.

    Raises:
        ValueError: if it is not a number.
    """
    if GALLERY not in metadata:
        return None
    try:
        return float(json.loads(metadata[GALLERY])["threshold"])
    except (LookupError, TypeError) as error:
        raise ValueError("its threshold cannot be used") from error


def _start(path: Path, model: bytes) -> Any:
    """Loads a model into onnxruntime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"--model {path} needs onnxruntime: pip install 'bloodcell[export]'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # only errors
    # otherwise idle threads spin and slow down other programs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own exception classes
        raise InputError(
            f"--model {path} cannot be read as an ONNX model ({reason(error)}). Export it again."
        ) from error
