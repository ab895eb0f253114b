import numpy as np
import pytest

from bloodcell.model.gallery import Gallery


def test_nearest_in_blocks_equals_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(50, 8)).astype(np.float32)
    asked = draw.normal(size=(130, 8)).astype(np.float32)
    gallery = Gallery.from_dict(
        {"features": features, "labels": [0] * 50, "files": ["x"] * 50}
        | {"threshold": 0.0, "false_alarms": 0.0}
    )
    whole = gallery.distances(asked).min(1)
    assert np.array_equal(gallery.nearest(asked), whole), "as few images as these are one block"
    monkeypatch.setattr("bloodcell.model.gallery._AT_ONCE", 32)
    assert gallery.nearest(asked) == pytest.approx(whole, abs=1e-6)
