"""A trained model run by PyTorch, on one device or on several."""

import copy
from collections.abc import Sequence
from queue import SimpleQueue

import torch
from torch import Tensor

from bloodcell.data.crop import InputFormat, Pixels
from bloodcell.errors import InputError, reason
from bloodcell.infer.open import AUTO
from bloodcell.infer.runtime import Probabilities
from bloodcell.infer.saved import Saved
from bloodcell.model.description import Description
from bloodcell.model.network import Network


class TorchModel:
    """A trained model; each device has a copy of its network.

    Args:
        saved: the model.
        devices: where it runs.
    """

    def __init__(self, saved: Saved, devices: Sequence[torch.device]) -> None:
        self.description: Description = saved.description
        self.input_format: InputFormat | None = saved.description.input_format
        self.n_devices = len(devices)
        self._free: SimpleQueue[tuple[Network, torch.device]] = SimpleQueue()
        try:
            for device in devices:
                self._free.put((copy.deepcopy(saved.network).to(device), device))
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--devices: {reason(error)}. Use --devices cpu.") from error

    def classify(self, pixels: Pixels) -> Probabilities:
        """Classifies a batch (B, size, size, 3); returns (B, classes)."""
        network, device = self._free.get()
        try:
            with torch.inference_mode():
                logits = network(as_images(pixels, device))
                result: Probabilities = soften(logits, self.description.temperature).cpu().numpy()
            return result
        finally:
            self._free.put((network, device))


def as_images(pixels: Pixels, device: torch.device) -> Tensor:
    """(B, H, W, 3) as the network takes them: (B, 3, H, W), in channels-last memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)


def soften(logits: Tensor, temperature: float | None) -> Tensor:
    """Probabilities (B, classes), calibrated if there is a temperature."""
    return (logits.float() / (temperature or 1.0)).softmax(1)


def find_devices(said: str) -> list[torch.device]:
    """The devices that `--devices` means.

    Args:
        said: PyTorch's names with commas between; `auto`: all GPUs, or what there is.

    Raises:
        InputError: if PyTorch knows no such device.
    """
    if said == AUTO:
        if torch.cuda.is_available():
            return [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
        return [torch.device("mps" if torch.backends.mps.is_available() else "cpu")]
    try:
        return [torch.device(name.strip()) for name in said.split(",")]
    except RuntimeError as error:
        raise InputError(
            f"--devices {said}: PyTorch has no such device. Use auto, cpu, cuda or cuda:0,cuda:1."
        ) from error
