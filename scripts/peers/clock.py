"""Arguments of the other programs, and the clock that ends them."""

import argparse
import json
import os
import time
from collections.abc import Callable

WARM_UP = 8  # steps


def read_arguments(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--root", required=True, help="a folder of class folders")
    parser.add_argument("--size", type=int, required=True, help="pixels")
    parser.add_argument("--batch", type=int, required=True, help="images per step")
    parser.add_argument("--seconds", type=float, required=True, help="how long to measure")
    parser.add_argument("--compiled", action="store_true", help="compiles the step")
    parser.add_argument("--bfloat16", action="store_true", help="in mixed precision")
    return parser.parse_args()


class Clock:
    """Counts images after the first steps, and ends the program after a given time.

    Batches that are ready when it starts do not distort the speed: decoding is faster than training
    here, so as many batches are ready when it ends.
    """

    def __init__(self, seconds: float, now: Callable[[], float], **versions: str) -> None:
        self.seconds, self.now, self.versions = seconds, now, versions
        self.steps = self.images = 0

    def step(self, images: int) -> None:
        self.steps += 1
        if self.steps == WARM_UP:
            self.start = self.now()
        if self.steps <= WARM_UP:
            return
        self.images += images
        if time.perf_counter() - self.start > self.seconds:
            speed = self.images / (self.now() - self.start)
            print("\n" + json.dumps(self.versions | {"images_per_second": speed}), flush=True)
            os._exit(0)
