"""Exports a model as a file that maps pixels to probabilities without bloodcell."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bloodcell.data.crop import Pixels, crop_cell
from bloodcell.errors import InputError
from bloodcell.infer.onnx_runtime import DISTANCE, PROBABILITY
from bloodcell.infer.runtime import Classified
from bloodcell.infer.saved import Saved
from bloodcell.infer.torch_runtime import apply_temperature

_OPSET = 20  # Resize supports antialiasing from opset 18


class Deployed(nn.Module):
    """A model with built-in resizing, normalisation and softmax.

    Args:
        saved: the model; without a gallery, the module returns no distances.
    """

    weight: Tensor

    def __init__(self, saved: Saved) -> None:
        super().__init__()
        self.network = saved.network
        self.input_format = saved.description.input_format
        self.temperature = saved.description.temperature
        self.gallery = saved.gallery
        if saved.gallery:
            self.register_buffer("weight", saved.gallery.weight)

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Returns what the model says about images.

        Args:
            pixels: (B, H, W, 3), uint8, RGB, of any size.

        Returns:
            The probabilities (B, classes); for a model with a gallery, with the distances (B,) from
            the training images.
        """
        x = pixels.permute(0, 3, 1, 2).float()
        if self.input_format.crop == "cell":
            x = crop_cell(x, self.input_format)
        else:  # the same filter as Pillow's bilinear resizing
            size = (self.input_format.size, self.input_format.size)
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        maps = self.network.maps(x)
        probability = apply_temperature(self.network.classify(maps), self.temperature)
        if self.gallery is None:
            return probability
        gallery = self.gallery._replace(weight=self.weight)
        return probability, gallery.distance(maps.mean((2, 3)))

    def classify(self, pixels: Pixels) -> Classified:
        """Classifies images (B, H, W, 3)."""
        with torch.inference_mode():
            found = self(torch.from_numpy(pixels))
        if self.gallery is None:
            return Classified.alone(found.numpy())
        return Classified(*(one.numpy() for one in found))


class Pt2:
    """Runs an exported .pt2 model.

    Args:
        path: file written by `write_pt2`.
    """

    def __init__(self, path: Path) -> None:
        self._module = torch.export.load(str(path)).module()

    def classify(self, pixels: Pixels) -> Classified:
        """Classifies images (B, H, W, 3), without distances."""
        with torch.inference_mode():
            return Classified.alone(self._module(torch.from_numpy(pixels)).numpy())


def capture(deployed: Deployed) -> torch.export.ExportedProgram:
    """Returns the model's graph for batches of any size and images of any size."""
    dim = torch.export.Dim
    free = {0: dim("batch"), 1: dim("height", min=2), 2: dim("width", min=2)}
    size = deployed.input_format.size
    example = torch.zeros(2, size + 16, size + 48, 3, dtype=torch.uint8)
    with torch.no_grad():
        deployed.eval()(example)  # the finder is loaded here, as a file cannot be read in a trace
    return torch.export.export(deployed, (example,), dynamic_shapes=(free,))


def write_pt2(
    program: torch.export.ExportedProgram, metadata: Mapping[str, str], path: Path
) -> None:
    """Writes a .pt2 file, which `torch.export.load(path).module()` loads.

    Args:
        program: graph returned by `capture`.
        metadata: stored as extra files.
        path: file to write.
    """
    with path.open("wb") as file, _quiet():
        torch.export.save(program, file, extra_files=dict(metadata))


def write_onnx(
    program: torch.export.ExportedProgram, metadata: Mapping[str, str], path: Path
) -> None:
    """Writes one ONNX file that includes the weights.

    Args:
        program: graph returned by `capture`.
        metadata: stored in the file.
        path: file to write.

    Raises:
        InputError: if the packages for ONNX are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise InputError("export needs more packages: pip install 'bloodcell[export]'.") from error
    with _quiet():
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            opset_version=_OPSET,
            input_names=["pixels"],
            output_names=[PROBABILITY, DISTANCE][: len(program.graph_signature.user_outputs)],
        )
    assert made is not None
    model = made.model_proto
    for name, size in zip(
        ("batch", "height", "width"), model.graph.input[0].type.tensor_type.shape.dim, strict=False
    ):
        size.dim_param = name
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the exporter's log, which only helps its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
