import re

import pytest

from bloodcell.cli.main import main


def test_a_run_says_how_long_it_will_take(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """3 epochs of 22 batches, and of 6 for validation, which count a third."""
    ticks = iter(range(10**6))

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            return float(next(ticks) * 40)  # asked twice: 10 batches in 40 s

    monkeypatch.setattr("bloodcell.train.forecast.time", Clock)
    monkeypatch.setattr("bloodcell.train.forecast._TIMED", 10)
    words += ["--data.batch_size", "2", "--trainer.max_epochs", "3", "--trainer.logger", "false"]
    main(["fit", *words])
    left = 22 * 3 - 15
    seconds = round(4 * (left + 6 / 3 * left / 22))
    said = re.search(r"about (\d+):(\d+):(\d+) left, 4,000 ms per batch", capsys.readouterr().out)
    assert said
    assert int(said[1]) * 3600 + int(said[2]) * 60 + int(said[3]) == seconds
