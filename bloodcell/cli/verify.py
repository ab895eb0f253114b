"""`bloodcell verify RUN`: tests its checkpoint again, and compares with what the run claims."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bloodcell.cli.training import Command
from bloodcell.errors import InputError, require
from bloodcell.evaluate.verified import Check, compare, compare_machines, read_claims
from bloodcell.train.finish import collect_predictions
from bloodcell.train.trainer import device_name

_VERDICT = {True: "ok", False: "FAILED", None: "differs"}


def verify(words: list[str]) -> bool:
    """Verifies a run.

    Args:
        words: the run folder, and any options of `test`.

    Returns:
        Whether all holds.

    Raises:
        InputError: if there is no finished run there.
    """
    if not words or words[0].startswith("-"):
        raise InputError("verify needs a run folder first, e.g. lightning_logs/d8/version_0.")
    folder, *rest = words
    rule = "left out: verify tests the run's best checkpoint"
    require("--ckpt_path" not in [word.partition("=")[0] for word in rest], "--ckpt_path", "", rule)
    claims = read_claims(Path(folder))
    precision = ["--trainer.precision", claims["precision"]]
    checks = Verification(["test", "--ckpt_path", folder, *precision, *rest], claims).checks
    good = all(check.holds is not False for check in checks)
    console = Console()
    for check in checks:
        line = f"  {check.what:<12} {_VERDICT[check.holds]:<8} {check.says}"
        console.print(Text(line), soft_wrap=True)
    says = "is what its checkpoint says" if good else "is NOT what its checkpoint says"
    if good:
        says += "; not verified: how it was trained, its baseline, calibration and learning time"
    console.print(Text(f"{folder} {says}"), soft_wrap=True)
    return good


class Verification(Command):
    """A test that is compared instead of printed.

    Args:
        words: as of `test`.
        claims: the `scores.json` of the run.

    Attributes:
        checks: what was compared; of several processes, the first has them.
    """

    def __init__(self, words: list[str], claims: dict[str, Any]) -> None:
        self.claims = claims
        self.checks: list[Check] = []
        super().__init__(words, "")

    def after_test(self) -> None:
        """Compares."""
        if not self.trainer.is_global_zero:
            return
        folder = Path(self.config_init.test.ckpt_path).parent.parent
        said = collect_predictions(self.model, self.datamodule, "test")
        loss = float(self.trainer.callback_metrics["test/loss"])
        found = self.datamodule.table.fingerprint
        self.checks = [
            *compare(folder, self.claims, said, loss, found),
            *compare_machines(self.claims, device_name(self.trainer.strategy.root_device)),
        ]
