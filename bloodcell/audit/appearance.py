"""Describes the overall appearance of images, to find candidates for copies.

The vector of an image joins its colour histogram and its texture. The texture is a VLAD (Jégou et
al., CVPR 2010): the SIFT descriptors are assigned to 32 words, which are learned from the images
themselves, and the mean direction of their differences from each word is kept. Descriptors are
first made equal to those of the mirrored image. This module does not import torch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bloodcell.audit.features import MIRRORED, Floats, ImageFeatures, unit_rows

_WORDS = 32
_ROUNDS = 8  # of k-means
_LEARNED_FROM = 1000  # images; 8 descriptors of each
_TEXTURE = 512  # length of the texture vector, to which the VLAD is projected
_TOGETHER = 256  # images that are projected at a time


def describe_appearance(images: Sequence[ImageFeatures]) -> NDArray[np.int8]:
    """Returns vectors (n, 1024) whose scalar products weigh colours and texture equally.

    Args:
        images: features of n images.
    """
    words = _learn_words(images)
    draw = np.random.default_rng(0)
    projection = draw.standard_normal((words.size, _TEXTURE)).astype(np.float32)
    rows = np.zeros((len(images), len(images[0].colours) + _TEXTURE), np.int8)
    for start in range(0, len(images), _TOGETHER):
        some = [images[place] for place in range(start, min(start + _TOGETHER, len(images)))]
        texture = unit_rows(np.stack([_vlad(image, words) for image in some]) @ projection)
        colours = np.stack([image.colours for image in some])
        rows[start : start + len(some)] = np.rint(127 * np.concatenate([colours, texture], axis=1))
    return rows


def _learn_words(images: Sequence[ImageFeatures]) -> Floats:
    """Returns the centres (k, 128) of clusters of some descriptors; zeros if there are none."""
    draw = np.random.default_rng(0)
    places = np.unique(np.linspace(0, len(images) - 1, _LEARNED_FROM).astype(int))
    sample = [
        found[draw.permutation(len(found))[:8]]
        for found in (images[int(place)].descriptors for place in places)
    ]
    some = _symmetric(np.concatenate(sample))
    if not len(some):
        return np.zeros((1, 128), np.float32)
    words: Floats = some[draw.permutation(len(some))[:_WORDS]]
    for _ in range(_ROUNDS):
        members = _assign(some, words)
        words = (members.T @ some) / np.maximum(members.sum(0)[:, None], 1)
    return words


def _vlad(image: ImageFeatures, words: Floats) -> Floats:
    """Returns the mean directions (k * 128,) of an image's descriptors from each word."""
    found = _symmetric(image.descriptors)
    members = _assign(found, words)
    return unit_rows(members.T @ found - members.sum(0)[:, None] * words).ravel()


def _symmetric(descriptors: NDArray[np.uint8]) -> Floats:
    """Returns unit vectors (k, 128) that are equal for an image and its mirror image."""
    roots = np.sqrt(descriptors.astype(np.float32))
    return unit_rows(roots + roots[:, MIRRORED])


def _assign(descriptors: Floats, words: Floats) -> Floats:
    """Returns (n, k), 1 where a descriptor is closest to a word, else 0."""
    nearest = (descriptors @ words.T - (words**2).sum(1) / 2).argmax(1)
    members: Floats = np.eye(len(words), dtype=np.float32)[nearest]
    return members
