import pytest
import torch

from bloodcell.model.gallery import Gallery


def test_distances_do_not_depend_on_the_length_of_features() -> None:
    torch.manual_seed(0)
    features = torch.rand(7, 5)
    gallery = Gallery.from_dict(
        {"features": features, "labels": [0] * 7, "files": list("abcdefg")}
        | {"weight": torch.rand(5), "bias": -1.0, "threshold": 0.0, "false_alarms": 0.0}
    )
    asked = torch.rand(3, 5)
    torch.testing.assert_close(gallery.distance(asked), gallery.distance(9 * asked))
    assert gallery.distance(torch.zeros(1, 5)).item() == pytest.approx(-1)
    assert gallery.to_photographs(features).diagonal().abs().max() < 1e-6
    again = Gallery.from_dict(gallery.as_dict())
    torch.testing.assert_close(again.distance(asked), gallery.distance(asked))
