"""The learning rate at each step: a function of the step alone."""

import math
from typing import Literal

Schedule = Literal["constant", "cosine"]
FULL_RATE = "full_rate"  # in the optimizer's groups: what a schedule takes a share of
_WARM_UP = 0.1  # of all steps


def rate_share(step: int, steps: float) -> float:
    """The share of the full learning rate at a step: up in a line, down along a cosine.

    As in Loshchilov and Hutter, "SGDR" (ICLR 2017), without restarts.

    Args:
        step: from 0.
        steps: of the whole run.
    """
    done = step / steps
    return min(1.0, (step + 1) / (_WARM_UP * steps)) * (1 + math.cos(math.pi * done)) / 2
