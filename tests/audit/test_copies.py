"""Copies are found from pixels: drawn smears, changed as copies are."""

from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bloodcell.audit.agreement import agreement
from bloodcell.audit.copies import Copies, find_copies
from bloodcell.audit.features import ImageFeatures, compute_features
from bloodcell.datasets.drawn import CLASS_NAMES
from bloodcell.datasets.drawn.smears import draw_copy, draw_photograph

Pixels = NDArray[np.uint8]
PHOTOS = [draw_photograph(CLASS_NAMES[seed % len(CLASS_NAMES)], seed) for seed in range(6)]
LOOKS = [compute_features(photo.pixels) for photo in PHOTOS]


def common(one: ImageFeatures, other: ImageFeatures) -> int:
    """Counts the features on which two images agree."""
    found = agreement(one, other)
    return found.features if found else 0


def copies_of(number: int, count: int) -> list[Pixels]:
    return [draw_copy(PHOTOS[number], (number, seed)).pixels for seed in range(count)]


def find(images: list[Pixels]) -> Copies:
    return find_copies([compute_features(image) for image in images])


def test_copies_are_grouped_by_their_photograph() -> None:
    images = [image for number in range(6) for image in copies_of(number, 5)]
    order = np.random.default_rng(0).permutation(len(images))
    found = find([images[place] for place in order])
    truth = np.repeat(np.arange(6), 5)[order]
    assert len(set(zip(found.photo.tolist(), truth.tolist(), strict=True))) == 6
    assert np.array_equal(found.photo, found.scene)
    assert found.photo[0] == 0, "numbered in the order of the images"


def test_many_images_are_compared_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block has the features of 4 images; the groups do not depend on it."""
    images = [image for number in range(4) for image in copies_of(number, 5)]
    whole = find(images)
    monkeypatch.setattr("bloodcell.audit.neighbours._VALUES", 4 * len(images))
    blocks = find(images)
    assert np.array_equal(blocks.photo, whole.photo)
    assert np.array_equal(blocks.scene, whole.scene)


def test_other_photographs_have_nothing_in_common() -> None:
    assert [common(one, other) for one, other in combinations(LOOKS, 2)] == [0] * 15


@settings(deadline=None, max_examples=25)
@given(
    number=st.integers(0, 5),
    turn=st.floats(-20, 20),
    shear=st.floats(-0.2, 0.2),
    scale=st.floats(0.9, 1.1),
    mirrored=st.booleans(),
    bright=st.floats(0.6, 1.1),
)
def test_any_copy_is_recognised(
    number: int, turn: float, shear: float, scale: float, mirrored: bool, bright: float
) -> None:
    """Whatever the Kaggle set's copies were made by, corners filled with black."""
    pixels = PHOTOS[number].pixels[:, :: -1 if mirrored else 1]
    height, width = pixels.shape[:2]
    affine = cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale)
    affine[0] += shear * np.array([affine[1, 0], affine[1, 1], affine[1, 2] - height / 2])
    copy = cv2.warpAffine(np.ascontiguousarray(pixels), affine, (width, height))
    brightened = (copy * bright).clip(0, 255).astype(np.uint8)
    assert common(LOOKS[number], compute_features(brightened)) >= 20


def test_a_cell_photographed_twice_is_a_scene_and_no_copy() -> None:
    """Half of the picture is another's, so copies of both agree with each other, but less."""
    pixels = PHOTOS[0].pixels.copy()
    pixels[:, :160] = PHOTOS[1].pixels[:, :160]
    again = replace(PHOTOS[0], pixels=pixels)
    twins = [draw_copy(again, (9, seed)).pixels for seed in range(6)]
    found = find([*copies_of(0, 6), *twins, *copies_of(2, 6)])
    assert found.photo.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert found.scene.tolist() == [0] * 12 + [1] * 6


def test_equal_pixels_are_one_photograph_even_without_features() -> None:
    blank, grey = np.zeros((50, 40, 3), np.uint8), np.full((50, 40, 3), 99, np.uint8)
    assert find([blank, grey, blank, PHOTOS[0].pixels]).photo.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (28, 28), (900, 1200)])
def test_images_of_any_size(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    other = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    assert find([image]).photo.tolist() == [0]
    assert find([image, other, image]).photo.tolist() == [0, 1, 0]
    assert compute_features(image).comparable == (min(shape) > 3)


def test_pictures_on_black_are_compared_too() -> None:
    """As in fluorescence: black is not only what a copy's corners were filled with."""
    dark = np.where(PHOTOS[0].pixels.mean(2, keepdims=True) < 190, PHOTOS[0].pixels, 0)
    assert (dark == 0).mean() > 0.4
    turned = cv2.warpAffine(dark, cv2.getRotationMatrix2D((160, 120), 10, 1), (320, 240))
    assert common(compute_features(dark), compute_features(np.asarray(turned, np.uint8))) >= 20


def test_progress_goes_from_nothing_to_all() -> None:
    told: list[float] = []
    find_copies(LOOKS, told.append)
    assert told[0] == 0
    assert told[-1] == 1
    assert told == sorted(told)
