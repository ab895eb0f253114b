"""A model to be asked: a run, a file, or an exported one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bloodcell.data.crop import Look, Pixels
from bloodcell.errors import InputError
from bloodcell.model.bundled import find_bundled
from bloodcell.model.description import Description

Probabilities = NDArray[np.float32]
AUTO = "auto"


class Asked(Protocol):
    """What can be asked about images."""

    def classify(self, pixels: Pixels) -> Probabilities:
        """Classifies a batch; from any thread.

        Args:
            pixels: (B, H, W, 3) RGB, as `show` makes them of pictures.

        Returns:
            (B, classes), calibrated if a temperature was fitted.
        """
        ...


class Model(Asked, Protocol):
    """What answers need of a model, whatever runs it.

    Attributes:
        description: what it is.
        n_devices: how many batches it can work on at a time.
        look: what of a picture it is given; None: the picture as it is, of which it cuts the cell.
    """

    description: Description
    n_devices: int
    look: Look | None


def open_model(given: str | None, devices: str = AUTO) -> Model:
    """Opens a model; an exported .onnx without PyTorch.

    Args:
        given: a run folder, a .ckpt, .safetensors or .onnx file; None: the bundled model.
        devices: PyTorch's names with commas between, such as `cuda:0,cuda:1`; `auto`: all GPUs, or
            what there is.

    Raises:
        InputError: if there is none, or it cannot run there.
    """
    path = find_model(given)
    if path.suffix == ".onnx":
        from bloodcell.use.onnx_model import OnnxModel

        if devices not in (AUTO, "cpu"):
            raise InputError(
                f"--devices {devices}: an exported model runs on the CPU. Leave it out."
            )
        return OnnxModel(path)
    from bloodcell.use.saved import load_saved
    from bloodcell.use.torch_model import TorchModel, find_devices

    return TorchModel(load_saved(path), find_devices(devices))


def find_model(given: str | None) -> Path:
    """The path that `--model` means: None is the bundled model.

    Raises:
        InputError: if nothing is there.
    """
    if given is None:
        return find_bundled()
    path = Path(given).expanduser()
    if path.suffix in (".onnx", ".safetensors") and not path.is_file():
        raise InputError(f"--model {given}: no such file. Give a run folder or a model's file.")
    if path.suffix == ".pt2":
        raise InputError(
            f"--model {given}: a .pt2 is for torch.export.load. Give the run folder or an .onnx."
        )
    return path


def views(pixels: Pixels) -> Sequence[Pixels]:
    """The eight ways a square image can lie: a smear has no upright.

    Args:
        pixels: (B, size, size, 3).
    """
    turned = [np.rot90(pixels, turns, (1, 2)) for turns in range(4)]
    return [*turned, *(view[:, :, ::-1] for view in turned)]


def classify_views(model: Model, pixels: Pixels) -> Probabilities:
    """The mean answer over the eight views, (B, classes)."""
    said = [model.classify(np.ascontiguousarray(view)) for view in views(pixels)]
    mean: Probabilities = np.mean(said, axis=0, dtype=np.float32)
    return mean
