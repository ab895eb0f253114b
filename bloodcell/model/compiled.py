"""The network's training pass, compiled."""

import importlib.util
import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from bloodcell.errors import InputError, reason

Compile = Literal["auto", False, "default", "reduce-overhead", "max-autotune"]
_OLDEST = (7, 0)  # compute capability that PyTorch's compiler works for


class CompiledPass:
    """Runs a network, compiled for batches of the first one's shape; others run as they are.

    So the short batch that ends an epoch costs no second compilation. Weights are shared with the
    network, whose names in checkpoints stay clean.

    Args:
        network: uint8 pixels in, logits out.
        how: `auto` compiles where it pays: on a GPU with Triton, into CUDA graphs; a mode of
            `torch.compile` compiles anywhere, False nowhere.
        device: where it runs.
    """

    def __init__(self, network: nn.Module, how: Compile, device: torch.device) -> None:
        self._network, self._how = network, how
        self._mode = _best_mode(device) if how == "auto" else how
        self._compiled = (
            torch.compile(network.forward, mode=self._mode, dynamic=False) if self._mode else None
        )
        self._shape: torch.Size | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Maps pixels (B, 3, H, W), 0 to 255, to logits (B, classes).

        Raises:
            InputError: if a mode was given and the compiler does not work here.
        """
        self._shape = self._shape or images.shape
        if self._compiled is None or images.shape != self._shape:
            return self._network(images)  # type: ignore[no-any-return]
        try:
            return self._compiled(images)  # type: ignore[no-any-return]
        except torch._dynamo.exc.TorchDynamoException as error:
            if self._how != "auto":
                raise InputError(
                    f"model.compile={self._how}, but PyTorch's compiler does not work here "
                    f"({reason(error)}). Use --model.compile auto or off."
                ) from error
            warnings.warn(f"not compiled ({reason(error)}): training is slower.", stacklevel=2)
            self._compiled = None
        return self._network(images)  # type: ignore[no-any-return]


def _best_mode(device: torch.device) -> Literal[False, "reduce-overhead"]:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _OLDEST:
        return False
    return "reduce-overhead" if importlib.util.find_spec("triton") else False
