import json
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import SequentialSampler

from bloodcell.data.batches import NOT_COUNTED, Batches, EvenSampler, ImageDataset, InOrder, Loader
from bloodcell.data.crop import Field
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.identity import changed_files, find_trained
from bloodcell.data.splits import spread
from bloodcell.data.table import fact
from bloodcell.errors import InputError


@pytest.fixture
def data(smears: Path) -> BloodCells:
    module = BloodCells(
        str(smears / "images"), photos=str(smears / "photos.csv"), image_size=32, batch_size=8
    )
    module.setup("fit")
    return module


def test_a_batch(data: BloodCells) -> None:
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (8, 3, 32, 32)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    for row, target in zip(batch["row"].tolist(), batch["target"].tolist(), strict=True):
        assert data.class_names[target] == data.table.rows[row].class_name
        assert row in data.parts["train"]


@pytest.mark.parametrize("field", [1.0, "auto"])
def test_only_training_shows_the_margin(smears: Path, field: Field) -> None:
    chosen: dict[str, Any] = {"image_size": 32, "crop": "cell", "field": field, "batch_size": 8}
    root = str(smears / "images")
    plain = BloodCells(root, **chosen)
    wide = BloodCells(root, **chosen, margin=0.25)
    for data in (plain, wide):
        data.setup("fit")
    assert next(iter(wide.train_dataloader()))["image"].shape == (8, 3, 48, 48)
    some = torch.arange(5)
    for part in ("train", "val", "test"):
        squares, same = (data.datasets[part].only(some) for data in (wide, plain))
        ours, theirs = (one.__getitems__(range(5))["image"].int() for one in (squares, same))
        assert ours.shape == (5, 3, 32, 32)
        assert (ours - theirs).abs().max() <= 1, "rounding"
    assert next(iter(wide.val_dataloader()))["image"].shape[2:] == (32, 32)


def test_every_image_once_an_epoch_in_another_order(data: BloodCells) -> None:
    def epoch(number: int) -> list[int]:
        loader = data.train_dataloader()
        loader.batch_sampler.sampler.set_epoch(number)  # type: ignore[union-attr]
        return [row for batch in loader for row in batch["row"].tolist()]

    assert sorted(epoch(0)) == data.parts["train"]
    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)
    assert sorted(epoch(1)) == data.parts["train"]


@pytest.mark.parametrize(
    ("n", "size", "lengths"),
    [
        (9, 4, [4, 5]),
        (10, 4, [4, 4, 2]),
        (8, 4, [4, 4]),
        (5, 4, [5]),
        (1, 4, [1]),
        (2, 1, [1, 1]),
    ],
)
def test_a_single_image_joins_the_batch_before_it(n: int, size: int, lengths: list[int]) -> None:
    batches = Batches(SequentialSampler(range(n)), size, joins=True)
    found = list(batches)
    assert [len(one) for one in found] == lengths
    assert len(batches) == len(lengths)
    assert [place for one in found for place in one] == list(range(n))
    batches.skip = len(lengths) - 1  # resumed within the epoch
    assert list(batches) == found[-1:]
    apart = list(Batches(SequentialSampler(range(n)), size))
    assert max(len(one) for one in apart) <= size


