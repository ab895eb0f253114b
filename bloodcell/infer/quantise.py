"""An exported model whose convolutions work in 8 bits: a quarter to a third of the size."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bloodcell.data.crop import Pixels
from bloodcell.errors import InputError

# activations with their convolution, or the range would be that before they cut it
_OPERATIONS = ["Conv", "Clip", "Relu"]
_SPARED = 3  # first convolutions: with the head, they cost most of the answers and little time


def quantise(model: Path, pictures: Iterable[Pixels], path: Path) -> None:
    """Writes an ONNX model whose convolutions work in 8 bits.

    Static quantisation (Jacob et al., CVPR 2018): activations by the range that the pictures show,
    weights with a scale for each channel, because MobileNet's depthwise filters differ too much for
    one a layer.

    Args:
        model: an exported .onnx file.
        pictures: each (H, W, 3), of the training part; they decide the ranges of activations.
        path: is written to.

    Raises:
        InputError: if onnxruntime is not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.calibrate import CalibrationDataReader
    except ImportError as error:
        raise InputError("export needs more packages: pip install 'bloodcell[export]'.") from error

    class Pictures(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self._coming: Iterator[Pixels] = iter(pictures)

        def get_next(self) -> dict[str, Pixels] | None:
            one = next(self._coming, None)
            return None if one is None else {"pixels": np.ascontiguousarray(one[None])}

    nodes = onnx.load(model).graph.node
    first = [node.name for node in nodes if node.op_type == "Conv"][:_SPARED]
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises to fuse what the exporter has fused
    try:
        quantize_static(
            model,
            path,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATIONS,
            nodes_to_exclude=first,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(before)
