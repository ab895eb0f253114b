"""The model that is shipped with bloodcell, trained on the Kaggle, PBC and Chula sets."""

from pathlib import Path

from bloodcell.errors import InputError

FOLDER = Path(__file__).parent.parent / "bundled"
FILE_NAME = "bloodcell.safetensors"


def find_bundled() -> Path:
    """Returns the path of the bundled model.

    Raises:
        InputError: if the file is missing from the installation.
    """
    path = FOLDER / FILE_NAME
    if not path.is_file():
        raise InputError(
            f"the bundled model is missing ({path}). Install bloodcell again, or use another "
            "model: a run folder for --model, or a file for model.weights."
        )
    return path