@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_order_is_the_same_on_all_devices_in_every_epoch(world: int) -> None:
    order = torch.randperm(44)
    samplers = [InOrder(order, world, rank) for rank in range(world)]
    first = [list(one) for one in samplers]
    for one in samplers:
        one.set_epoch(1)
    assert [list(one) for one in samplers] == first
    assert {len(one) for one in first} == {-(-44 // world)}
    together = [place for places in zip(*first, strict=True) for place in places]
    assert together[:44] == order.tolist()


def test_another_batch_size_within_an_epoch_is_refused() -> None:
    numbers = torch.arange(9)
    dataset = ImageDataset(torch.zeros(9, 3, 1, 1).__getitem__, numbers, numbers, numbers)
    loader = Loader(dataset, Batches(InOrder(numbers, 1, 0), 4))
    rule = r"data\.batch_size=4 with 1 device\(s\).* with data\.batch_size=2 and 3 device"
    with pytest.raises(InputError, match=rule):
        loader.load_state_dict({"batches": 1, "batch_size": 2, "devices": 3})


@pytest.mark.parametrize("world", [1, 2])
def test_the_files_of_a_batch_are_those_of_all_devices(world: int, data: BloodCells) -> None:
    """44 images: 43 and one on one device, 21 and one on each of two."""
    data.batch_size = 43 // world
    devices: Any = SimpleNamespace(
        world_size=world, global_rank=0, overfit_batches=0, fast_dev_run=0,
        strategy=SimpleNamespace(root_device=torch.device("cpu")), print=print,
    )  # fmt: skip
    data.trainer = devices
    assert len(data.train_dataloader()) == data.count_batches() == 1
    files = {row.path for row in (data.table.rows[i] for i in data.parts["train"])}
    named = data.batch_files(0, 0)
    assert len(named) == 44
    assert set(named) == files


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_devices_evaluate_every_image_once(world: int) -> None:
    length, order = 10, torch.randperm(10)
    numbers = torch.arange(length)
    dataset = ImageDataset(torch.zeros(length, 3, 1, 1).__getitem__, numbers, numbers % 4, numbers)
    counted = []
    lengths = set()
    for rank in range(world):
        sampler = EvenSampler(order, world, rank)
        lengths.add(len(list(sampler)))
        batch = dataset.__getitems__(list(sampler))
        counted += batch["row"][batch["target"] != NOT_COUNTED].tolist()
    assert sorted(counted) == list(range(length))
    assert len(lengths) == 1


def test_an_evaluation_that_is_cut_short_sees_all_classes(
    make_folders: Callable[..., Path], tmp_path: Path
) -> None:
    """Whatever the seed, as another file name changes only the place of that file."""
    root = make_folders(
        {f"{part}/{name}": 40 for part in ("train", "val", "test") for name in "ab"}
    )

    def order(seed: int) -> list[str]:
        data = BloodCells(str(root), image_size=32, batch_size=20, seed=seed)
        data.setup("fit")
        rows = torch.cat([batch["row"] for batch in data.val_dataloader()])
        assert rows.sort().values.tolist() == data.parts["val"]
        return [data.table.rows[row].path for row in rows.tolist()]

    first = order(0)
    assert first == order(1)
    for start in range(0, 80, 20):
        assert 4 <= sum("/a/" in path for path in first[start : start + 20]) <= 16
    (tmp_path / "pictures/val/a/0.png").rename(tmp_path / "pictures/val/a/renamed.png")
    moved = [path for path in order(0) if "renamed" not in path]
    assert moved == [path for path in first if path != "val/a/0.png"]


def test_a_few_of_many_reach_to_the_end() -> None:
    for n, most in ((3, 5), (5, 5), (7, 5), (150, 80), (1000, 3)):
        few = spread(range(n), most)
        assert len(set(few)) == min(n, most)
        assert few[0] == 0
        assert few[-1] >= n - 1 - n / most


def test_a_file_costs_a_checkpoint_few_bytes(make_folders: Callable[..., Path]) -> None:
    """Whatever its name; files that are changed, new or gone are still told apart."""
    root = make_folders({"a": 12, "b": 12})
    for file in list(root.rglob("*.png")):
        file.rename(file.with_stem(f"{hash(file):x}" * 9))
    data = BloodCells(str(root), image_size=32)
    state = data.state_dict()
    assert state["facts"].nbytes + state["trained_on"].nbytes <= 24 * 24
    text = json.dumps([fact(row, data.source) for row in data.table.rows]).encode()
    before = torch.tensor(list(zlib.compress(text)), dtype=torch.uint8)  # of earlier checkpoints
    first, second, third = sorted(root.rglob("*.png"))[:3]
    first.write_bytes(first.read_bytes() + b"!")
    second.unlink()
    third.rename(third.with_stem("new"))
    now = BloodCells(str(root), image_size=32)
    for packed in (state["facts"], before):
        assert changed_files(data.table, data.source, packed) == ([], 0)
        changed = changed_files(now.table, now.source, packed)
        assert changed == ([f"/a/{first.name}", "/a/new.png"], 2)


def test_image_keys_tell_images_apart_and_know_them_elsewhere(
    make_folders: Callable[..., Path],
) -> None:
    """Files of one name and size in several parts and folders; then the same set, nested deeper."""
    counts = {"train/a/x": 6, "train/a/y": 6, "train/b": 9, "test/a": 2, "test/b": 2}
    here = BloodCells(str(make_folders(counts)))
    keys = torch.cat([here.image_keys(part) for part in ("train", "val", "test")])
    assert len(set(keys.tolist())) == len(keys) == 25
    nested = make_folders({f"deep/er/{folder}": count for folder, count in counts.items()}, "other")
    there = BloodCells(str(nested))
    assert torch.equal(here.image_keys("test"), there.image_keys("test"))
    for part, n in (("train", 21), ("test", 4)):
        inside = BloodCells(str(nested / "deep" / "er" / part))
        found = find_trained(inside.table, inside.source, range(n), here.image_keys("test"))
        assert found.tolist() == [part == "test"] * n


def test_skipped_images_leave_their_part(
    smears_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def module(unreadable: str) -> BloodCells:
        return BloodCells(
            str(smears_copy / "images"),
            photos=str(smears_copy / "photos.csv"),
            image_size=32,
            unreadable=unreadable,  # type: ignore[arg-type]
        )

    data = module("skip")
    bad = data.table.rows[data.parts["train"][0]].path
    (smears_copy / "images" / bad).write_bytes(b"no image")
    data.setup("fit")
    assert len(data.datasets["train"]) == len(data.parts["train"]) - 1
    assert bad in capsys.readouterr().err
    with pytest.raises(InputError, match=bad):
        module("stop").setup("fit")


def test_the_summary_tells_of_a_leak(smears: Path) -> None:
    def summary(split: str) -> str:
        return BloodCells(
            str(smears / "images"),
            split,  # type: ignore[arg-type]
            photos=str(smears / "photos.csv"),
        ).summary()

    assert "LEAKS" not in summary("photo")
    assert "this split LEAKS" in summary("seed")
    assert "train 44 files of 22 photographs" in summary("photo")


def test_the_summary_names_the_classes_that_have_images(
    make_folders: Callable[..., Path],
) -> None:
    folder = make_folders({"b": 12, "a": 14})
    (folder / "c").mkdir()
    assert "\n2 classes: a 14, b 12\n" in BloodCells(str(folder)).summary()
    many = make_folders({f"{n:02}": 12 for n in range(25)}, "many")
    assert ", 18 12, 19 12 and 5 more\n" in BloodCells(str(many)).summary()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 31}, r"data\.image_size=31 cannot be used: it must be 32 to 1024 pix"),
        ({"image_size": 1025}, r"data\.image_size=1025 cannot be used"),
        ({"margin": 0.1}, r"data\.margin=0\.1 cannot be used: .*0 without data\.crop=cell"),
        ({"margin": 0.6, "crop": "cell"}, r"data\.margin=0\.6 cannot be used: .*from 0 to 0\.5"),
        ({"batch_size": 0}, r"data\.batch_size=0 cannot be used: it must be 1 or more"),
    ],
)
def test_settings_out_of_range(smears: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BloodCells(str(smears / "images"), **settings)


def test_images_outside_of_class_folders_are_counted(make_folders: Callable[..., Path]) -> None:
    data = BloodCells(str(make_folders({"a": 30, "b": 30, ".": 4})))
    assert "4 images are outside of the class or split folders: they are" in data.summary()
    data = BloodCells(str(make_folders({"a": 30, "b": 30}, "whole")))
    assert "left out" not in data.summary()
