from pathlib import Path

from bloodcell.evaluate.history import FILE_NAME, Epoch, read_history
from bloodcell.train.callbacks import History


def line(epoch: int, loss: float) -> Epoch:
    return Epoch(epoch, loss, 0.5, loss, 0.5, 1e-3, 10.0, 1.0)


def test_a_resumed_history_goes_on_below_the_epochs_it_keeps(tmp_path: Path) -> None:
    history = History()
    for epoch in (line(0, 3.0), line(1, 2.0), line(2, 1.5), line(1, 1.9)):
        history._write(tmp_path / FILE_NAME, epoch)
    assert read_history(tmp_path / FILE_NAME) == [line(0, 3.0), line(1, 1.9)]
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
