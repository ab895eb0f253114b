"""Describes the texture of images, to find candidates for copies.

The vector of an image is a VLAD (Jégou et al., CVPR 2010): its SIFT descriptors are assigned to 64
words, which are learned from the images themselves, and the mean direction of their differences
from each word is kept. Descriptors are first made equal to those of the mirrored image. The
vectors are projected to their principal components. This module does not import torch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bloodcell.audit.features import MIRRORED, Floats, ImageFeatures, unit_rows
from bloodcell.audit.neighbours import Rows

_WORDS = 64
_ROUNDS = 8  # of k-means
_LEARNED_FROM = 1000  # images; 8 descriptors of each
_LENGTH = 256  # of a vector; the number of principal components
_TOGETHER = 256  # images that are projected at a time


def describe_appearance(images: Sequence[ImageFeatures]) -> Rows:
    """Returns vectors (n, d), d up to 256, whose cosines say how similar the textures are."""
    places = np.unique(np.linspace(0, len(images) - 1, _LEARNED_FROM).astype(int)).tolist()
    words = _learn_words([images[place].descriptors for place in places])
    sample = np.stack([_vlad(images[place], words) for place in places])
    mean = sample.mean(axis=0)
    projection = _principal_components(sample - mean)
    rows = np.zeros((len(images), projection.shape[1]), np.float16)
    for start in range(0, len(images), _TOGETHER):
        end = min(start + _TOGETHER, len(images))
        some = np.stack([_vlad(images[place], words) for place in range(start, end)])
        rows[start:end] = unit_rows((some - mean) @ projection)
    return rows


def _learn_words(descriptors: Sequence[NDArray[np.uint8]]) -> Floats:
    """Returns the centres (k, 128) of clusters of some descriptors; zeros if there are none."""
    draw = np.random.default_rng(0)
    some = _symmetric(
        np.concatenate([all_[draw.permutation(len(all_))[:8]] for all_ in descriptors])
    )
    if not len(some):
        return np.zeros((1, 128), np.float32)
    words: Floats = some[draw.permutation(len(some))[:_WORDS]]
    for _ in range(_ROUNDS):
        members = _assign(some, words)
        words = (members.T @ some) / np.maximum(members.sum(0)[:, None], 1)
    return words


def _principal_components(rows: Floats) -> Floats:
    """Returns directions (d, 256 or fewer) in which the rows (k, d) differ most."""
    values, vectors = np.linalg.eigh(rows @ rows.T)  # smaller than the covariance (d, d)
    values, vectors = values[::-1][:_LENGTH], vectors[:, ::-1][:, :_LENGTH]
    lengths = np.sqrt(np.maximum(values, 1e-6))
    result: Floats = (rows.T @ vectors / lengths).astype(np.float32)
    return result


def _vlad(image: ImageFeatures, words: Floats) -> Floats:
    """Returns the mean directions (k * 128,) of an image's descriptors from each word."""
    found = _symmetric(image.descriptors)
    members = _assign(found, words)
    directions = unit_rows(members.T @ found - members.sum(0)[:, None] * words)
    vector: Floats = unit_rows(directions.reshape(1, -1))[0]
    return vector


def _symmetric(descriptors: NDArray[np.uint8]) -> Floats:
    """Returns unit vectors (k, 128) that are equal for an image and its mirror image."""
    roots = np.sqrt(descriptors.astype(np.float32))
    return unit_rows(roots + roots[:, MIRRORED])


def _assign(descriptors: Floats, words: Floats) -> Floats:
    """Returns (n, k), 1 where a descriptor is closest to a word, else 0."""
    nearest = (descriptors @ words.T - (words**2).sum(1) / 2).argmax(1)
    members: Floats = np.eye(len(words), dtype=np.float32)[nearest]
    return members
