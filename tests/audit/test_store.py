"""Features wait in a file, so the memory of `audit` does not grow with them."""

from pathlib import Path

import numpy as np

from bloodcell.audit.features import compute_features
from bloodcell.audit.store import open_store
from bloodcell.files import cache_folder


def test_features_come_back_as_they_were() -> None:
    images = [
        np.random.default_rng(seed).integers(0, 256, (50 + 9 * seed, 60, 3), np.uint8)
        for seed in range(4)
    ]
    expected = [compute_features(image) for image in images]
    with open_store() as store:
        for features in expected:
            store.append(features)
        assert len(store) == 4
        for place in (2, 0, 3, 1, 2):
            found = store[place]
            for one, other in zip(found, expected[place], strict=True):
                assert np.array_equal(np.asarray(one), np.asarray(other))


def test_nothing_is_left_behind() -> None:
    with open_store() as store:
        store.append(compute_features(np.zeros((40, 40, 3), np.uint8)))
    assert list(Path(cache_folder()).iterdir()) == []
