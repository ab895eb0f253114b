"""Compiles the network for a run."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import nn

from bloodcell.model.compiled import Compile, CompiledPass
from bloodcell.train.sync_norm import is_synchronised


def compile_for(
    trainer: Trainer, network: nn.Module, how: Compile, image_size: int
) -> CompiledPass:
    """Returns the training pass of a network, compiled if `how` selects it.

    Args:
        trainer: the trainer, which supplies the batch size and the number of steps.
        network: the network; the returned pass shares its weights.
        how: `model.compile`.
        image_size: side of the images in pixels.
    """
    batches = getattr(trainer.train_dataloader, "batch_sampler", None)
    batch_size: int | None = getattr(batches, "batch_size", None)
    callbacks: list[Any] = vars(trainer)["callbacks"]  # Lightning declares no type for it
    accumulates = trainer.accumulate_grad_batches != 1 or any(
        isinstance(one, GradientAccumulationScheduler) for one in callbacks
    )
    batches_per_step = trainer.accumulate_grad_batches
    n_batches = trainer.estimated_stepping_batches * batches_per_step
    n_pixels = (batch_size or 1) * image_size**2 * n_batches
    device = trainer.strategy.root_device
    if how == "auto" and is_synchronised(network):
        how = False  # each synchronised BatchNorm layer would break the graph
    compiled = CompiledPass(network, how, device, n_pixels, accumulates, batch_size)
    if compiled.mode:
        trainer.print(f"compiling the network ({compiled.mode}) delays the first step")
    return compiled
