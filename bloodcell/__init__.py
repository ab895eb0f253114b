"""Fine-tunes a MobileNet on photographs of blood cells, and scores it by photograph.

model = bloodcell.load()                # the bundled model; or a run folder
said = model.predict("my_images")       # paths or arrays; a row an image
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bloodcell.infer.loaded import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

# nobody is told of anything; they read it as they are imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime, from 1.29 on
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """Imports what is heavy when it is asked for: `import bloodcell` takes no time."""
    if name == "load":
        from bloodcell.infer.loaded import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
