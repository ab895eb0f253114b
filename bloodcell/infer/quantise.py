"""Quantises an exported model to 8 bits, which makes it three to four times smaller."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bloodcell.data.crop import Pixels
from bloodcell.errors import InputError
from bloodcell.infer.onnx_runtime import CROPS

# Clip and Relu are included, so that ranges are calibrated after them, not before
_OPERATIONS = ["Conv", "Clip", "Relu"]
_EXCLUDED = 3  # the first convolutions cost most of the accuracy in 8 bits and take little time


def quantise(model: Path, images: Iterable[Pixels], path: Path) -> None:
    """Writes an ONNX model with 8-bit convolutions.

    Uses static quantisation (Jacob et al., CVPR 2018) with activation ranges from the images.
    Weights have one scale per channel, because MobileNet's depthwise filters differ too much for
    one scale per layer.

    Args:
        model: exported .onnx file.
        images: training images, each (H, W, 3).
        path: file to write.

    Raises:
        InputError: if onnxruntime is not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.calibrate import CalibrationDataReader
    except ImportError as error:
        raise InputError("export needs more packages: pip install 'bloodcell[export]'.") from error

    class Images(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self._coming: Iterator[Pixels] = iter(images)

        def get_next(self) -> dict[str, Pixels] | None:
            one = next(self._coming, None)
            return None if one is None else {"pixels": np.ascontiguousarray(one[None])}

    nodes = list(onnx.load(model).graph.node)
    convolutions = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    # those of the finder come before the crop and decide where it is
    crop = max((n for n, node in enumerate(nodes) if node.op_type in CROPS), default=-1)
    finding = sum(place < crop for place in convolutions)
    first = [nodes[place].name for place in convolutions[: finding + _EXCLUDED]]
    if finding:
        first += [node.name for node in nodes[:crop] if node.op_type in _OPERATIONS]
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a step that is already done
    try:
        quantize_static(
            model,
            path,
            Images(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATIONS,
            nodes_to_exclude=first,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(before)
