"""The bundled model: trained on the Kaggle set, shipped with bloodcell."""

from pathlib import Path

from bloodcell.errors import InputError

FOLDER = Path(__file__).parent.parent / "bundled"
FILE_NAME = "bloodcell.safetensors"


def find_bundled() -> Path:
    """Returns the file of the bundled model.

    Raises:
        InputError: if the installation lacks the file.
    """
    path = FOLDER / FILE_NAME
    if not path.is_file():
        raise InputError(
            f"the bundled model is missing ({path}). Install bloodcell again, or give --model a "
            "run folder and model.weights a file."
        )
    return path
