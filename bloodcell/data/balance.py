"""Which training files an epoch draws where photographs have unequally many copies.

The Kaggle set has 16 copies of a neutrophil's photograph and 155 of a monocyte's, so that each
class has as many files. Drawn file by file, a network sees 16 monocytes as often as 159
neutrophils. Drawn by photograph it would hardly see them at all. The root lies between.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from bloodcell.data.batches import Batch

Balance = Literal["none", "photos"]


def photo_shares(photos: Sequence[str], classes: Sequence[str]) -> Tensor:
    """How often each file is to be drawn.

    Args:
        photos: (n,) the photograph of each file.
        classes: (n,) its class.

    Returns:
        (n,) float64, together 1: equal for the photographs of a class, and for a class in
        proportion to the root of its number of photographs.
    """
    copies = Counter(zip(photos, classes, strict=True))
    of_class = Counter(class_name for _, class_name in copies)
    shares = torch.tensor(
        [
            of_class[name] ** -0.5 / copies[photo, name]
            for photo, name in zip(photos, classes, strict=True)
        ],
        dtype=torch.float64,
    )
    return shares / shares.sum()


class BalancedSampler(DistributedSampler[Batch]):
    """Draws as many files an epoch as there are, with replacement; a function of (seed, epoch).

    Args:
        dataset: the training part.
        world: number of devices.
        rank: which of them this is.
        seed: the run's.
        shares: (n,) how often each file is to be drawn.
    """

    def __init__(
        self, dataset: Dataset[Batch], world: int, rank: int, seed: int, shares: Tensor
    ) -> None:
        super().__init__(dataset, world, rank, shuffle=True, seed=seed)
        self._shares = shares

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]  # its dataset's items, it says
        draws = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = torch.multinomial(self._shares, self.total_size, replacement=True, generator=draws)
        return iter(drawn[self.rank :: self.num_replicas].tolist())
