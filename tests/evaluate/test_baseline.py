from pathlib import Path

import pytest
import torch

from bloodcell.data.batches import ImageDataset
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.splits import Split
from bloodcell.evaluate.baseline import nearest_labels


def images_of(colours: list[tuple[int, int, int]], seed: int) -> torch.Tensor:
    noise = torch.randint(-9, 9, (len(colours), 3, 16, 16), generator=torch.manual_seed(seed))
    return (torch.tensor(colours)[:, :, None, None] + noise).clamp(0, 255).byte()


def dataset(images: torch.Tensor, labels: list[int]) -> ImageDataset:
    numbers = torch.arange(len(images))
    return ImageDataset(images.__getitem__, numbers, torch.tensor(labels), numbers)


def test_the_most_similar_colours_name_an_image() -> None:
    train = dataset(images_of([(200, 80, 80), (80, 200, 80), (80, 80, 200)], 0), [2, 0, 1])
    asked = dataset(images_of([(80, 80, 200), (200, 80, 80), (80, 200, 80)] * 200, 1), [0] * 600)
    assert nearest_labels(train, asked).tolist() == [1, 2, 0] * 200


def test_a_copy_turned_and_flipped_is_found() -> None:
    """With every second pixel of a flat picture, of which a turn changes nothing but the place."""
    images = torch.randint(0, 256, (9, 3, 1, 1)).expand(9, 3, 16, 16).byte()
    turned = images.rot90(1, (2, 3)).flip(3)
    said = nearest_labels(dataset(images, list(range(9))), dataset(turned, [0] * 9))
    assert said.tolist() == list(range(9))


@pytest.mark.real
def test_colours_alone_find_the_copies_of_a_leaking_split(real_zip: Path) -> None:
    def right(split: Split) -> float:
        data = BloodCells(str(real_zip), split, image_size=128)
        data.setup("fit")
        said = nearest_labels(data.datasets["train"], data.datasets["test"])
        return float((said == data.datasets["test"].targets).float().mean())

    assert right("seed") > 0.99
    assert 0.4 < right("photo") < 0.65
