# /// script
# requires-python = ">=3.11"
# dependencies = ["keras>=3", "tensorflow-cpu"]
# ///
"""The d8 training step as published: Keras MobileNet, Flatten, Dense(8), Dropout, on TensorFlow."""

import os
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import tensorflow as tf
from clock import Clock, read_arguments


class Steps(keras.callbacks.Callback):
    def __init__(self, batch: int, seconds: float) -> None:
        super().__init__()
        self.batch = batch
        self.clock = Clock(seconds, time.perf_counter, tensorflow=tf.__version__)

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.clock.step(self.batch)


def main() -> None:
    given = read_arguments(__doc__)
    if given.bfloat16:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
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
            keras.layers.Dense(classes, activation="softmax", dtype="float32"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-5),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=given.compiled,
    )
    model.fit(images, epochs=1000, verbose=0, callbacks=[Steps(given.batch, given.seconds)])


if __name__ == "__main__":
    main()
