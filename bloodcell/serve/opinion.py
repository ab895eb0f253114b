"""Explains predictions with heat maps and similar training photographs."""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bloodcell.data.crop import Pixels, show
from bloodcell.data.decode import MOST_PIXELS, note_of, open_rgb
from bloodcell.data.image_files import READ_ERRORS
from bloodcell.errors import reason
from bloodcell.infer.heat import find_heat
from bloodcell.infer.saved import Saved
from bloodcell.memory import is_full
from bloodcell.model.gallery import Gallery

_NEAREST = 3  # number of shown training photographs
_SIDE = 260  # longer side of shown pictures in pixels


class Neighbour(NamedTuple):
    """A training photograph.

    Attributes:
        file: path within the data set.
        class_name: class of the photograph.
        distance: cosine distance of the features, 0 to 2.
    """

    file: str
    class_name: str
    distance: float


class Likeness(NamedTuple):
    """Similarity of an image to the training photographs.

    Attributes:
        distance: distance from all training images, as `Gallery.distance` returns it.
        threshold: largest distance of a familiar image.
        false_alarms: share of the test images beyond the threshold, 0 to 1.
        nearest: the nearest photographs of the predicted class, in order of distance.
    """

    distance: float
    threshold: float
    false_alarms: float
    nearest: list[Neighbour]

    @property
    def unfamiliar(self) -> bool:
        """Whether the distance from all training images exceeds the threshold."""
        return self.distance > self.threshold


class Opinion(NamedTuple):
    """The explained prediction for an image; if it is unreadable, only `name` and `error` are set.

    Attributes:
        name: file name.
        error: reason why the image cannot be read; empty otherwise.
        picture: small copy for the page.
        seen: small copy of the model's crop.
        heat: (size, size), 0 to 1, evidence of each pixel for the class.
        pixels: (size, size, 3), input of the network.
        probability: probability of each class, in descending order.
        likeness: None if the model has no gallery of training photographs.
        note: how the image was changed when it was read, e.g. scaled; empty if it was not.
    """

    name: str
    error: str = ""
    picture: Image.Image | None = None
    seen: Image.Image | None = None
    heat: NDArray[np.float32] | None = None
    pixels: Pixels | None = None
    probability: dict[str, float] | None = None
    likeness: Likeness | None = None
    note: str = ""


class Adviser:
    """Explains predictions; thread-safe, one batch at a time.

    Args:
        saved: the model.
        most_pixels: largest number of pixels of an accepted image.
    """

    def __init__(self, saved: Saved, most_pixels: int = MOST_PIXELS) -> None:
        self.saved = saved
        self._most_pixels = most_pixels
        self._working = threading.Lock()

    def look(self, images: Sequence[tuple[str, bytes]]) -> list[Opinion]:
        """Returns an opinion for each image.

        Args:
            images: name and content of each file.

        Raises:
            MemoryError: if memory runs out; the message says what to do.
        """
        try:
            return self._look(images)
        except (MemoryError, RuntimeError) as error:
            if not is_full(error):
                raise
            raise MemoryError(
                f"memory ran out for {len(images)} images: send fewer at a time, or close other "
                "programs on the server."
            ) from error

    def _look(self, images: Sequence[tuple[str, bytes]]) -> list[Opinion]:
        with self._working:  # limits the memory to that of one request
            opinions = [self._read(name, data) for name, data in images]
            readable = [opinion.pixels for opinion in opinions if opinion.pixels is not None]
            if not readable:
                return opinions
            found = find_heat(self.saved, np.stack(readable))
        results = iter(zip(*found, strict=True))
        return [
            opinion if opinion.pixels is None else self._judge(opinion, *next(results))
            for opinion in opinions
        ]

    def _read(self, name: str, data: bytes) -> Opinion:
        try:
            if not data:
                return Opinion(name, "empty file")
            picture = open_rgb(data, self._most_pixels)
        except READ_ERRORS as error:
            return Opinion(name, reason(error))
        input_format = self.saved.description.input_format
        pixels = show(picture, input_format)
        picture.thumbnail((_SIDE, _SIDE))  # only one large image is in memory at a time
        seen = picture if input_format.crop == "none" else Image.fromarray(pixels)
        return Opinion(name, picture=picture, seen=seen, pixels=pixels, note=note_of(picture))

    def _judge(
        self,
        opinion: Opinion,
        heat: NDArray[np.float32],
        probability: NDArray[np.float32],
        features: Tensor,
    ) -> Opinion:
        names = self.saved.description.class_names
        order = probability.argsort()[::-1].tolist()
        likeness = None
        if self.saved.gallery:
            likeness = _compare(self.saved.gallery, features, order[0], names)
        by_class = {names[label]: float(probability[label]) for label in order}
        return opinion._replace(heat=heat, probability=by_class, likeness=likeness)


def _compare(gallery: Gallery, features: Tensor, label: int, names: Sequence[str]) -> Likeness:
    distances = gallery.to_photographs(features[None])[0]
    same = (gallery.labels == label).nonzero()[:, 0]
    nearest = same[distances[same].argsort()[:_NEAREST]].tolist()
    return Likeness(
        float(gallery.distance(features[None])),
        gallery.threshold,
        gallery.false_alarms,
        [
            Neighbour(gallery.files[n], names[int(gallery.labels[n])], float(distances[n]))
            for n in nearest
        ],
    )
