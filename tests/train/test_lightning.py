"""What somebody who knows Lightning expects: each part works without the rest of this package."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torchvision.datasets import FakeData
from torchvision.transforms import v2

import bloodcell
from bloodcell.cli.main import main
from bloodcell.data.batches import NOT_COUNTED, Batch
from bloodcell.datasets.kaggle import CLASS_NAMES
from bloodcell.errors import InputError
from bloodcell.model.checkpoint import check_complete, read_checkpoint
from bloodcell.train.metrics import Metrics
from bloodcell.train.signals import Interval, StopGently

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # Lightning's, of torch
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]


def trainer(**changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    return Trainer(**(settings | changes))


def smears_data(smears: Path, **changes: Any) -> bloodcell.BloodCells:
    photos = str(smears / "photos.csv")
    settings: dict[str, Any] = {"photos": photos, "image_size": 32, "batch_size": 8}
    return bloodcell.BloodCells(str(smears / "images"), **(settings | changes))


def tiny(**changes: Any) -> bloodcell.Classifier:
    settings: dict[str, Any] = {
        "class_names": list("abcd"), "image_size": 32, "backbone": "test_efficientnet",
        "weights": "none", "pool": "avg", "lr": 1e-3, "compile": False,
    }  # fmt: skip
    return bloodcell.Classifier(**(settings | changes))


class Linear(LightningModule):
    """Somebody else's model."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.layers(batch["image"] / 255), batch["target"])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("loss", self.training_step(batch, batch_idx), batch_size=len(batch["target"]))

    validation_step = test_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        said: Tensor = self.layers(batch["image"] / 255)
        return said.argmax(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def test_import_is_quick_and_names_are_there() -> None:
    code = "import sys, bloodcell; assert 'torch' not in sys.modules; bloodcell.Classifier"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = bloodcell.Other


def test_both_from_python(smears: Path) -> None:
    data = smears_data(smears)
    model, runs = tiny(class_names=data.class_names), trainer()
    runs.fit(model, data)
    assert runs.callback_metrics.keys() >= {
        "train/loss", "train/acc", "val/loss", "val/acc",
        "val/balanced_accuracy", "val/f1", "val/auroc", "val/ece",
    }  # fmt: skip
    runs.test(model, data, verbose=False)
    assert model.outputs is not None
    rows, probability = model.outputs.row, model.outputs.probability
    assert rows.tolist() == data.parts["test"]
    said = torch.cat([part for part in runs.predict(model, data) or [] if isinstance(part, Tensor)])
    torch.testing.assert_close(said, probability)
    torch.testing.assert_close(said.sum(1), torch.ones(len(rows)))


def test_a_model_for_other_classes_or_another_size(smears: Path) -> None:
    data = smears_data(smears)
    turned, fewer = list(reversed(data.class_names)), data.class_names[:2]
    for names in (turned, fewer):
        with pytest.raises(InputError, match=r"class_names=\[.*\] cannot be used: it must be \["):
            trainer().fit(tiny(class_names=names), smears_data(smears))
    model = tiny(class_names=data.class_names, image_size=64)
    rule = r"model\.image_size=64 cannot be used: it must be 32, like data\.image_size"
    with pytest.raises(InputError, match=rule):
        trainer().test(model, data)


def test_a_signal_ends_one_run_of_a_trainer_only(smears: Path) -> None:
    class Signalled(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 2 and stop.signal is None and not runs:
                signal.raise_signal(signal.SIGTERM)

    data, model, stop, runs = (
        smears_data(smears),
        tiny(class_names=CLASS_NAMES),
        StopGently(),
        list[int](),
    )
    twice = trainer(callbacks=[stop, Signalled()])
    with pytest.raises(SIGTERMException):
        twice.fit(model, data)
    runs.append(twice.global_step)
    twice.fit(model, data)
    assert (runs, twice.current_epoch, stop.signal) == ([3], 1, None)


class Interrupted(Callback):
    """Stops a validation or a training within its epoch."""

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            raise SIGTERMException

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        raise SIGTERMException


def test_an_interrupted_epoch_counts_in_no_later_one(smears: Path) -> None:
    data = smears_data(smears)
    model, fresh = (tiny(class_names=data.class_names) for _ in range(2))
    fresh.load_state_dict(model.state_dict())
    with pytest.raises(SIGTERMException):
        trainer(callbacks=[Interrupted()]).validate(model, data, verbose=False)
    for part in ("validate", "test"):
        found, expected = (
            getattr(trainer(), part)(one, data, verbose=False) for one in (model, fresh)
        )
        assert found == expected
        assert model.outputs is not None
        assert model.outputs.row.tolist() == data.parts["val" if part == "validate" else part]
    model.train()  # an exception left it in evaluation mode
    with pytest.raises(SIGTERMException):
        trainer(callbacks=[Interrupted()]).fit(model, data)
    fresh.load_state_dict(model.state_dict())
    runs = [trainer(), trainer()]
    for one, other in zip(runs, (model, fresh), strict=True):
        one.fit(other, data)
    assert runs[0].callback_metrics == runs[1].callback_metrics
    assert "train/loss" in runs[0].callback_metrics


def test_a_classifier_is_loaded_from_a_checkpoint(run: Path) -> None:
    model = bloodcell.Classifier.load_from_checkpoint(run / "checkpoints" / "best.ckpt").eval()
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    logits = model(torch.from_numpy(image).permute(2, 0, 1)[None])
    expected = bloodcell.load(run / "checkpoints" / "best.ckpt").predict(image)
    assert [expected.class_names[label] for label in logits.argmax(1)] == expected.classes


def test_devices_agree_between_any_validations() -> None:
    """A validation every 16 batches is due whenever a multiple of 16 batches has passed."""
    interval = Interval(16)
    asked = [n for n in range(1, 100) if n % 16 and interval.passed(n)]
    assert asked == [17, 33, 49, 65, 81, 97]
    assert [n for n in range(1, 40) if interval.passed(n)] == [16, 32]  # the next epoch


@pytest.mark.parametrize("scale", [False, True])
def test_any_loader_of_images_and_targets(scale: bool) -> None:
    kind = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=False)])
    images = FakeData(20, (3, 32, 32), 4, kind if scale else v2.PILToTensor())
    loader, model, runs = DataLoader(images, 8), tiny(), trainer()
    runs.fit(model, loader, loader)
    runs.validate(model, loader, verbose=False)
    runs.test(model, loader, verbose=False)
    assert model.outputs is not None
    assert model.outputs.row.tolist() == list(range(20))
    said = torch.cat(
        [part for part in runs.predict(model, loader) or [] if isinstance(part, Tensor)]
    )
    torch.testing.assert_close(said, model.outputs.probability)


