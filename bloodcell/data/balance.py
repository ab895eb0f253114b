"""The order of training images: each once, or balanced over classes and data sets."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from bloodcell.data.batches import ImageDataset
from bloodcell.data.table import Table

Balance = Literal["none", "classes", "datasets"]


def make_order(
    dataset: ImageDataset,
    table: Table,
    how: Balance,
    draws: int | None,
    world: int,
    rank: int,
    seed: int,
) -> DistributedSampler[Any]:
    """Makes the sampler of the training images.

    Args:
        dataset: the training images, n in number.
        table: the table of all images.
        how: `none` draws each image once; `classes` draws all classes equally often, and within
            a class all data sets; `datasets` draws all data sets equally often, and within a
            data set all its classes.
        draws: number of draws in an epoch, on all devices together; None: n. Not for `none`.
        world: number of devices.
        rank: rank of this device.
        seed: the run's seed.
    """
    if how == "none":
        return DistributedSampler(dataset, world, rank, seed=seed)
    sets = torch.tensor(table.numbers_of_sets(dataset.rows.tolist()))
    groups = (dataset.targets, sets) if how == "classes" else (sets, dataset.targets)
    return BalancedSampler(dataset, *groups, draws or len(dataset), world, rank, seed)


class BalancedSampler(DistributedSampler[int]):
    """Draws all groups of images equally often in an epoch, also all subgroups of each group.

    Each draw of an epoch depends only on (seed, epoch). Within a subgroup, no image is drawn twice
    before each has been drawn once; position `n * k + i` is the k-th further draw of image i.

    Args:
        dataset: n images.
        group: (n,) int64, the group of each image, e.g. its data set.
        subgroup: (n,) int64, its subgroup within the group, e.g. its class.
        draws: number of draws in an epoch, on all devices together.
        world: number of devices.
        rank: rank of this device.
        seed: the run's seed.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        group: Tensor,
        subgroup: Tensor,
        draws: int,
        world: int,
        rank: int,
        seed: int,
    ) -> None:
        super().__init__(cast(Dataset[int], dataset), world, rank, seed=seed)
        self.draws = draws
        self.num_samples = -(-draws // world)
        self.total_size = self.num_samples * world
        members: dict[tuple[int, int], list[int]] = {}
        for position, pair in enumerate(zip(group.tolist(), subgroup.tolist(), strict=True)):
            members.setdefault(pair, []).append(position)
        subgroups = Counter(outer for outer, _ in members)
        shares = [1 / (len(subgroups) * subgroups[outer]) for outer, _ in sorted(members)]
        self._ends = torch.tensor(shares, dtype=torch.double).cumsum(0)  # (subgroups,), up to 1
        self._members = [torch.tensor(members[pair]) for pair in sorted(members)]

    def __iter__(self) -> Iterator[int]:
        """Yields the positions of this device."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        start = torch.rand(1, generator=generator, dtype=torch.double)
        ends = (self._ends * self.draws - start).ceil().long()
        ends[-1] = self.draws
        counts = ends.diff(prepend=torch.zeros(1, dtype=torch.long))  # draws of each subgroup
        drawn = [
            self._draw(members, count, generator)
            for members, count in zip(self._members, counts.tolist(), strict=True)
        ]
        order = torch.cat(drawn)
        order = order[torch.randperm(len(order), generator=generator)]
        padded = torch.cat([order, order])[: self.total_size]
        return iter(padded[self.rank :: self.num_replicas].tolist())

    def _draw(self, members: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Returns the positions of `count` draws of a subgroup."""
        n = len(cast(ImageDataset, self.dataset))
        rounds = -(-count // len(members))
        shuffled = [
            members[torch.randperm(len(members), generator=generator)] + n * number
            for number in range(rounds)
        ]
        return torch.cat([*shuffled, members[:0]])[:count]
