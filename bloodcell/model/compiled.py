"""The network's training pass, compiled."""

import importlib.util
import shutil
import subprocess
import warnings
from typing import Literal, cast

import torch
from torch import Tensor, nn

from bloodcell.errors import InputError, reason, require

Compile = Literal["auto", False, "default", "reduce-overhead", "max-autotune"]
_GRAPHS = ("reduce-overhead", "max-autotune")  # modes that record CUDA graphs
_OLDEST = (7, 0)  # compute capability that PyTorch's compiler works for
# pixels a training must read for half a minute of compiling to pay on a CPU, where it saves a fifth
_LONG = 2e9


class CompiledPass:
    """Runs a network, compiled for batches of one size; batches of other sizes run uncompiled.

    The short batch that ends an epoch therefore costs no second compilation. The weights are shared
    with the network, whose names in checkpoints stay clean.

    Args:
        network: uint8 pixels in, logits out.
        how: `auto` compiles where it pays: on a GPU with Triton, and on a CPU with a C++ compiler
            for a long training; a mode of `torch.compile` compiles anywhere, False nowhere.
        device: where it runs.
        n_pixels: that the whole training will read.
        accumulates: whether gradients of several batches are added up, which rules out CUDA graphs.
        batch_size: images of a full batch, the size that is compiled for; None takes that of the
            first batch.

    Attributes:
        mode: of `torch.compile`; False if nothing is compiled.

    Raises:
        InputError: if a mode was given that cannot accumulate.
    """

    def __init__(
        self,
        network: nn.Module,
        how: Compile,
        device: torch.device,
        n_pixels: float = 0,
        accumulates: bool = False,
        batch_size: int | None = None,
    ) -> None:
        cuda = device.type == "cuda"
        rule = "default, with trainer.accumulate_grad_batches: CUDA graphs reuse the gradients"
        require(not (cuda and accumulates and how in _GRAPHS), "model.compile", how, rule)
        self._network, self._how = network, how
        mode = how if how != "auto" else _best_mode(device, n_pixels, accumulates)
        self.mode = mode
        self._compiled = torch.compile(network.forward, mode=mode, dynamic=False) if mode else None
        self._batch_size = batch_size
        self._shape: torch.Size | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Maps pixels (B, 3, H, W), 0 to 255, to logits (B, classes).

        Raises:
            InputError: if a mode was given and the compiler does not work here.
        """
        if self._shape is None and self._batch_size in (None, len(images)):
            self._shape = images.shape
            self._try(images)
        if self._compiled is None or images.shape != self._shape:
            return cast(Tensor, self._network(images))
        return cast(Tensor, self._compiled(images))

    def _try(self, images: Tensor) -> None:
        """Compiles forward and backward pass; leaves network and random state as they were."""
        if self._compiled is None:
            return
        buffers = [buffer.clone() for buffer in self._network.buffers()]
        trained = [p for p in self._network.parameters() if p.requires_grad]
        try:
            with torch.random.fork_rng():  # dropout draws: the step that follows must not notice
                torch.autograd.grad(self._compiled(images).float().sum(), trained)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            cause = getattr(error, "inner_exception", error)  # the compiler wraps what it meets
            if isinstance(cause, torch.OutOfMemoryError):
                raise
            if self._how != "auto":
                raise InputError(
                    f"model.compile={self._how}, but PyTorch's compiler does not work here "
                    f"({reason(error)}). Use --model.compile auto or false."
                ) from error
            warnings.warn(f"not compiled ({reason(error)}): training is slower.", stacklevel=2)
            self._compiled = None
        with torch.no_grad():  # BatchNorm has counted the batch
            for buffer, before in zip(self._network.buffers(), buffers, strict=True):
                buffer.copy_(before)


def _best_mode(
    device: torch.device, n_pixels: float, accumulates: bool
) -> Literal[False, "default", "reduce-overhead"]:
    if device.type == "cpu":
        compiler = shutil.which("g++") or shutil.which("clang++")
        return "default" if compiler and n_pixels > _LONG else False
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _OLDEST:
        return False
    if not importlib.util.find_spec("triton"):
        return False
    return "default" if accumulates else "reduce-overhead"
