"""`predict --adapt`: BatchNorm's statistics of the images that are asked about."""

from pathlib import Path

import numpy as np
import pytest
import torch

import bloodcell
from bloodcell.cli.main import main
from bloodcell.errors import InputError
from bloodcell.infer import adapt as module
from bloodcell.infer.adapt import adapt
from bloodcell.infer.saved import load_saved
from bloodcell.infer.torch_runtime import TorchModel


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (n, 32, 32, 3), np.uint8)


def test_the_model_itself_does_not_change(run: Path, smears: Path) -> None:
    loaded = bloodcell.load(run)
    folder = smears / "images" / "TEST"
    before = loaded.predict(folder)
    adapted = loaded.predict(folder, adapt=True)
    after = loaded.predict(folder)
    np.testing.assert_array_equal(before.probability, after.probability)
    assert np.abs(adapted.probability - before.probability).max() > 0
    assert [one.distance for one in adapted] == pytest.approx([one.distance for one in before])


def test_statistics_are_those_of_all_images_whatever_the_batches(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRUSTED", 0)
    model = TorchModel(load_saved(run), [torch.device("cpu")])
    images = pixels(12)
    images[:7] //= 4  # the batches differ in their means
    network, _ = adapt(model, [images]).model.copy_network()
    parts, _ = adapt(model, [images[:7], images[7:]]).model.copy_network()
    first, other = (
        next(one for one in each.modules() if isinstance(one, torch.nn.BatchNorm2d))
        for each in (network, parts)
    )
    torch.testing.assert_close(first.running_mean, other.running_mean)
    torch.testing.assert_close(first.running_var, other.running_var, rtol=1e-3, atol=0)


def test_the_batch_size_changes_nothing(run: Path, smears: Path) -> None:
    loaded, folder = bloodcell.load(run), smears / "images" / "TEST"
    whole, parts = (loaded.predict(folder, adapt=True, batch_size=n) for n in (32, 3))
    np.testing.assert_allclose(parts.probability, whole.probability, atol=1e-5)


def test_no_image_changes_nothing_and_few_are_doubted(run: Path) -> None:
    model = TorchModel(load_saved(run), [torch.device("cpu")])
    none = adapt(model, [])
    np.testing.assert_allclose(
        none.runtime.classify(pixels(3)).probability, model.classify(pixels(3)).probability
    )
    assert "WARNING" not in none.report
    assert "fewer than 50 images" in adapt(model, [pixels(3)]).report


def test_one_image_of_a_batch_alone(run: Path) -> None:
    model = TorchModel(load_saved(run), [torch.device("cpu")])
    adapted = adapt(model, [pixels(1)])  # at 32 pixels, the last map has one value per channel
    assert "adapted to 1 image:" in adapted.report
    assert np.isfinite(adapted.model.classify(pixels(3)).probability).all()


def test_what_cannot_be_adapted(
    run: Path, smears: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(smears / "images" / "TEST")
    main(["export", folder, "--model", str(run), "--out", "m.onnx"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["predict", folder, "--model", "m.onnx", "--adapt"])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert "--adapt cannot change the exported model asked" in said.err
    assert not said.out, "no table without rows"
    with pytest.raises(InputError, match=r"^adapt cannot change the exported model"):
        bloodcell.load("m.onnx").predict(folder, adapt=True)
