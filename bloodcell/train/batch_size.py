"""Finds the largest batch size that fits into a GPU's memory, by trial."""

import copy
import gc

import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F

from bloodcell.data.augment import cut_margin
from bloodcell.data.crop import AUTO, InputFormat
from bloodcell.data.datamodule import BloodCells
from bloodcell.errors import InputError, require
from bloodcell.memory import is_full
from bloodcell.model.compiled import may_record_graphs
from bloodcell.train.task import Classifier

ON_CPU = 32  # the default size; larger batches are not faster on a CPU
MOST = 512  # keeps a GPU busy; with more, an epoch would have few steps


def settle(trainer: Trainer, model: Classifier, data: BloodCells) -> None:
    """Finds and sets the batch size of the data if `data.batch_size` is `auto`.

    Raises:
        InputError: if several devices train, or not even one image fits.
    """
    if data.hparams["batch_size"] != AUTO:
        return
    rule = "a number if several devices train. To find one, run auto with --trainer.devices 1"
    require(trainer.world_size == 1, "data.batch_size", AUTO, rule)
    size = largest(trainer, model, data, MOST) if is_gpu(trainer) else ON_CPU
    data.batch_size = data.hparams["batch_size"] = size
    print(f"data.batch_size=auto: {size}")


def largest(trainer: Trainer, model: Classifier, data: BloodCells, most: int) -> int:
    """Returns the largest power of two, up to `most`, that fits into memory as a batch size.

    A copy of the model is trained on the trainer's device in its precision.

    Raises:
        InputError: if not even one image fits.
    """
    size, device = 1 << (most.bit_length() - 1), trainer.strategy.root_device
    # CUDA graphs hold the memory of a step; the last batch of an epoch, uncompiled, needs as much
    steps = 2 if may_record_graphs(model.compile_how, device) else 1
    while size and not _fits(trainer, model, data.input_format, steps * size):
        size //= 2
    if not size:
        raise InputError(
            f"data.image_size={data.image_size}: not even a batch of one image fits into "
            f"{device}. Use smaller images, or free the device's memory."
        )
    return size


def _fits(trainer: Trainer, model: Classifier, input_format: InputFormat, size: int) -> bool:
    """Returns whether a training step on black images fits into the device's memory."""
    device = trainer.strategy.root_device
    try:
        network = copy.deepcopy(model.network).to(device).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.0)
        shape = (size, 3, input_format.decoded, input_format.decoded)
        # memory for two batches: the next one is loaded before the current one is freed
        images = torch.zeros((2, *shape), dtype=torch.uint8, device=device)[0]
        with trainer.precision_plugin.forward_context():
            images = images.to(memory_format=torch.channels_last)
            if input_format.margin:  # a copy with the margin, as augmentation makes it
                images = cut_margin(images.float(), input_format.margin)
            logits = network(images)
        target = torch.zeros(size, dtype=torch.int64, device=device)
        F.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    except RuntimeError as error:
        if not is_full(error):
            raise
        return False
    finally:
        network = optimizer = images = logits = target = None  # type: ignore[assignment]
        gc.collect()
        if device.type != "cpu":
            getattr(torch, device.type).empty_cache()
    return True


def is_gpu(trainer: Trainer) -> bool:
    """Returns whether the training device is not the CPU, so that it has its own memory."""
    return trainer.strategy.root_device.type != "cpu"
