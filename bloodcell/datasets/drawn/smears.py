"""Draws synthetic photographs of stained blood smears and writes them as a data set.

They replace the photographs of the Kaggle set, with the same size, folders and augmentation.
Lamp, focus and noise are independent of the class, as stain and scale are in `scene`.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from bloodcell.datasets.drawn.scene import HEIGHT, MARGIN, WIDTH, Floats, draw_scene, seeded_rng
from bloodcell.datasets.kaggle import CLASS_NAMES
from bloodcell.machine import usable_cpus

Box = tuple[float, float, float, float]

_CAMERA, _COPY = 2, 3
_MOST_WORKERS = 61  # that Windows allows
# grey level of clear plasma; below 255, to leave room for the bright halos of red cells
_FULL = 225


@dataclass(frozen=True)
class Photograph:
    """One picture of a smear with one white cell.

    Attributes:
        pixels: RGB picture, uint8, shape (240, 320, 3).
        class_name: class of the white cell, one of `CLASS_NAMES`.
        box: the white cell as (xmin, ymin, xmax, ymax) in pixels, inside the picture.
    """

    pixels: NDArray[np.uint8]
    class_name: str
    box: Box


def _warp(
    pixels: NDArray[np.uint8], matrix: NDArray[np.float64], points: Floats
) -> tuple[Image.Image, Box]:
    """Warps a picture and the box around `points`; `matrix` (2, 3) maps new to old pixels."""
    coefficients = tuple(float(value) for value in matrix.ravel())
    picture = Image.fromarray(pixels).transform(
        (WIDTH, HEIGHT), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    moved = (points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    low, high = moved.min(axis=0), moved.max(axis=0)
    x0, y0 = np.clip(low, 0, (WIDTH, HEIGHT))
    x1, y1 = np.clip(high, 0, (WIDTH, HEIGHT))
    return picture, (float(x0), float(y0), float(x1), float(y1))


def _photograph(
    class_name: str, scene: int | Sequence[int], camera: int | Sequence[int]
) -> Photograph:
    """Draws a scene and photographs it: lamp, focus and noise follow `camera`.

    A camera seed that differs from the scene's gives a second, slightly turned view of the scene.
    """
    light, outline = draw_scene(class_name, scene)
    rng = seeded_rng(camera, CLASS_NAMES.index(class_name), _CAMERA)
    matrix = np.eye(2, 3)
    matrix[:, 2] = MARGIN
    if scene != camera:
        pivot = outline.mean(axis=0)
        angle = rng.choice([-1, 1]) * rng.uniform(0.03, 0.07)
        matrix[:, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        aim = pivot - MARGIN + rng.uniform(-5, 5, 2)
        matrix[:, 2] = pivot - matrix[:, :2] @ aim
    clear = np.clip(light * _FULL, 0, 255).astype(np.uint8)
    picture, box = _warp(clear, matrix, outline)
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.1)))
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
    slope, bowl = rng.normal(0, 0.04, 2), rng.uniform(0, 0.07)
    lamp = 1 + slope[0] * x + slope[1] * y - bowl * (x * x + y * y)
    colour = rng.uniform(195, 232) * np.array([1, rng.uniform(0.93, 1.01), rng.uniform(0.88, 1.0)])
    grain = rng.standard_normal((HEIGHT, WIDTH, 3), dtype=np.float32) * rng.uniform(1, 3.5)
    pixels = np.asarray(picture) / np.float32(_FULL) * lamp[..., None] * colour + grain
    return Photograph(np.clip(pixels, 0, 255).astype(np.uint8), class_name, box)


def draw_photograph(class_name: str, seed: int | Sequence[int]) -> Photograph:
    """Draws a photograph of a smear with one white cell entirely inside the picture.

    Args:
        class_name: class of the white cell, one of `CLASS_NAMES`.
        seed: non-negative integer or integers; the same seed gives the same pixels.

    Raises:
        ValueError: if the class is unknown.
    """
    if class_name not in CLASS_NAMES:
        raise ValueError(f"unknown class {class_name!r}; known: {', '.join(CLASS_NAMES)}")
    return _photograph(class_name, seed, seed)


def draw_copy(photograph: Photograph, seed: int | Sequence[int]) -> Photograph:
    """Draws an augmented copy like those of the Kaggle set.

    The copy is rotated by up to 20 degrees, shifted by up to 0.1 of each side, sheared by up to
    0.2, flipped at random, black where the original ends, and varied in brightness. The centre of
    the white cell stays in the picture: a copy without it would carry a false label.

    Args:
        photograph: the original.
        seed: non-negative integer or integers; the same seed gives the same pixels.

    Returns:
        The copy. Its box is the axis-aligned bounding box of the moved box, clipped to the picture.
    """
    rng = seeded_rng(seed, _COPY)
    xmin, ymin, xmax, ymax = photograph.box
    corners = np.array([[xmin, ymin], [xmax, ymin], [xmin, ymax], [xmax, ymax]], dtype=np.float32)
    size = np.array([WIDTH, HEIGHT])
    while True:
        angle, shear = np.deg2rad(rng.uniform(-20, 20)), rng.uniform(-0.2, 0.2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = turn @ [[1, shear], [0, 1]] @ np.diag(rng.choice([-1, 1], 2))
        offset = size / 2 + rng.uniform(-0.1, 0.1, 2) * size - linear @ (size / 2)
        centre = np.linalg.inv(linear) @ (corners.mean(axis=0) - offset)
        if (centre > 0).all() and (centre < size).all():
            break
    picture, box = _warp(photograph.pixels, np.column_stack([linear, offset]), corners)
    pixels = np.clip(np.asarray(picture) * np.float32(rng.uniform(0.85, 1.15)), 0, 255)
    return Photograph(pixels.astype(np.uint8), photograph.class_name, box)


@dataclass(frozen=True)
class _Job:
    """A photograph to draw, the seeds of its scene and camera, and the files to write."""

    images: Path
    class_name: str
    scene: tuple[int, ...]
    camera: tuple[int, ...]
    copies: tuple[str, ...]
    plain: str | None
    ids: str


def _write_photograph(job: _Job) -> list[str]:
    """Writes a photograph's files and returns their rows of photos.csv."""
    original = _photograph(job.class_name, job.scene, job.camera)
    shots = [
        (name, draw_copy(original, (*job.camera, number))) for number, name in enumerate(job.copies)
    ]
    if job.plain:
        shots.append((job.plain, original))
    rows = []
    for name, shot in shots:
        Image.fromarray(shot.pixels).save(job.images / name, quality=92)
        rows.append(",".join([name, job.ids, *(f"{side:.1f}" for side in shot.box)]))
    return rows


