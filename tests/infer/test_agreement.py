from collections.abc import Sequence

import numpy as np
import pytest

from bloodcell.infer.agreement import Agreement, Measurement, print_agreement

CLASSES = ["lobed", "round"]


@pytest.mark.parametrize(
    ("folders", "accuracy", "legend"),
    [
        (
            ["slide", "slide"],
            "no labels",
            "Accuracy: needs images in folders named after their class",
        ),
        (["round", "slide"], "1.0000", "Accuracy: on the 1 images in a folder named after their"),
    ],
)
def test_the_accuracy_is_explained_where_images_have_a_class(
    folders: Sequence[str], accuracy: str, legend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = Measurement(
        np.array([[0.1, 0.9], [0.2, 0.8]], np.float32), np.zeros(2, np.float32), 0.01, 100.0
    )
    agreement = Agreement(2, 0, 1e-6)
    rows = ["PyTorch", "m.onnx"], [10, 10], [measured, measured], [agreement]
    print_agreement(*rows, folders, CLASSES)
    said = " ".join(capsys.readouterr().out.split())
    assert accuracy in said
    assert legend in said
    assert "difference of a probability." in said
    assert "One image: median time, including resizing." in said
