import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from bloodcell.cli.main import main
from bloodcell.data import cache
from bloodcell.data.cache import empty, list_entries, open_cached
from bloodcell.data.crop import InputFormat, Pixels
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.decode import Report, allocate, decode_into
from bloodcell.data.source import Source, open_source
from bloodcell.errors import InputError
from bloodcell.text import binary_size


@pytest.fixture
def source(smears: Path) -> Source:
    return open_source(str(smears / "images"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the images of each build."""
    counts: list[int] = []

    def count(
        pixels: Pixels, source: Source, names: list[str], input_format: InputFormat
    ) -> Report:
        counts.append(len(names))
        time.sleep(0.05)  # so that others come while it builds
        return decode_into(pixels, source, names, input_format)

    monkeypatch.setattr(cache, "decode_into", count)
    return counts


def open_all(source: Source, size: int = 32, limit_gib: float = 1.0) -> Pixels:
    return open_cached(source, list(source.sizes), InputFormat(size), limit_gib)[0]


def test_the_pixels_are_those_of_the_files(source: Source) -> None:
    names = list(source.sizes)
    plain = allocate(len(names), 32)
    assert decode_into(plain, source, names, InputFormat(plain.shape[1])) == ({}, {})
    for _ in range(2):  # built, then found
        np.testing.assert_array_equal(open_all(source), plain)


def test_decoded_once_by_all_who_come_at_once(source: Source, decoded: list[int]) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: open_all(source), range(8)))
    assert [count for count in decoded if count] == [len(source.sizes)]
    assert all(np.array_equal(found[0], other) for other in found)
    assert len(list_entries()) == 1


def test_what_changes_the_pixels_changes_the_entry(smears_copy: Path, decoded: list[int]) -> None:
    def open_now(size: int = 32) -> None:
        open_all(open_source(str(smears_copy / "images")), size)

    def builds() -> int:
        return len([count for count in decoded if count])

    open_now()
    open_now()
    assert builds() == 1
    open_now(33)
    assert builds() == 2
    image = next(smears_copy.rglob("*.jpeg"))
    os.utime(image, ns=(0, 0))  # as if written at another time
    open_now()
    image.unlink()
    open_now()
    assert builds() == 4


def test_the_cache_cannot_be_written_to(source: Source) -> None:
    with pytest.raises(ValueError, match="read-only"):
        open_all(source)[0] = 7


def test_an_entry_that_was_cut_off_is_built_again(source: Source, decoded: list[int]) -> None:
    whole = open_all(source).copy()
    path = list_entries()[0].folder / "pixels.npy"
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(open_all(source), whole)
    for damage in (b"", b"{"):
        (list_entries()[0].folder / "entry.json").write_bytes(damage)
        np.testing.assert_array_equal(open_all(source), whole)
    path.write_bytes(b"")
    np.testing.assert_array_equal(open_all(source), whole)
    assert [count for count in decoded if count] == [len(source.sizes)] * 5
    (list_entries()[0].folder / "entry.json").unlink()
    assert empty() > 0
    assert list_entries() == []


def test_an_image_that_was_away_is_read_when_it_is_back(
    smears_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(smears_copy / "images"))
    names = list(source.sizes)

    def gone(*_: object) -> bytes:
        raise PermissionError(13, "no")

    with monkeypatch.context() as away:
        away.setattr("bloodcell.data.source.read_file", gone)
        assert len(open_cached(source, names, InputFormat(32), 1.0)[1].unreadable) == len(names)
    pixels, report = open_cached(source, names, InputFormat(32), 1.0)
    assert report.unreadable == {}
    assert pixels.reshape(len(pixels), -1).max(1).min() > 0


def test_a_killed_build_is_not_trusted(source: Source, tmp_path: Path) -> None:
    code = f"""
import time
from bloodcell.data import cache
from bloodcell.data.crop import InputFormat
from bloodcell.data.source import open_source
decode = cache.decode_into
def slow(pixels, *rest):
    decode(pixels[:50], rest[0], rest[1][:50], rest[2])
    print("half", flush=True)
    time.sleep(60)
cache.decode_into = slow
source = open_source({str(source.root)!r})
cache.open_cached(source, list(source.sizes), InputFormat(32), 1.0)
"""
    build = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert build.stdout is not None
    build.stdout.readline()
    build.send_signal(signal.SIGKILL)
    build.communicate()
    left = list((tmp_path / "cache").rglob("*.partial"))
    assert len(left) == 1
    assert list_entries() == []
    pixels = open_all(source)
    assert pixels.reshape(len(pixels), -1).max(1).min() > 0, "an image was never decoded"
    assert list((tmp_path / "cache").rglob("*.partial")) == []


def test_those_used_longest_ago_give_way(source: Source) -> None:
    taken = len(source.sizes) * 32 * 32 * 3 / 2**30
    for size in (32, 33, 34):
        open_all(source, size, limit_gib=3.3 * taken)
        time.sleep(0.02)
    open_all(source, 32)
    time.sleep(0.02)
    open_all(source, 35, limit_gib=3.3 * taken)
    assert [entry.size for entry in list_entries()] == [35, 32]


def test_another_folder_does_not_displace_the_entries_of_the_cache(
    source: Source, tmp_path: Path
) -> None:
    names, taken = list(source.sizes), 3 * len(source.sizes) * 32**2 / 2**30
    open_all(source)
    open_cached(source, names, InputFormat(32), 1.5 * taken, tmp_path / "benchmark")
    assert len(list_entries()) == 1


def test_more_than_the_limit_or_the_disk(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"data\.cache_gib=0\.0001, but the decoded images need .*"
    ):
        open_all(source, 64, limit_gib=0.0001)
    full = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    with pytest.raises(
        InputError, match=r"the disk has 0\.0 GiB\. Free some .*--data\.cache_gib 0"
    ):
        open_all(source)
    assert list_entries() == []


def test_unreadable_images_are_named_each_time(smears_copy: Path) -> None:
    bad = next((smears_copy / "images" / "TRAIN").rglob("*.jpeg"))
    bad.write_bytes(b"no image")

    def module() -> BloodCells:
        return BloodCells(
            str(smears_copy / "images"), photos=str(smears_copy / "photos.csv"), image_size=32
        )

    for _ in range(2):
        with pytest.raises(InputError, match=rf"{bad.name} \(not an image in a supported format\)"):
            module().setup("fit")
    module().setup("test")  # which needs no TRAIN image


def test_the_cache_and_the_plain_path_give_the_same_batches(smears: Path) -> None:
    def batches(cache_gib: float) -> list[torch.Tensor]:
        data = BloodCells(
            str(smears / "images"),
            photos=str(smears / "photos.csv"),
            image_size=40,
            cache_gib=cache_gib,
        )
        data.setup("fit")
        loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        return [batch[key] for loader in loaders for batch in loader for key in sorted(batch)]

    pairs = zip(batches(1.0), batches(0.0), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_verb(
    source: Source, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    main(["cache"])
    assert capsys.readouterr().out.endswith("pixels:\n  none\n")
    open_all(source)
    main(["cache"])
    mib = len(source.sizes) * 32 * 32 * 3 / 2**20
    said = capsys.readouterr().out
    assert f"{mib:.2f} MiB  {len(source.sizes):>9,} images at 32 px" in said
    assert "cache takes --empty (got: --all)" in refused("cache", "--all")
    main(["cache", "--empty"])
    assert f"{mib:.2f} MiB freed" in capsys.readouterr().out
    assert list_entries() == []
    assert empty() == 0


@pytest.mark.parametrize(
    ("n_bytes", "shown"), [(0, "0.00 MiB"), (5 * 2**19, "2.50 MiB"), (2**30, "1.00 GiB")]
)
def test_small_sizes_are_in_mib(n_bytes: int, shown: str) -> None:
    assert binary_size(n_bytes) == shown
