import numpy as np
import pytest

from bloodcell.datasets.drawn.strangers import KINDS, draw_stranger


@pytest.mark.parametrize("size", [32, 97])
def test_each_kind_is_drawn_again_alike(size: int) -> None:
    for number in range(len(KINDS)):
        picture = draw_stranger(number, size)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, draw_stranger(number, size))
        assert not np.array_equal(picture, draw_stranger(number + len(KINDS), size))
