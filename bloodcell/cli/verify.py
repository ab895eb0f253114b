"""`bloodcell verify RUN`: tests its checkpoint again, and compares the results with its files."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bloodcell.cli.configs import Request
from bloodcell.cli.lightning_errors import lightning_errors
from bloodcell.cli.training import BloodcellCLI
from bloodcell.evaluate.verified import Check, compare, compare_machines, read_claims
from bloodcell.train.finish import collect_predictions
from bloodcell.train.trainer import device_name

_VERDICT = {True: "ok", False: "FAILED", None: "differs"}


def verify(folder: Path, request: Request) -> bool:
    """Verifies a run.

    Args:
        folder: the run folder.
        request: the options of the test.

    Returns:
        Whether its files match its checkpoint.

    Raises:
        InputError: if there is no finished run in the folder.
    """
    claims = read_claims(folder)
    words = ["--trainer.precision", claims["precision"], *request.words]
    with lightning_errors("verify"):
        cli = Verification(request._replace(words=words, ckpt_path=str(folder)), claims)
        cli.execute()
    if not cli.trainer.is_global_zero:
        return True  # the first process compares and tells
    good = all(check.passed is not False for check in cli.checks)
    console = Console()
    for check in cli.checks:
        line = f"  {check.what:<12} {_VERDICT[check.passed]:<8} {check.detail}"
        console.print(Text(line), soft_wrap=True)
    verdict = "matches its checkpoint" if good else "does NOT match its checkpoint"
    if good:
        verdict += "; not verified: how it was trained, its baseline, calibration and learning time"
    console.print(Text(f"{folder} {verdict}"), soft_wrap=True)
    return good


class Verification(BloodcellCLI):
    """A test whose results are compared instead of printed.

    Args:
        request: the options of the test.
        claims: the `scores.json` of the run.

    Attributes:
        checks: the comparisons; empty except in the first process.
    """

    def __init__(self, request: Request, claims: dict[str, Any]) -> None:
        self.claims = claims
        self.checks: list[Check] = []
        super().__init__(request)

    def report(self) -> None:
        """Compares the new results with the files of the run."""
        if not self.trainer.is_global_zero or self.path is None:
            return
        predictions = collect_predictions(self.model, self.datamodule, "test")
        loss = float(self.trainer.callback_metrics["test/loss"])
        fingerprint = self.datamodule.table.fingerprint
        device = device_name(self.trainer.strategy.root_device)
        self.checks = [
            *compare(self.path.parent.parent, self.claims, predictions, loss, fingerprint),
            *compare_machines(self.claims, device),
        ]
