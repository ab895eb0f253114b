"""Datasets, samplers and loaders that form batches on any number of devices."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NotRequired, TypedDict, cast

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, Sampler

from bloodcell.data.placement import Gather
from bloodcell.errors import InputError

_FURTHER_DRAW = 2**24  # added to the row for each further draw of an image; above every row
NOT_COUNTED = -100  # target of padding rows, which the loss and the metrics ignore


class Batch(TypedDict):
    """A batch of images.

    Attributes:
        image: (B, 3, H, W) uint8 in channels-last memory.
        target: (B,) int64, the label; `NOT_COUNTED` for padding rows.
        row: (B,) int64, the image's row in the table.
        draw: (B,) int64, only if an epoch can draw an image several times: different for each
            draw, so that each is augmented differently.
    """

    image: Tensor
    target: Tensor
    row: Tensor
    draw: NotRequired[Tensor]


def as_batch(batch: Any, place: tuple[int, int, int] = (0, 1, 0)) -> Batch:
    """Converts a tuple (image, target) from any DataLoader into a `Batch`.

    Args:
        batch: such a tuple, or a `Batch`, which is returned unchanged.
        place: number of earlier images on this device, world size and rank. They determine `row`
            for a data set that Lightning distributes in order.

    Returns:
        The batch.
    """
    if isinstance(batch, dict):
        return cast(Batch, batch)
    image, target = batch
    before, world, rank = place
    row = (before + torch.arange(len(target), device=target.device)) * world + rank
    return {"image": image, "target": target, "row": row}


class ImageDataset(Dataset[Batch]):
    """The images of one part, fetched in whole batches.

    Args:
        gather: returns images by their index among all decoded images.
        places: (n,) int64, the index of each image of this part.
        targets: (n,) int64, the label of each image.
        rows: (n,) int64, the row of each image in the table.
        pin: whether to pin the small tensors of a batch, for asynchronous copies to a GPU.
        repeats: whether positions from `len(self)` on are further draws of the images, instead of
            padding.
        middle: as `gather`, but without a margin that the images have; for `only`.
    """

    def __init__(
        self,
        gather: Gather,
        places: Tensor,
        targets: Tensor,
        rows: Tensor,
        pin: bool = False,
        repeats: bool = False,
        middle: Gather | None = None,
    ) -> None:
        self.gather, self.places, self.targets, self.rows = gather, places, targets, rows
        self.pin, self.repeats, self.middle = pin, repeats, middle or gather

    def __len__(self) -> int:
        return len(self.places)

    def only(self, positions: Tensor) -> "ImageDataset":
        """Returns the dataset of the images at these positions, (k,), in this order.

        They have no margin, as the images of an evaluation.
        """
        places, targets, rows = (one[positions] for one in (self.places, self.targets, self.rows))
        return ImageDataset(self.middle, places, targets, rows, self.pin)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Returns a batch; positions from `len(self)` on wrap around."""
        position = torch.tensor(positions)
        inside = position % len(self)
        place, row, target = self.places[inside], self.rows[inside], self.targets[inside]
        if not self.repeats:
            target = target.where(position < len(self), NOT_COUNTED)
        if self.pin:
            place, row, target = place.pin_memory(), row.pin_memory(), target.pin_memory()
        batch: Batch = {"image": self.gather(place), "target": target, "row": row}
        if self.repeats:
            draw = row + position // len(self) * _FURTHER_DRAW
            batch["draw"] = draw.pin_memory() if self.pin else draw
        return batch


class EvenSampler(Sampler[int]):
    """Deals the positions of an order to the devices in turn, equally many to each.

    Positions past the end pad the last round, so that no device waits forever. The dataset marks
    them as not counted, so that an evaluation counts every image exactly once.

    Args:
        order: (n,) the positions of the images, in the order of their use.
        world: number of devices.
        rank: rank of this device.
    """

    def __init__(self, order: Tensor, world: int, rank: int) -> None:
        self.order, self.world, self.rank = order, world, rank

    def __len__(self) -> int:
        return -(-len(self.order) // self.world)

    def __iter__(self) -> Iterator[int]:
        padding = torch.arange(len(self.order), len(self) * self.world)
        return iter(torch.cat([self.order, padding])[self.rank :: self.world].tolist())


class InOrder(DistributedSampler[int]):
    """A DistributedSampler with the same order in every epoch, for `overfit_batches`.

    Args:
        order: (n,) the positions of the images, in the order of their use.
        world: number of devices.
        rank: rank of this device.
    """

    def __init__(self, order: Tensor, world: int, rank: int) -> None:
        super().__init__(cast(Any, order), world, rank, shuffle=False)  # uses only its length
        self.order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self.order[list(super().__iter__())].tolist())


class Batches(BatchSampler):
    """A BatchSampler that can start in the middle of an epoch.

    Args:
        sampler: yields the positions.
        batch_size: number of positions in each batch except the last.
        joins: whether a single position at the end joins the batch before it, because BatchNorm
            cannot train on one image where the feature map is 1x1.

    Attributes:
        given: number of batches of this epoch that were yielded or skipped.
        skip: number of batches that the next epoch skips at its start.
        joined: whether the last batch has one extra position.
    """

    def __init__(self, sampler: Sampler[Any], batch_size: int, joins: bool = False) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.given = self.skip = 0
        n: int = len(sampler)  # type: ignore[arg-type]  # all samplers of this package have a length
        self.joined = joins and n > batch_size > 1 and n % batch_size == 1

    def __len__(self) -> int:
        return super().__len__() - self.joined

    def __iter__(self) -> Iterator[list[int]]:
        self.given, self.skip = self.skip, 0
        batches = super().__iter__()
        for positions in islice(batches, self.given, len(self)):
            self.given += 1
            last = self.joined and self.given == len(self)
            yield positions + next(batches) if last else positions


class Loader(DataLoader[Batch]):
    """A DataLoader without worker processes that can resume in the middle of an epoch.

    Args:
        dataset: the dataset, which returns whole batches.
        batches: yields the positions of each batch.
    """

    def __init__(self, dataset: ImageDataset, batches: Batches) -> None:
        super().__init__(dataset, batch_sampler=batches, collate_fn=as_is)
        self._batches = batches

    def state_dict(self) -> dict[str, int]:
        """Returns the number of batches of this epoch so far, the batch size and the devices."""
        return {"batches": self._batches.given, **self._sizes()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next epoch skip the batches that were already used.

        Raises:
            InputError: if the batch size or the number of devices has changed.
        """
        now, then = self._sizes(), {key: state[key] for key in self._sizes()}
        if now != then:
            raise InputError(
                f"data.batch_size={now['batch_size']} with {now['devices']} device(s), but the "
                "checkpoint was written in the middle of an epoch with "
                f"data.batch_size={then['batch_size']} and {then['devices']} device(s). Use those "
                "values until that epoch ends; both may change afterwards."
            )
        self._batches.skip = state["batches"]

    def _sizes(self) -> dict[str, int]:
        devices = getattr(self._batches.sampler, "num_replicas", 1)
        return {"batch_size": self._batches.batch_size, "devices": devices}


def as_is(batch: Any) -> Any:
    """Returns a batch unchanged, because the dataset has already collated it."""
    return batch
