import csv
import signal
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule, Trainer

from bloodcell.cli.main import main
from bloodcell.train.finite import Finite
from bloodcell.train.optimizers import rate_share


def test_up_in_a_line_and_down_to_nothing() -> None:
    shares = [rate_share(step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.1, abs=0.001)
    assert max(shares) == shares[9]
    assert shares[9:] == sorted(shares[9:], reverse=True)
    assert shares[-1] < 0.001


def test_a_run_that_goes_on_learns_at_the_same_rate(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words += ["--model.schedule", "cosine", "--model.lr", "1e-3", "--trainer.max_epochs", "3"]
    main(["fit", *words, "--name", "whole"])
    with monkeypatch.context() as stopping:
        started = Finite.on_train_epoch_start

        def start(self: Finite, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                signal.raise_signal(signal.SIGTERM)
            started(self, trainer, pl_module)

        stopping.setattr(Finite, "on_train_epoch_start", start)
        with pytest.raises(SystemExit):
            main(["fit", *words, "--name", "parts"])
    main(["fit", "--ckpt_path", "lightning_logs/parts/version_0"])

    def rows(name: str) -> list[dict[str, str]]:
        with Path(f"lightning_logs/{name}/version_0/metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    for one, other in zip(rows("whole"), rows("parts"), strict=True):
        assert float(one["lr"]) < 1e-3
        for key in ("lr", "train_loss", "val_loss"):
            assert one[key] == other[key]
