"""The results of the seven published experiments, from their table.

Keras MobileNet with ImageNet weights, Flatten, dense layers, dropout 0.5, Adam; files at random.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """A row of the published table.

    Attributes:
        name: name of the shipped config.
        hidden: widths of the dense layers.
        lr: learning rate.
        train: loss and accuracy by file.
        val: the same on the validation part.
        test: the same on the test part.
        seconds: learning time.
    """

    name: str
    hidden: tuple[int, ...]
    lr: float
    train: tuple[float, float]
    val: tuple[float, float]
    test: tuple[float, float]
    seconds: int


PUBLISHED = (  # in the order of the published graphs, 1.png to 7.png
    Published("d8", (8,), 1e-5, (0.3532, 0.8056), (0.0372, 0.9950), (0.0428, 0.9920), 1239),
    Published("d16", (16,), 1e-5, (0.0974, 0.9550), (0.0225, 0.9920), (0.0230, 0.9904), 1172),
    Published("d32", (32,), 1e-5, (0.0205, 0.9948), (0.0174, 0.9960), (0.0278, 0.9900), 1248),
    Published("d8_d8", (8, 8), 1e-5, (1.0668, 0.5576), (0.8729, 0.7760), (0.8782, 0.7804), 1251),
    # the validation loss does not match its accuracy: probably a misprint
    Published(
        "d8_d8_d8", (8, 8, 8), 1e-5, (1.3084, 0.3528), (0.2070, 0.4835), (1.1995, 0.4764), 1192
    ),
    Published("d8_lr5e-5", (8,), 5e-5, (0.3148, 0.8298), (0.0276, 0.9960), (0.0492, 0.9936), 1531),
    Published("d8_lr1e-4", (8,), 1e-4, (0.2533, 0.8445), (0.0672, 0.9845), (0.0721, 0.9836), 739),
)


def find_published(name: str) -> Published | None:
    """Returns the published row of an experiment, for any split.

    Args:
        name: name of the experiment: that of a shipped config, alone or followed by `-` and more.
    """
    return next((row for row in PUBLISHED if f"{name}-".startswith(f"{row.name}-")), None)
