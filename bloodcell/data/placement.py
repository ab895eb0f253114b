"""Keeps the decoded images on the training device or on the host, and gathers batches from them.

If the whole array fits on the training device, it is copied there once and batches are gathered by
index on the device. Otherwise batches are gathered from the memory map and streamed.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from bloodcell.errors import InputError

OnDevice = Literal["auto", True, False]
Gather = Callable[[Tensor], Tensor]
"""Maps indices (B,) int64 on the host to images (B, 3, H, W) uint8 in channels-last memory."""

_SHARE = 0.5  # of the device's free memory; the rest is for the network
_SHARE_AT_MOST = 0.9  # of the device's free memory, with data.on_device=true
_CHUNK = 256 * 2**20  # bytes per copy


def place_images(images: Tensor, device: torch.device, on_device: OnDevice) -> Gather:
    """Copies the images to the device if requested, and returns the function that gathers batches.

    Args:
        images: (N, 3, H, W) uint8 on the host, in channels-last memory.
        device: the training device.
        on_device: `auto` copies all images to a CUDA device if they need at most half of its free
            memory, but never to other devices; True always copies, False never.
    """
    auto = device.type == "cuda" and images.nbytes <= _SHARE * _free(device)
    if on_device is True or (on_device == "auto" and auto):
        return _resident(images, device)
    return Streamed(images, device) if device.type == "cuda" else images.__getitem__


def check_room(images: Tensor, device: torch.device, on_device: OnDevice) -> None:
    """Checks that the images fit on the device if `on_device` is True.

    Raises:
        InputError: if they do not fit.
    """
    if on_device is not True or device.type != "cuda":
        return
    if images.nbytes > _SHARE_AT_MOST * _free(device):
        raise InputError(
            f"data.on_device=true, but the decoded images take {images.nbytes / 2**30:.1f} GiB and "
            f"{device} has {_free(device) / 2**30:.1f} GiB free. Use data.on_device=auto, which "
            "streams them, or a smaller data.image_size."
        )


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]


def _resident(images: Tensor, device: torch.device) -> Gather:
    copied = torch.empty_like(images, device=device)
    step = max(1, _CHUNK // images[0].nbytes)
    for start in range(0, len(images), step):  # in chunks, to limit the staging buffer
        copied[start : start + step].copy_(images[start : start + step])
    pinned = device.type == "cuda"  # other devices might read the indices too early
    return lambda place: copied[place.to(device, non_blocking=pinned)]


class Streamed:
    """Gathers batches on the host and copies them to a CUDA device while it computes.

    Host and device have two buffers each. While the device computes on one batch, the next one is
    copied on a separate stream, and the host gathers further ones; it is at most three batches
    ahead. A batch is valid until the second call after it.

    Args:
        images: (N, 3, H, W) uint8 on the host, in channels-last memory.
        device: a CUDA device.
    """

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self._rows = images.permute(0, 2, 3, 1)  # (N, H, W, 3), contiguous
        self._device = device
        cuda: Any = torch.cuda  # its constructors have no type hints
        self._stream = cuda.Stream(device)
        self._copied = [cuda.Event() for _ in range(2)]
        self._used = [cuda.Event() for _ in range(2)]
        self._here: list[Tensor] = [torch.empty(0)] * 2
        self._there: list[Tensor] = [torch.empty(0)] * 2
        self._turn = 0

    def __call__(self, place: Tensor) -> Tensor:
        """Returns the images with these indices on the device."""
        current = torch.cuda.current_stream(self._device)
        self._used[self._turn].record(current)  # all work on the previous batch is queued
        turn = self._turn = 1 - self._turn
        self._copied[turn].synchronize()
        if len(self._here[turn]) < len(place):
            shape = (len(place), *self._rows.shape[1:])
            self._here[turn] = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
            self._there[turn] = torch.empty(shape, dtype=torch.uint8, device=self._device)
            self._stream.wait_stream(current)  # its memory may still be in use by another tensor
        here, there = self._here[turn][: len(place)], self._there[turn][: len(place)]
        torch.index_select(self._rows, 0, place, out=here)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._used[turn])
            there.copy_(here, non_blocking=True)
            self._copied[turn].record(self._stream)
        current.wait_event(self._copied[turn])
        return there.permute(0, 3, 1, 2)
