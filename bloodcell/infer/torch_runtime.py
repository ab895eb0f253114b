"""Runs a trained model with PyTorch on one or several devices."""

import copy
from collections.abc import Sequence
from queue import SimpleQueue

import torch
from torch import Tensor

from bloodcell.data.crop import InputFormat, Pixels
from bloodcell.errors import InputError, reason
from bloodcell.infer.prepare import prepare_network
from bloodcell.infer.runtime import AUTO, Classified
from bloodcell.infer.saved import Saved
from bloodcell.model.description import Description
from bloodcell.model.network import Network


class TorchModel:
    """A trained model with a copy of its network on each device, without BatchNorm if possible.

    Args:
        saved: the model.
        devices: devices to run on.

    Raises:
        InputError: if a device cannot be used.
    """

    def __init__(self, saved: Saved, devices: Sequence[torch.device]) -> None:
        self.description: Description = saved.description
        self.input_format: InputFormat | None = saved.description.input_format
        self.n_devices = len(devices)
        self._saved, self._devices = saved, devices
        self._gallery = saved.gallery
        self.threshold = saved.gallery.threshold if saved.gallery else None
        self._free: SimpleQueue[tuple[Network, torch.device]] = SimpleQueue()
        network = prepare_network(saved.network, saved.description.image_size)
        try:
            for device in devices:
                self._free.put((copy.deepcopy(network).to(device), device))
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--devices: {reason(error)}. Use --devices cpu.") from error

    @property
    def on_squares(self) -> "TorchModel":
        """The model itself, because its images are always cropped first."""
        return self

    def copy_network(self) -> tuple[Network, torch.device]:
        """Returns a copy of the network, and the device it is on."""
        device = self._devices[0]
        return copy.deepcopy(self._saved.network).to(device), device

    def with_network(self, network: Network) -> "TorchModel":
        """Returns the same model with another network, on the same devices."""
        return TorchModel(self._saved._replace(network=network), self._devices)

    def classify(self, pixels: Pixels) -> Classified:
        """Classifies images (B, size, size, 3)."""
        network, device = self._free.get()
        try:
            with torch.inference_mode():
                maps = network.maps(as_images(pixels, device))
                logits = network.classify(maps)
                probability = apply_temperature(logits, self.description.temperature).cpu().numpy()
                if self._gallery is None:
                    return Classified.alone(probability)
                distance = self._gallery.distance(maps.float().mean((2, 3)).cpu())
                return Classified(probability, distance.numpy())
        finally:
            self._free.put((network, device))


def as_images(pixels: Pixels, device: torch.device) -> Tensor:
    """Returns pixels (B, H, W, 3) as a (B, 3, H, W) tensor in channels-last memory format."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)


def apply_temperature(logits: Tensor, temperature: float | None) -> Tensor:
    """Returns the softmax (B, classes) of the logits divided by the temperature (None means 1)."""
    return (logits.float() / (temperature or 1.0)).softmax(1)


def find_devices(names: str) -> list[torch.device]:
    """Returns the devices that `--devices` names.

    Args:
        names: PyTorch device names, separated by commas; `auto` uses all GPUs, or else the CPU.

    Raises:
        InputError: if a device does not exist.
    """
    if names == AUTO:
        if torch.cuda.is_available():
            return [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
        return [torch.device("mps" if torch.backends.mps.is_available() else "cpu")]
    try:
        return [torch.device(name.strip()) for name in names.split(",")]
    except RuntimeError as error:
        raise InputError(
            f"--devices {names}: PyTorch has no such device. Use auto, cpu, cuda or cuda:0,cuda:1."
        ) from error
