"""Compiles the forward and backward pass of training."""

import importlib.util
import shutil
import subprocess
import warnings
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from bloodcell.errors import InputError, reason, require
from bloodcell.memory import is_full

Compile = Literal["auto", False, "default", "reduce-overhead", "max-autotune"]
_GRAPHS = ("reduce-overhead", "max-autotune")  # modes that record CUDA graphs
_OLDEST = (7, 0)  # lowest compute capability that PyTorch's compiler supports
# compilation takes 30 to 90 s on a CPU and, in bfloat16, saves a fifth of the time or more: it pays
# off above this number of pixels
_LONG = 2e9
# x86 CPUs without AVX-512 train in 32 bits; on one, a compiled step was no faster (RESULTS.md)
_NO_GAIN = "AVX2"
# By default, the compiler stores results that several formulas read. In the gradient of BatchNorm
# these are 32-bit copies of whole maps, and storing takes longer than computing them again.
_CPU_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    "realize_opcount_threshold": 200,
    "realize_reads_threshold": 100,
    "realize_acc_reads_threshold": 100,
}


class CompiledPass:
    """Runs a network compiled for one batch size; batches of other sizes run uncompiled.

    The last, shorter batch of an epoch therefore needs no second compilation. The compiled
    function uses the network's own weights, so the keys of its state dict do not change.

    Args:
        network: maps uint8 pixels to logits.
        how: `auto` compiles on a GPU with Triton and, for a long training, on a CPU with a C++
            compiler, unless it has AVX2 without AVX-512. A mode of `torch.compile` always
            compiles, False never.
        device: device of the network.
        n_pixels: number of pixels that the whole training will read.
        accumulates: whether gradients are accumulated, which rules out CUDA graphs.
        batch_size: batch size to compile for; None uses the size of the first batch.

    Attributes:
        mode: mode of `torch.compile`; False if nothing is compiled.

    Raises:
        InputError: if the given mode does not support gradient accumulation.
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
        rule = "default with trainer.accumulate_grad_batches, as CUDA graphs reuse the gradients"
        require(not (cuda and accumulates and how in _GRAPHS), "model.compile", how, rule)
        self._network, self._how = network, how
        mode: Compile = how if how != "auto" else _best_mode(device, n_pixels, accumulates)
        self.mode = mode
        # CUDA graphs are recorded in the second pass, and memory may run out there
        self._passes = 2 if cuda and mode in _GRAPHS else 1
        self._compiled = _compile(network, mode, device) if mode else None
        self._batch_size = batch_size
        self._shape: torch.Size | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Maps pixels (B, 3, H, W), 0 to 255, to logits (B, classes).

        Raises:
            InputError: if a mode was given and compilation fails.
        """
        if self._shape is None and self._batch_size in (None, len(images)):
            self._shape = images.shape
            self._try(images)
        if self._compiled is None or images.shape != self._shape:
            return cast(Tensor, self._network(images))
        return self._compiled(images)

    def _try(self, images: Tensor) -> None:
        """Compiles the forward and backward pass; restores buffers and random state."""
        if self._compiled is None:
            return
        buffers = [buffer.clone() for buffer in self._network.buffers()]
        trained = [p for p in self._network.parameters() if p.requires_grad]
        try:
            # dropout must not affect the next step
            with torch.random.fork_rng([images.device] if images.is_cuda else []):
                for _ in range(self._passes):
                    total = self._compiled(images).float().sum()
                    if trained:  # a frozen network has no backward pass
                        torch.autograd.grad(total, trained)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            if is_full(error):
                raise
            if self._how != "auto":
                raise InputError(
                    f"model.compile={self._how}, but PyTorch's compiler does not work here "
                    f"({reason(error)}). Use --model.compile auto or false."
                ) from error
            warnings.warn(f"not compiled ({reason(error)}): training is slower.", stacklevel=2)
            self._compiled, self.mode = None, False
        with torch.no_grad():  # BatchNorm updated its running statistics
            for buffer, before in zip(self._network.buffers(), buffers, strict=True):
                buffer.copy_(before)


def may_record_graphs(how: Compile, device: torch.device) -> bool:
    """Returns whether `how` may record CUDA graphs, which keep the memory of a step for good."""
    return device.type == "cuda" and how in ("auto", *_GRAPHS)


def _compile(network: nn.Module, mode: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    if device.type == "cpu" and mode == "default":  # PyTorch accepts either a mode or options
        return torch.compile(network.forward, options=_CPU_OPTIONS, dynamic=False)
    return torch.compile(network.forward, mode=mode, dynamic=False)


def _best_mode(
    device: torch.device, n_pixels: float, accumulates: bool
) -> Literal[False, "default", "reduce-overhead"]:
    if device.type == "cpu":
        compiler = shutil.which("g++") or shutil.which("clang++")
        gains = torch.backends.cpu.get_cpu_capability() != _NO_GAIN
        return "default" if compiler and gains and n_pixels > _LONG else False
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _OLDEST:
        return False
    if not importlib.util.find_spec("triton"):
        return False
    return "default" if accumulates else "reduce-overhead"
