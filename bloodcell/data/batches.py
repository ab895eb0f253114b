"""Datasets and samplers: which images make up a batch, on any number of devices."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TypedDict, cast

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from bloodcell.data.placement import Gather
from bloodcell.errors import InputError

NOT_COUNTED = -100  # target of a padding row: cross-entropy and torchmetrics leave it out


class Batch(TypedDict):
    """What the network is fed.

    Attributes:
        image: (B, 3, H, W) uint8 in channels-last memory.
        target: (B,) int64, the label, or `NOT_COUNTED` for a row that only fills up a device.
        row: (B,) int64, the image's row in the table.
    """

    image: Tensor
    target: Tensor
    row: Tensor


def as_batch(batch: Any, place: tuple[int, int, int] = (0, 1, 0)) -> Batch:
    """Names the parts of a batch that comes as a tuple (image, target) from any DataLoader.

    Args:
        batch: such a tuple, or a `Batch`, which is returned as it is.
        place: how many images came before on this device, the number of devices, and its rank.
            From these the rows are numbered as Lightning shares out a data set in its order.

    Returns:
        The batch; `row` is made up where there was none.
    """
    if isinstance(batch, dict):
        return cast(Batch, batch)
    image, target = batch
    before, world, rank = place
    row = (before + torch.arange(len(target), device=target.device)) * world + rank
    return {"image": image, "target": target, "row": row}


class ImageDataset(Dataset[Batch]):
    """Some of the decoded images, fetched a batch at a time.

    Args:
        gather: picks images by their place among all decoded ones.
        places: (n,) int64, which of them belong to this part.
        targets: (n,) int64.
        rows: (n,) int64, the row of each in the table.
        pin: whether a GPU will take the numbers of a batch, which it does without waiting if they
            are in pinned memory.
    """

    def __init__(
        self, gather: Gather, places: Tensor, targets: Tensor, rows: Tensor, pin: bool = False
    ) -> None:
        self.gather, self.places, self.targets, self.rows = gather, places, targets, rows
        self.pin = pin

    def __len__(self) -> int:
        return len(self.places)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Fetches a batch; positions from `len(self)` on wrap round and are not counted."""
        position = torch.tensor(positions)
        inside = position % len(self)
        place, row = self.places[inside], self.rows[inside]
        target = self.targets[inside].where(position < len(self), NOT_COUNTED)
        if self.pin:
            place, row, target = place.pin_memory(), row.pin_memory(), target.pin_memory()
        return {"image": self.gather(place), "target": target, "row": row}


class EvenSampler(Sampler[int]):
    """Gives each device every n-th position, all devices equally many.

    Positions past the end fill up the last round. The dataset marks them as not counted, so that
    an evaluation counts every image exactly once on any number of devices, and none waits forever.

    Args:
        length: number of images.
        world: number of devices.
        rank: which of them this is.
    """

    def __init__(self, length: int, world: int, rank: int) -> None:
        self.length, self.world, self.rank = length, world, rank

    def __len__(self) -> int:
        return -(-self.length // self.world)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, len(self) * self.world, self.world))


class Batches(BatchSampler):
    """Positions, a batch at a time, that can begin in the middle of an epoch.

    Args:
        sampler: positions in order.
        batch_size: of them in each batch but the last.

    Attributes:
        given: batches of this epoch that were asked for.
        skip: batches that the next epoch leaves out at its start.
    """

    def __init__(self, sampler: Sampler[Any], batch_size: int) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.given = self.skip = 0

    def __iter__(self) -> Iterator[list[int]]:
        self.given, self.skip = self.skip, 0
        for positions in islice(super().__iter__(), self.given, None):
            self.given += 1
            yield positions


class Loader(DataLoader[Batch]):
    """A DataLoader that a run can go on with in the middle of an epoch.

    Args:
        dataset: whose batches are fetched whole, by the process that asks.
        batches: which.
    """

    def __init__(self, dataset: ImageDataset, batches: Batches) -> None:
        super().__init__(dataset, batch_sampler=batches, collate_fn=as_it_is)
        self._batches = batches

    def state_dict(self) -> dict[str, int]:
        """How far the epoch has come, by batches of which size."""
        return {"batches": self._batches.given, **self._sizes()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lets the next epoch begin there.

        Raises:
            InputError: if batches are cut otherwise now.
        """
        now, then = self._sizes(), {key: state[key] for key in self._sizes()}
        if now != then:
            raise InputError(
                f"data.batch_size={now['batch_size']} on {now['devices']} devices, but the "
                f"checkpoint lies within an epoch of {then['batch_size']} on {then['devices']}. Go "
                "on as it was until that epoch ends: from then on they may change."
            )
        self._batches.skip = state["batches"]

    def _sizes(self) -> dict[str, int]:
        devices = getattr(self._batches.sampler, "num_replicas", 1)
        return {"batch_size": self._batches.batch_size, "devices": devices}


def as_it_is(batch: Any) -> Any:
    """Returns what a dataset fetched whole: there is nothing to collate."""
    return batch