def _file_names(folder: str, count: int, rng: np.random.Generator) -> list[str]:
    return [f"{folder}/_{a}_{rng.integers(10_000)}.jpeg" for a in rng.permutation(count)]


def _plan(images: Path, train_photos: int, test_photos: int, copies: int, seed: int) -> list[_Job]:
    """Lists all photographs of the set with their seeds and file names."""
    jobs: list[_Job] = []
    per_class = train_photos + test_photos
    for index, class_name in enumerate(CLASS_NAMES):
        rng = np.random.default_rng((seed, index))
        train = _file_names(f"TRAIN/{class_name}", train_photos * copies, rng)
        test = _file_names(f"TEST/{class_name}", test_photos * copies, rng)
        plain = _file_names(f"TEST_SIMPLE/{class_name}", test_photos, rng)
        first, second = int(rng.integers(train_photos)), int(rng.integers(test_photos))
        for number in range(per_class):
            split, place = (0, number) if number < train_photos else (1, number - train_photos)
            camera = scene = (seed, index, split, place)
            cell = photo = index * per_class + number
            if split and place == second:
                cell, scene = index * per_class + first, (seed, index, 0, first)
            names = (test if split else train)[place * copies : (place + 1) * copies]
            lone = plain[place] if split else None
            ids = f"{photo},{cell}"
            jobs.append(_Job(images, class_name, scene, camera, tuple(names), lone, ids))
    return jobs


def write_smears(
    root: Path,
    train_photos: int,
    test_photos: int,
    copies: int,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Writes a data set in the layout of the Kaggle set, with a photo table.

    The files are root/images/{TRAIN,TEST,TEST_SIMPLE}/CLASS/_<a>_<b>.jpeg; TEST_SIMPLE has the
    originals of the copies in TEST. root/photos.csv has a row per file with its photograph, its
    white cell and the cell's box in pixels. In each class, one TEST photograph shows the same
    cell as a TRAIN photograph. `root` appears only when all files are written.

    Args:
        root: folder to create, with its parents.
        train_photos: TRAIN photographs per class, at least 1.
        test_photos: TEST photographs per class, at least 1.
        copies: augmented copies of each photograph, at least 1.
        seed: non-negative; the files depend only on the seed and the numbers above.
        workers: number of processes; None uses one per CPU; 1 draws in this process.

    Raises:
        FileExistsError: if `root` exists.
        ValueError: if a number is less than 1.
    """
    workers = min(usable_cpus() if workers is None else workers, _MOST_WORKERS)
    if min(train_photos, test_photos, copies, workers) < 1:
        raise ValueError("train_photos, test_photos, copies and workers must be at least 1")
    if root.exists():
        raise FileExistsError(f"{root} already exists")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as temporary:
        whole = Path(temporary) / root.name
        for split in ("TRAIN", "TEST", "TEST_SIMPLE"):
            for class_name in CLASS_NAMES:
                (whole / "images" / split / class_name).mkdir(parents=True)
        jobs = _plan(whole / "images", train_photos, test_photos, copies, seed)
        rows = chain.from_iterable(_run(jobs, workers))
        table = "\n".join(["file,photo,cell,xmin,ymin,xmax,ymax", *rows])
        (whole / "photos.csv").write_text(table + "\n", encoding="utf-8")
        whole.rename(root)


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Hides the main script from processes that start, which would run it from its beginning."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _run(jobs: list[_Job], workers: int) -> list[list[str]]:
    if workers == 1:
        return [_write_photograph(job) for job in jobs]
    # workers leave Ctrl-C to the parent, which stops handing out work and cleans up
    ignored = (signal.SIGINT, signal.SIG_IGN)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, signal.signal, ignored) as pool:
        try:
            with _hidden_main():
                written = pool.map(_write_photograph, jobs, chunksize=4)  # starts all workers
            return list(written)
        except KeyboardInterrupt:
            # a second Ctrl-C must not end the clean-up, or the workers would wait for ever
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            pool.shutdown(cancel_futures=True)
            signal.signal(signal.SIGINT, before)
            raise
