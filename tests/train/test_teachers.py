"""Training with teachers: `model.teachers`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from bloodcell.cli.main import main
from bloodcell.data.batches import NOT_COUNTED, Batch
from bloodcell.errors import InputError
from bloodcell.infer.saved import load_saved
from bloodcell.model.compiled import CompiledPass
from bloodcell.model.find import find_teachers
from bloodcell.model.network import Network, PretrainedConfig
from bloodcell.train.teachers import Teachers

Refused = Callable[..., str]
CPU = torch.device("cpu")


def network(seed: int) -> Network:
    torch.manual_seed(seed)
    config = PretrainedConfig()
    return Network("test_efficientnet", 3, 32, [], 0.0, "avg", config).eval().requires_grad_(False)


def images(n: int = 4) -> torch.Tensor:
    return torch.randint(0, 255, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()


def test_the_answer_is_the_mean_of_the_probabilities() -> None:
    networks = [network(0), network(1)]
    teachers = Teachers(networks)
    expected = sum(one(images()).softmax(1) for one in networks) / 2
    assert torch.allclose(teachers.answer(images()), torch.as_tensor(expected))
    for _ in range(2):  # a second fit of the same model
        teachers.start(CPU, CompiledPass(network(2), False, CPU))
        assert torch.allclose(teachers.answer(images()), torch.as_tensor(expected))


def test_a_compiled_teacher_answers_alike() -> None:
    plain, compiled = Teachers([network(0)]), Teachers([network(0)])
    compiled.start(CPU, CompiledPass(network(2), "default", CPU))
    for n in (4, 3):  # the last, shorter batch runs uncompiled
        assert torch.allclose(compiled.answer(images(n)), plain.answer(images(n)), atol=1e-5)


def test_the_loss_is_least_for_the_mixture_of_label_and_answer() -> None:
    teachers, target = Teachers([network(0)]), torch.tensor([0, 1, 2, 0])
    labels = F.one_hot(target, 3).float()
    mixture = 0.3 * labels + 0.7 * teachers.answer(images())
    logits = mixture.log().requires_grad_()
    batch: Batch = {"image": images(), "target": target, "row": torch.arange(4)}
    loss = teachers.blend(F.cross_entropy(logits, target), logits, batch)
    assert torch.allclose(loss, F.cross_entropy(logits, mixture))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-6
    batch["target"] = torch.tensor([0, 1, NOT_COUNTED, NOT_COUNTED])
    part: Batch = {"image": images()[:2], "target": target[:2], "row": torch.arange(2)}
    zero = torch.zeros(())
    padded, alone = teachers.blend(zero, logits, batch), teachers.blend(zero, logits[:2], part)
    assert torch.allclose(padded, alone)


def taught(smears: Path, run: Path, *words: str) -> list[str]:
    return [
        *("fit", "--data.root", f"{smears}/images", "--data.photos", f"{smears}/photos.csv"),
        *("--data.image_size", "32", "--model.backbone", "test_efficientnet"),
        *("--model.weights", "none", "--model.lr", "1e-3", "--trainer.accelerator", "cpu"),
        *("--trainer.max_epochs", "2", "--trainer.precision", "32-true", "--seed_everything", "1"),
        *("--data.split_seed", "0", "--trainer.enable_progress_bar", "false"),
        *("--model.teachers", str(run), *words),
    ]


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloodcell.train.finish.draw_figures", lambda *_: None)
    monkeypatch.setattr("bloodcell.train.calibrate.STRANGERS", 36)


def weights(run: Path) -> list[torch.Tensor]:
    return [*load_saved(run).network.state_dict().values()]


@pytest.mark.usefixtures("_fast")
def test_a_run_learns_from_its_teacher_and_resumes_exactly(smears: Path, run: Path) -> None:
    main([*taught(smears, run), "--name", "whole"])
    main([*taught(smears, run, "--model.teachers", "[]"), "--name", "alone"])
    main([*taught(smears, run, "--trainer.max_epochs", "1"), "--name", "parts"])
    parts = Path("lightning_logs/parts/version_0")
    main(["fit", "--ckpt_path", str(parts), "--trainer.max_epochs", "2"])
    whole, other, resumed = (
        weights(Path(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt"))
        for name in ("whole", "alone", "parts")
    )
    assert all(map(torch.equal, whole, resumed))
    assert not all(map(torch.equal, whole, other))
    checkpoint = torch.load(parts / "checkpoints/last.ckpt", weights_only=True)
    assert not [key for key in checkpoint["state_dict"] if "teacher" in key], "files stay small"
    kept = checkpoint["hyper_parameters"]["teachers"]
    assert kept == [str(run / "checkpoints" / "best.ckpt")], "not the folder"
    assert load_saved(parts).description.training["model.teachers"] == 1
    main([*taught(smears, run, "--trainer.max_epochs", "3"), "--name", "parts", "--resume", "auto"])
    assert json.loads((parts / "scores.json").read_text())["epochs"] == 3


def test_teachers_that_cannot_teach_are_refused(
    smears: Path, run: Path, tmp_path: Path, refused: Refused
) -> None:
    missing = str(tmp_path / "missing")
    assert "model.teachers" in refused(*taught(smears, Path(missing)))
    words = taught(smears, run, "--data.split_seed", "1", "--data.split", "folds")
    text = refused(*words)
    assert "images that this run does not train on" in text
    assert "with the same data.split" in text
    text = refused(*taught(smears, run, "--data.image_size", "64"))
    assert "trained with the data.image_size, data.crop and data.field of this run" in text
    shutil.copytree(smears / "images", "fewer")
    for folder in Path("fewer").glob("*/MONOCYTE"):
        shutil.rmtree(folder)
    words = ["--data.root", "fewer", "--data.photos", "null"]
    assert "trained on the classes of this run" in refused(*taught(smears, run, *words))
    assert not Path("lightning_logs").exists(), "no run folder is left"


def test_a_checkpoint_that_does_not_list_its_images_is_refused(
    smears: Path, run: Path, refused: Refused
) -> None:
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    del checkpoint["BloodCells"]
    torch.save(checkpoint, "foreign.ckpt")
    text = refused(*taught(smears, Path("foreign.ckpt")))
    assert "foreign.ckpt does not list the images it was trained on" in text


def test_all_finished_runs_of_a_folder_are_teachers(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = str(run / "checkpoints" / "best.ckpt")
    (tmp_path / "name" / "version_1" / "checkpoints").mkdir(parents=True)
    shutil.copytree(run, tmp_path / "name" / "version_0")
    expected = [str(tmp_path / "name" / "version_0" / "checkpoints" / "best.ckpt")]
    assert find_teachers(str(run)) == find_teachers([best, str(run)]) == [best]
    assert find_teachers([str(tmp_path / "name")]) == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_teachers("~/name") == expected
    (tmp_path / "name" / "version_1" / "scores.json").touch()
    with pytest.raises(InputError, match=r"version_1: no checkpoint there \(looked for .*best\.ck"):
        find_teachers(str(tmp_path / "name"))
    with pytest.raises(InputError, match=r"model\.teachers elsewhere"):
        find_teachers(["elsewhere"])
    (tmp_path / "m.safetensors").touch()
    with pytest.raises(InputError, match=r"it must be a run folder or a \.ckpt file"):
        find_teachers(str(tmp_path / "m.safetensors"))
