"""Runs an exported model with onnxruntime, without PyTorch."""

from pathlib import Path

import numpy as np

from bloodcell.data.crop import InputFormat, Pixels
from bloodcell.errors import InputError, reason
from bloodcell.infer.runtime import Probabilities
from bloodcell.model.description import KEY, Description


class OnnxModel:
    """An exported model, which includes resizing, normalisation and softmax.

    Args:
        path: the .onnx file.

    Raises:
        InputError: if the file is damaged or not from bloodcell, or onnxruntime is missing.
    """

    n_devices = 1

    def __init__(self, path: Path) -> None:
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
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            metadata = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # onnxruntime has its own exception classes
            raise InputError(
                f"--model {path} cannot be read as an ONNX model ({reason(error)}). Export anew."
            ) from error
        if KEY not in metadata:
            raise InputError(
                f"--model {path} was not exported by bloodcell: its classes are unknown."
            )
        try:
            self.description = Description.from_json(metadata[KEY])
            cuts = self.description.crop != "none"
            self.input_format: InputFormat | None = None if cuts else self.description.input_format
        except ValueError as error:
            raise InputError(f"--model {path}: {error}. Export it again.") from error

    def classify(self, pixels: Pixels) -> Probabilities:
        """Returns the probabilities (B, classes) of images (B, H, W, 3) of any size."""
        (probability,) = self._session.run(None, {"pixels": np.ascontiguousarray(pixels)})
        result: Probabilities = probability
        return result
