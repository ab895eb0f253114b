"""Which batch size fits into a GPU's memory, found by trying."""

import copy
import gc

import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F

from bloodcell.data.datamodule import BloodCells
from bloodcell.data.describe import AUTO
from bloodcell.errors import InputError, require
from bloodcell.train.task import Classifier

ON_CPU = 32  # as published; on a CPU a larger one is no faster
MOST = 512  # beyond, a GPU is busy with less, and an epoch has few steps


def settle(trainer: Trainer, model: Classifier, data: BloodCells) -> None:
    """Finds the batch size, where it was left open.

    Args:
        trainer: whose device and precision are used.
        model: what is to be trained; it is not changed.
        data: its batch size is set.

    Raises:
        InputError: if several devices train, or not even one image fits.
    """
    if data.hparams["batch_size"] != AUTO:
        return
    rule = "a number where several devices train: find it with --trainer.devices 1"
    require(trainer.world_size == 1, "data.batch_size", AUTO, rule)
    size = largest(trainer, model, data, MOST) if is_gpu(trainer) else ON_CPU
    data.batch_size = data.hparams["batch_size"] = size
    print(f"data.batch_size=auto: {size}")


def largest(trainer: Trainer, model: Classifier, data: BloodCells, most: int) -> int:
    """The largest power of two, up to a number, of which a whole training step fits.

    Args:
        trainer: likewise.
        model: likewise.
        data: says the size of the images.
        most: 1 or more.

    Raises:
        InputError: if not even one image fits.
    """
    size = 1 << (most.bit_length() - 1)
    while size and not _fits(trainer, model, data.image_size, size):
        size //= 2
    if not size:
        raise InputError(
            f"data.image_size={data.image_size}: not even a batch of one image fits into "
            f"{trainer.strategy.root_device}. Use a smaller one, or free the device's memory."
        )
    return size


def _fits(trainer: Trainer, model: Classifier, image_size: int, size: int) -> bool:
    """Whether a step of training, on black images, finds the memory it needs."""
    device = trainer.strategy.root_device
    try:
        network = copy.deepcopy(model.network).to(device).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.0)
        shape = (size, 3, image_size, image_size)
        # twice, as the next batch is there before the last one's memory is free
        images = torch.zeros((2, *shape), dtype=torch.uint8, device=device)[0]
        with trainer.precision_plugin.forward_context():
            logits = network(images.to(memory_format=torch.channels_last))
        target = torch.zeros(size, dtype=torch.int64, device=device)
        F.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    except torch.OutOfMemoryError:
        return False
    finally:
        network = optimizer = images = logits = target = None  # type: ignore[assignment]
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def is_gpu(trainer: Trainer) -> bool:
    """Whether it trains on something that has memory of its own."""
    return trainer.strategy.root_device.type != "cpu"
