# /// script
# requires-python = ">=3.11"
# dependencies = ["keras>=3", "tensorflow-cpu"]
# ///
"""The d8 training step as published: Keras MobileNet, Flatten, Dense(8), Dropout, on TensorFlow."""

import argparse
import json
import os
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import tensorflow as tf

WARM_UP = 8  # steps


class Clock(keras.callbacks.Callback):
    def __init__(self, batch: int, seconds: float) -> None:
        super().__init__()
        self.batch, self.seconds = batch, seconds
        self.steps = 0

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.steps += 1
        if self.steps == WARM_UP:
            self.start = time.perf_counter()
        elif self.steps > WARM_UP and time.perf_counter() - self.start > self.seconds:
            images = self.batch * (self.steps - WARM_UP)
            speed = images / (time.perf_counter() - self.start)
            print(
                "\n" + json.dumps({"tensorflow": tf.__version__, "images_per_second": speed}),
                flush=True,
            )
            os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    side = (given.size, given.size)
    images = keras.utils.image_dataset_from_directory(
        given.root, image_size=side, batch_size=None, label_mode="categorical"
    )
    classes = len(images.class_names)
    images = images.batch(given.batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    trunk = keras.applications.MobileNet(input_shape=(*side, 3), include_top=False, weights=None)
    model = keras.Sequential(
        [
            keras.Input((*side, 3)),
            keras.layers.Rescaling(1 / 127.5, offset=-1),
            trunk,
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-5),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(images, epochs=1000, verbose=0, callbacks=[Clock(given.batch, given.seconds)])


if __name__ == "__main__":
    main()
