"""Wherever the images lie, the network is fed the same pixels."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bloodcell.data.batches import Batch
from bloodcell.data.crop import InputFormat
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.decode import decode
from bloodcell.data.placement import OnDevice, Streamed, check_room, place_images
from bloodcell.errors import InputError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def some_images(n: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return pixels.permute(0, 3, 1, 2)


def epoch(smears: Path, **settings: object) -> tuple[BloodCells, list[Batch]]:
    data = BloodCells(
        str(smears / "images"),
        photos=str(smears / "photos.csv"),
        image_size=32,
        batch_size=8,
        **settings,  # type: ignore[arg-type]
    )
    data.setup("fit")
    return data, list(data.train_dataloader())


@pytest.mark.parametrize("on_device", ["auto", True, False])
@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_batches_are_the_decoded_files_bit_for_bit(
    smears: Path, on_device: OnDevice, cache_gib: float
) -> None:
    data, batches = epoch(smears, on_device=on_device, cache_gib=cache_gib)
    assert [len(batch["row"]) for batch in batches] == [8, 8, 8, 8, 8, 4]
    for batch in batches:
        assert batch["image"].is_contiguous(memory_format=torch.channels_last)
        for image, row in zip(batch["image"], batch["row"].tolist(), strict=True):
            file = smears / "images" / data.table.rows[row].path
            plain = torch.from_numpy(decode(file.read_bytes(), InputFormat(32)).copy())
            assert torch.equal(image.permute(1, 2, 0), plain)


def test_images_that_must_be_on_the_device_are_copied_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = some_images()
    monkeypatch.setattr("bloodcell.data.placement._CHUNK", 7 * images[0].nbytes)
    gather = place_images(images, CPU, True)
    before, place = images.clone(), torch.tensor([19, 0, 3, 3])
    images[:] = 0
    assert torch.equal(gather(place), before[place])


def test_images_that_must_fit_and_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (1000, 8 * 2**30))
    check_room(some_images(), GPU, "auto")
    with pytest.raises(InputError, match=r"data\.on_device=true, but the decoded images take 0\.0"):
        check_room(some_images(), GPU, True)


_EPOCH_IN_LITTLE_MEMORY = """
import resource, sys
import numpy as np
from bloodcell.data.datamodule import BloodCells

def epoch():
    data = BloodCells(sys.argv[1], photos=sys.argv[2], image_size=512, batch_size=4, cache_gib=1)
    data.setup("fit")
    return data, sum(int(batch["image"].sum()) for batch in data.train_dataloader())

data, first = epoch()
taken = next(int(line.split()[1]) for line in open("/proc/self/status") if "VmData" in line) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (taken + 56 * 2**20,) * 2)
size = len(data.table.rows) * 512 * 512 * 3
assert size > 90 * 2**20
try:
    np.ones(size, np.uint8)
except MemoryError:
    print("too little memory", epoch()[1] == first)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_set_larger_than_memory_is_streamed(smears: Path) -> None:
    words = [str(smears / "images"), str(smears / "photos.csv")]
    command = [sys.executable, "-c", _EPOCH_IN_LITTLE_MEMORY, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "too little memory True\n", done.stderr


@pytest.mark.gpu
def test_streamed_batches_equal_resident_ones() -> None:
    """Asked for while the device is busy, so that a missing wait would show."""
    images = some_images(64)
    resident, streamed = place_images(images, GPU, "auto"), place_images(images, GPU, False)
    assert isinstance(streamed, Streamed)
    places = [torch.randperm(64)[: 16 - step % 3] for step in range(20)]
    said = []
    for place in places:
        torch.cuda._sleep(10_000_000)  # type: ignore[no-untyped-call]
        batch = streamed(place)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        said.append(batch.clone())
    for place, batch in zip(places, said, strict=True):
        assert torch.equal(batch.cpu(), images[place])
        assert torch.equal(batch, resident(place))


@pytest.mark.gpu
def test_auto_leaves_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    images = some_images()
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (2 * images.nbytes - 1, 2**33))
    assert isinstance(place_images(images, GPU, "auto"), Streamed)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (2 * images.nbytes, 2**33))
    assert not isinstance(place_images(images, GPU, "auto"), Streamed)
