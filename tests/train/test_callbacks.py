from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from bloodcell.report.history import FILE_NAME, Epoch, read_history
from bloodcell.train.callbacks import History, HowToGoOn


def line(epoch: int, loss: float) -> Epoch:
    return Epoch(epoch, loss, 0.5, loss, 0.5, 1e-3, 10.0, 1.0)


def test_a_resumed_history_goes_on_below_the_epochs_it_keeps(tmp_path: Path) -> None:
    history = History()
    for epoch in (line(0, 3.0), line(1, 2.0), line(2, 1.5), line(1, 1.9)):
        history._write(tmp_path / FILE_NAME, epoch)
    assert read_history(tmp_path / FILE_NAME) == [line(0, 3.0), line(1, 1.9)]
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("saved", [True, False])
def test_a_stopped_run_says_how_to_go_on(
    saved: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = TensorBoardLogger(str(tmp_path), "d8", 0)
    trainer = SimpleNamespace(logger=logger, current_epoch=3, testing=False)
    if saved:
        (tmp_path / "d8" / "version_0" / "checkpoints").mkdir(parents=True)
        (tmp_path / "d8" / "version_0" / "checkpoints" / "last.ckpt").touch()
    HowToGoOn().on_exception(trainer, None, KeyboardInterrupt())  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert ("epoch 4. To go on:\n" in said) == saved
    assert ("bloodcell fit --ckpt_path d8/version_0\n" in said) == saved
    assert ("nothing to resume" in said) != saved
