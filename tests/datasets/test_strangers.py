from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from bloodcell.datasets.drawn.strangers import KINDS, _Pen, draw_stranger


@pytest.mark.parametrize("size", [32, 97])
def test_each_kind_is_drawn_again_alike(size: int) -> None:
    for number in range(len(KINDS)):
        picture = draw_stranger(number, size)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, draw_stranger(number, size))
        assert not np.array_equal(picture, draw_stranger(number + len(KINDS), size))


@pytest.mark.parametrize(("size", "filtered"), [(224, 224), (600, 160)])
def test_wide_noise_of_large_pictures_is_drawn_small(
    size: int, filtered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides, smooth = list[int](), ndimage.gaussian_filter

    def noted(noise: np.ndarray[Any, Any], *words: Any, **more: Any) -> np.ndarray[Any, Any]:
        sides.append(len(noise))
        found: np.ndarray[Any, Any] = smooth(noise, *words, **more)
        return found

    monkeypatch.setattr(ndimage, "gaussian_filter", noted)
    width = size / 20
    noise = _Pen(np.random.default_rng(0), size, stained=False).smooth(width)
    assert noise.shape == (size, size)
    assert noise.std() == pytest.approx(1)
    assert sides == [filtered]
    shift = round(width)  # the correlation of smoothed noise at its width is exp(-1/4)
    along = np.mean(noise * np.roll(noise, shift, 0)) - noise.mean() ** 2
    assert along == pytest.approx(np.exp(-0.25), abs=0.1)
