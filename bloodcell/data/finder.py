"""A small network that finds white cells and measures the scale of a picture, in any light.

Its input is the optical density relative to the clear slide around each pixel. Its outputs are a
map of the centres of white cells, and the size of red cells in pixels. A picture is seen twice: as
a whole, and around a cell at the scale that the first look measured, at which a red cell is `RED`
pixels wide. All operations exist in ONNX, so exported models contain the same network.

A field of view is relative to the Kaggle set's, in which 6.4 red cells are as long as the longer
side: 2 is twice as wide.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from bloodcell.data.cell import WEIGHTS
from bloodcell.data.illumination import find_density
from bloodcell.data.locate import SHARE
from bloodcell.data.sampling import sample, sample_near

RED = 25.0  # pixels; width of a red cell at the scale at which cells are found, for a field of 1
STRIDE = 4  # pixels of the input for one of the maps
SIDE = 160  # side of each look in pixels, a multiple of 32
_MAP = SIDE // STRIDE
_OVERLAP = 64  # pixels; two looks at neighbouring places share at least these
_EDGE = 10  # steps of the map; results nearer to the edge of a look count less
LEAST_FIELD, MOST_FIELD = 0.2, 16.0
_CHANNELS = (16, 24, 32, 48, 64)
# least height of a peak that is a white cell: in a picture of one cell, and of many
_LEAST, _LEAST_OF_MANY = 0.45, 0.5
_MIDDLE = 0.5  # how much peaks near the middle are preferred to equally high ones


class Seen(NamedTuple):
    """What the network sees.

    Attributes:
        heat: (B, 1, H / 4, W / 4), 0 to 1, high at the centres of white cells.
        scale: (B,), binary logarithm of the width of red cells relative to `RED`.
        scales: (B, H / 4, W / 4), the same as measured around each place.
    """

    heat: Tensor
    scale: Tensor
    scales: Tensor


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Finder(nn.Module):
    """A convolutional encoder and decoder; the receptive field grows from 3 to about 180 pixels."""

    def __init__(self) -> None:
        super().__init__()
        first, *others = _CHANNELS
        self.stem = _layer(4, first, 2)
        pairs = list(zip(_CHANNELS, others, strict=False))
        self.down = nn.ModuleList(nn.Sequential(_layer(a, b, 2), _layer(b, b)) for a, b in pairs)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs[1:])
        self.join = nn.ModuleList(_layer(a, a) for a, _ in pairs[1:])
        self.heat = nn.Conv2d(others[0], 1, 1)
        self.scale = nn.Conv2d(others[0], 2, 1)
        assert self.heat.bias is not None
        nn.init.constant_(self.heat.bias, -4.0)  # few pixels are centres

    def forward(self, density: Tensor) -> Seen:
        """Returns the maps of pictures (B, 4, H, W) from `find_density`; see `Seen`."""
        maps = [self.down[0](self.stem(density))]
        for layer in self.down[1:]:
            maps.append(layer(maps[-1]))
        x = maps.pop()
        for up, join in zip(self.up[::-1], self.join[::-1], strict=True):
            x = join(F.interpolate(up(x), scale_factor=2.0) + maps.pop())
        scales, trust = self.scale(x).unbind(1)
        slide = F.avg_pool2d(density[:, 3], STRIDE)
        weight = (trust + (slide - 1) * 20).flatten(1).softmax(1)  # only where there is a picture
        scale = (weight * scales.flatten(1)).sum(1)
        return Seen(self.heat(x).sigmoid(), scale, scales)

    def locate(self, images: Tensor, centres: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Finds the most prominent white cell of each picture, and measures the field of view.

        Args:
            images: (B, 3, H, W), 0 to 255, float.
            centres: (B, 2), x and y of the cells' centres in pixels; None finds them.

        Returns:
            (B, 2), x and y of the cell's centre in pixels, or the picture's centre if there is no
            white cell; and (B, 1), the field of view.
        """
        height, width = images.shape[2:]
        longer = torch.sym_max(height, width)
        ones = torch.ones_like(images[:, 0, :1, 0])  # (B, 1)
        middle = torch.cat([ones * (width / 2), ones * (height / 2)], 1)
        field, place, high = ones, middle, 0 * ones
        for share in (1.0, 0.5):  # the field is the geometric mean of both looks
            side = cast(Tensor, ones * longer / field)
            part, inside = sample(images, place, side, SIDE, SIDE)
            seen = self(find_density(part, inside))
            field = (field * (-share * seen.scale[:, None]).exp2()).clamp(LEAST_FIELD, MOST_FIELD)
            at, height_of_peak = _highest(seen.heat)
            high = torch.maximum(high, height_of_peak)
            found = place + (at - SIDE / 2) * (side / SIDE)
            place = torch.where(height_of_peak > _LEAST / 3, found, place)
            if centres is not None:
                place, high = centres, ones
        return torch.where(high > _LEAST, place, middle), field

    def cut(
        self, images: Tensor, size: int, centres: Tensor | None = None, margin: int = 0
    ) -> Tensor:
        """Crops a square around the most prominent white cell of each picture.

        The square is as wide as `SHARE` of the longer side of a picture of field 1, so cells of
        equal size look equally large in all squares.

        Args:
            images: (B, 3, H, W), 0 to 255, float.
            size: side of the returned squares in pixels.
            centres: as for `locate`.
            margin: pixels of the same scale that are added on all sides of the squares.

        Returns:
            (B, 3, size + 2 margin, size + 2 margin), whole numbers from 0 to 255, black outside of
            the picture.
        """
        place, field = self.locate(images, centres)
        width = size + 2 * margin
        side = cast(Tensor, SHARE / field * torch.sym_max(*images.shape[2:]) * (width / size))
        square, _ = sample(images, place, side, width, width)
        return square.round()

    def measure_field(self, image: Tensor) -> float:
        """Returns the field of view of one picture (3, H, W), 0 to 255."""
        return float(self.locate(image[None])[1])

    def find(self, image: Tensor, field: float) -> list[tuple[float, float]]:
        """Returns the centres of all white cells of a picture, the most prominent one first.

        Args:
            image: (3, H, W), 0 to 255, float.
            field: the field of view.
        """
        height, width = image.shape[1:]
        step = max(height, width) / (SIDE * field)  # pixels of the picture for one of a look
        tops, lefts = _offsets(height / step), _offsets(width / step)
        corner = torch.tensor([lefts[0], tops[0]])
        total = torch.zeros(2, *((ends[-1] - ends[0] + SIDE) // STRIDE for ends in (tops, lefts)))
        ramp = torch.arange(1, _MAP + 1).clamp(max=_EDGE)
        ramp = torch.minimum(ramp, ramp.flip(0)) / _EDGE
        weight = ramp[:, None] * ramp  # less at the edges of a look, which hide what is around
        for top in tops:
            for left in lefts:
                x, y = (left + SIDE / 2) * step, (top + SIDE / 2) * step
                look = find_density(*sample_near(image, x, y, SIDE * step, SIDE))
                row, column = (top - tops[0]) // STRIDE, (left - lefts[0]) // STRIDE
                part = total[:, row : row + _MAP, column : column + _MAP]
                part += torch.stack([self(look).heat[0, 0] * weight, weight])
        centres = [
            ((torch.tensor(at) * STRIDE + corner) * step).tolist()
            for at in _peaks(total[0] / total[1])
        ]
        return [(x, y) for x, y in centres if 0 <= x <= width and 0 <= y <= height]


def _offsets(length: float) -> list[int]:
    """Returns the first pixels of overlapping looks at a line, multiples of `STRIDE`."""
    if length <= SIDE:
        return [round((length - SIDE) / 2 / STRIDE) * STRIDE]
    count = 1 + math.ceil((length - SIDE) / (SIDE - _OVERLAP))
    return [round(n * (length - SIDE) / (count - 1) / STRIDE) * STRIDE for n in range(count)]


def _highest(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x and y of the best peak in input pixels, (B, 2), and the map's maximum, (B, 1).

    Peaks near the middle are preferred, because pictures of single cells show the cell there.
    """
    size = heat.shape[3]
    line = (torch.arange(size, device=heat.device) + 0.5) / size - 0.5
    far = line[:, None] ** 2 + line**2
    preferred = heat[:, 0] * (-_MIDDLE * far).exp()  # (B, h, w)
    # column and row of the maximum separately, because ONNX cannot divide by the width
    x, y = preferred.amax(1).argmax(1, keepdim=True), preferred.amax(2).argmax(1, keepdim=True)
    steps = torch.arange(size, device=heat.device)
    near = ((steps - x).abs() <= 1).to(heat.dtype)[:, None, :]
    near = near * ((steps - y).abs() <= 1).to(heat.dtype)[:, :, None] * heat[:, 0]
    total = near.sum((1, 2)).clamp(min=1e-6)
    at_x, at_y = (near.sum(1) * (steps + 0.5)).sum(1), (near.sum(2) * (steps + 0.5)).sum(1)
    at = torch.stack([at_x, at_y], 1) / total[:, None] * STRIDE
    return at, heat.amax((2, 3))


def _peaks(heat: Tensor) -> list[tuple[float, float]]:
    """Returns x and y of the peaks of a map (h, w), in steps of the map, highest first."""
    top = F.max_pool2d(heat[None, None], 5, 1, 2)[0, 0]
    places = ((heat == top) & (heat >= _LEAST_OF_MANY)).nonzero()
    order = heat[places[:, 0], places[:, 1]].argsort(descending=True, stable=True)
    kept: list[tuple[float, float]] = []
    for row, column in places[order].tolist():
        around = heat[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        rows = torch.arange(max(0, row - 1), max(0, row - 1) + around.shape[0]) + 0.5
        columns = torch.arange(max(0, column - 1), max(0, column - 1) + around.shape[1]) + 0.5
        y = float((around.sum(1) * rows).sum() / around.sum())
        x = float((around.sum(0) * columns).sum() / around.sum())
        if all(math.dist((x, y), other) > 2 for other in kept):
            kept.append((x, y))
    return kept


@lru_cache(1)
def load_finder() -> Finder:
    """Returns the trained network, with half-precision weights read as float32."""
    finder = Finder()
    state: dict[str, Any] = load_file(WEIGHTS)
    finder.load_state_dict({key: value.float() for key, value in state.items()})
    return finder.eval().requires_grad_(False)
