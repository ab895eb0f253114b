"""Fine-tunes a MobileNet on photographs of blood cells, and scores it by photograph.

model = bloodcell.load()                # the bundled model; or a run folder
answers = model.predict("my_images")    # paths or arrays; one row per image
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bloodcell.data.datamodule import BloodCells
    from bloodcell.infer.loaded import load
    from bloodcell.train.task import Classifier

__version__ = "0.1.0"
__all__ = ["BloodCells", "Classifier", "__version__", "load"]
_HOMES = {"BloodCells": "data.datamodule", "Classifier": "train.task", "load": "infer.loaded"}

# these libraries read the variables when they are imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime, from 1.29 on
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """Imports heavy modules on first access, so that `import bloodcell` is fast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