def test_somebody_elses_model(smears: Path) -> None:
    model, data, runs = Linear(), smears_data(smears), trainer()
    runs.fit(model, data)
    runs.validate(model, data, verbose=False)
    runs.test(model, data, verbose=False)
    assert sum(len(part) for part in runs.predict(model, data) or []) == len(data.parts["test"])


def test_the_constructor_looks_at_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("bloodcell.data.datamodule.open_source", fails)
    for root in ("kaggle", "drawn"):
        data = bloodcell.BloodCells(root)
        assert data.class_names == ["EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"]
        with pytest.raises(AssertionError):
            data.prepare_data()


def test_setup_opens_what_was_prepared(smears: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smears_data(smears).prepare_data()

    def fails(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("bloodcell.data.cache.decode_into", fails)
    data = smears_data(smears)
    data.setup("predict")
    assert set(data.datasets) == {"test"}


@pytest.mark.parametrize("how", ["no cache", "dry run"])
def test_one_process_opens_the_source(how: str, smears: Path) -> None:
    """Also where nothing is decoded into the cache."""
    data = smears_data(smears, cache_gib=0.0 if how == "no cache" else 20.0)
    data.trainer = trainer(fast_dev_run=how == "dry run")
    data.prepare_data()
    assert vars(data)["table"].rows


def test_a_dry_run_leaves_nothing_to_the_next_run(smears: Path) -> None:
    data, model = smears_data(smears), tiny(class_names=CLASS_NAMES)
    trainer(fast_dev_run=True).fit(model, data)
    assert len(data.datasets["train"]) == 8
    runs = trainer()
    runs.fit(model, data)
    assert len(data.datasets["train"]) == len(data.parts["train"]) == 44
    assert runs.global_step == 6


def test_the_checkpoint_holds_the_data_modules_state(smears: Path, tmp_path: Path) -> None:
    data, runs = smears_data(smears, transforms=[v2.RandomHorizontalFlip()]), trainer()
    own: dict[str, Any] = {"optimizer": torch.optim.AdamW, "lr": 1e-5}
    runs.fit(tiny(class_names=data.class_names, **own), data)
    runs.save_checkpoint(tmp_path / "x.ckpt")
    state = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert state["BloodCells"]["fingerprint"] == data.table.fingerprint
    assert torch.equal(state["BloodCells"]["trained_on"], data.image_keys("train"))
    changed = smears_data(smears)
    vars(changed)["table"] = data.table.__class__(data.table.rows, data.table.class_names, 0, "f")
    with pytest.raises(InputError, match="has changed since the run began"):
        trainer(max_epochs=2).fit(
            tiny(class_names=data.class_names, **own), changed, ckpt_path=tmp_path / "x.ckpt"
        )


def test_transforms_are_a_function_of_seed_epoch_and_step(smears: Path) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(0)
        data = smears_data(smears, transforms=[v2.RandomHorizontalFlip(), v2.ColorJitter(0.5)])
        data.seed = seed
        model = tiny(class_names=data.class_names)
        torch.rand(seed)  # what was drawn before does not matter
        trainer().fit(model, data)
        return torch.cat([p.flatten() for p in model.parameters()])

    vars_ = [weights(0), weights(0), weights(1)]
    assert torch.equal(vars_[0], vars_[1])
    assert not torch.equal(vars_[0], vars_[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optimizer": torch.optim.AdamW},
            r"model\.lr=0\.001 .* left at its default \(1e-05\)",
        ),
        (
            {"optimizer": torch.optim.AdamW, "lr": 1e-5, "weight_decay": 0.1},
            r"model\.weight_decay=0\.1 .* set model\.optimizer\.weight_decay",
        ),
        (
            {"scheduler": torch.optim.lr_scheduler.LinearLR, "schedule": "cosine"},
            r"model\.schedule=cosine .* constant if model\.scheduler",
        ),
    ],
)
def test_settings_that_an_own_optimizer_replaces(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(**settings)


def test_checkpoints_of_other_loaders_and_of_weights_only_predict(
    smears: Path, refused: Callable[..., str]
) -> None:
    loader = DataLoader(FakeData(20, (3, 32, 32), 4, v2.PILToTensor()), 8)
    model, runs = tiny(), trainer()
    runs.fit(model, loader, loader)
    foreign = Path("foreign.ckpt")
    runs.save_checkpoint(foreign)
    data = smears_data(smears)
    ours = trainer()
    ours.fit(tiny(class_names=data.class_names), data)
    ours.save_checkpoint("weights.ckpt", weights_only=True)
    image = np.zeros((32, 32, 3), np.uint8)
    said = bloodcell.load("foreign.ckpt").predict(image).probability
    runs_said = model.eval()(torch.zeros(1, 3, 32, 32)).softmax(1).detach()
    np.testing.assert_allclose(said, runs_said, atol=1e-5)
    assert bloodcell.load("weights.ckpt").class_names == data.class_names
    cpu = ["--trainer.accelerator", "cpu"]
    main(["test", "--ckpt_path", "weights.ckpt", *cpu])
    message = refused("test", "--ckpt_path", "foreign.ckpt", *cpu)
    assert "foreign.ckpt does not list the images it was trained on" in message
    assert "Use it with predict" in message
    message = refused("fit", "--ckpt_path", "weights.ckpt", *cpu)
    assert "cannot resume a run: it lacks callbacks, optimizer_states. Give" in message
    with pytest.raises(
        InputError, match=r"foreign\.ckpt contains a model, .* lacks datamodule_hyper"
    ):
        check_complete("", foreign, read_checkpoint("", foreign))


def hand_made(classes: int) -> tuple[Tensor, Tensor]:
    """Returns probabilities (200, 4), mostly right, and labels that only name `classes` classes."""
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(0, classes, (200,), generator=draw)
    logits = torch.randn(200, 4, generator=draw) + 1.5 * F.one_hot(target, 4)
    return logits.softmax(1), target


def scored(probability: Tensor, target: Tensor) -> dict[str, float]:
    """Returns the scores in two batches, each filled up with rows that are not counted."""
    metrics = Metrics(4)
    for rows in (slice(0, 90), slice(90, 200)):
        filled = torch.cat([probability[rows], torch.eye(4)])
        metrics.update_scores(filled, F.pad(target[rows], (0, 4), value=NOT_COUNTED))
    return {name: float(value) for name, value in metrics.scores.compute().items()}


def calibration_error(probability: Tensor, target: Tensor) -> float:
    """Returns the gap between confidence and accuracy in 15 equal bins, weighted by their size."""
    confidence, answer = (one.numpy() for one in probability.max(1))
    right = answer == target.numpy()
    bins = np.ceil(confidence * 15)
    gaps = [(confidence - right)[bins == one].sum() for one in np.unique(bins)]
    return float(np.abs(gaps).sum() / len(right))


def test_scores_equal_those_of_scikit_learn() -> None:
    probability, target = hand_made(4)
    answer = probability.argmax(1)
    found, exact = scored(probability, target), probability.double()
    assert found.keys() == {"balanced_accuracy", "f1", "auroc", "ece"}
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(target, answer))
    assert found["f1"] == pytest.approx(f1_score(target, answer, average="macro"))
    area = roc_auc_score(target, exact / exact.sum(1, keepdim=True), multi_class="ovr")
    assert found["auroc"] == pytest.approx(area, abs=0.01)
    assert found["ece"] == pytest.approx(calibration_error(probability, target), abs=1e-5)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the size of the largest tensor."""

    n = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [one.numel() for one in tree_leaves(result) if isinstance(one, Tensor)]
        self.n = max(self.n, *sizes, 0)
        return result


def test_scores_need_little_memory_where_training_is_deterministic() -> None:
    """There torchmetrics compares each probability and threshold with each entry of a table."""
    probability, target = (one[:20] for one in hand_made(4))
    expected = Metrics(4)
    expected.scores.update(probability, target)
    torch.use_deterministic_algorithms(True)
    try:
        metrics = Metrics(4)
        with Largest() as largest:  # type: ignore[no-untyped-call]
            metrics.scores.update(probability, target)
            found = metrics.scores.compute()
    finally:
        torch.use_deterministic_algorithms(False)
    assert found == expected.scores.compute()
    assert largest.n <= 4 * 4 * 200  # the table of 200 thresholds


def test_a_class_without_images_is_left_out_without_a_warning() -> None:
    """Only F1 counts it, as scikit-learn does, if an image is taken for one of it."""
    probability, target = hand_made(3)
    answer, found = probability.argmax(1), scored(probability, target)
    assert 3 in answer
    recall = recall_score(target, answer, labels=[0, 1, 2], average="macro")
    assert found["balanced_accuracy"] == pytest.approx(recall)
    assert found["f1"] == pytest.approx(f1_score(target, answer, average="macro"))
    areas = [roc_auc_score(target == one, probability[:, one]) for one in range(3)]
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=0.01)
    assert found["ece"] == pytest.approx(calibration_error(probability, target), abs=1e-5)


def test_a_checkpoint_in_the_first_layout_is_still_scored(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first checkpoints hold the state of the data at their top level, and lack settings."""
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    data = state.pop("BloodCells")
    names = {"data_fingerprint": "fingerprint", "data_facts": "facts", "trained_on": "trained_on"}
    assert data.keys() == set(names.values())
    state |= {then: data[now] for then, now in names.items()}
    for key in ("optimizer", "scheduler"):
        del state["hyper_parameters"][key]
    del state["datamodule_hyper_parameters"]["transforms"]
    torch.save(state, "old.ckpt")
    main(["test", "--ckpt_path", str(run), "--trainer.accelerator", "cpu"])
    new = capsys.readouterr().out
    main(["test", "--ckpt_path", "old.ckpt", "--trainer.accelerator", "cpu"])
    old = capsys.readouterr().out
    (scores,) = (line for line in new.splitlines() if line.startswith("test "))
    assert scores in old.splitlines()
    with pytest.raises(SystemExit):  # another division: some of its images were trained on
        main(["test", "--ckpt_path", "old.ckpt", "--seed_everything", "1", "--data.split", "seed"])
    assert "images to be scored were trained on" in capsys.readouterr().err
