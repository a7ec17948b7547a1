"""Images from files, as a model takes them. TensorFlow decodes and resizes them, so no other package is needed."""

import dataclasses
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.datasets.streams import Unreadable, reason
from revgraph.graph import Graph
from revgraph.graph.callers import outside
from revgraph.graph.types import PathLike

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
"""Endings of the names of image files."""


@dataclasses.dataclass
class Images:
    """Reads images for a model.

    Args:
        channels: 1 for gray, 3 for RGB, 4 for RGBA.
        shape: (height, width) of the model's input; None for a side of any length.
        size: (width, height) to which images are resized. By default images of the size of the model's input are not
            resized. If all have one other size, they are resized with a warning.
        preprocess: Function from float32 images (batch, height, width, channels) between 0 and 255 to the model's
            input.

    Raises:
        ValueError: The model does not take images of that size.
    """

    channels: int
    shape: tuple[int | None, int | None]
    size: tuple[int, int] | None = None
    preprocess: Callable[[np.ndarray], Any] | None = None

    def __post_init__(self):
        self._first: tuple[tuple[int, ...], str] | None = None
        if self.size is not None and not self._fits((self.size[1], self.size[0])):
            height, width = self.shape
            raise ValueError(
                f"The model takes images of {_any(width)}x{_any(height)}. Received the size {_sides(self.size[::-1])}."
            )

    @classmethod
    def of(
        cls,
        graph: Graph,
        size: tuple[int, int] | None = None,
        preprocess: Callable[[np.ndarray], Any] | None = None,
    ) -> "Images":
        """A reader for a model with one input of shape (batch, height, width, channels).

        Args:
            graph: The graph of the model.
            size, preprocess: See `Images`.

        Raises:
            ValueError: The model has other inputs.
        """
        slot, *others = graph.input_slots
        shape = graph.specs[slot].shape
        if others or len(shape) != 4 or shape[3] not in (None, 1, 3, 4):
            received = ", ".join(str(graph.specs[s].shape) for s in graph.input_slots)
            raise ValueError(
                f"Images are for models with one input of shape (batch, height, width, 1, 3 or 4). {graph.name!r} "
                f"takes {received}: hand in arrays, as .npy or .npz."
            )
        return cls(shape[3] or 3, (shape[1], shape[2]), size, preprocess)

    def read(self, path: PathLike) -> np.ndarray:
        """The image in a file, resized: float32 (height, width, channels) between 0 and 255.

        Raises:
            Unreadable: The file cannot be read, or is no image.
            ValueError: The image has another size than the first one, and no size is given.
        """
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise Unreadable(f"{os.fspath(path)}: {error.strerror}") from error
        return self.decode(data, os.fspath(path))

    def decode(self, data: bytes, name: str) -> np.ndarray:
        """The image in the content of a file; see `read`. `name` names the file in errors."""
        try:
            image = tf.io.decode_image(data, self.channels, expand_animations=False).numpy()
        except tf.errors.OpError as error:
            raise Unreadable(f"{name} cannot be read as an image: {reason(error)}") from error
        return self._resized(image, name)

    def prepared(self, image: np.ndarray) -> np.ndarray:
        """The model's input for an image that `read` returned."""
        return image if self.preprocess is None else np.asarray(self.preprocess(image[None].copy()))[0]

    def _resized(self, image, name):
        found = image.shape[:2]
        if self.size is None:
            wanted = self._agreed(found, name)
        else:
            wanted = (self.size[1], self.size[0])
        if wanted == found:
            return image.astype(np.float32)
        return tf.image.resize(image, wanted, antialias=True).numpy()

    def _agreed(self, found, name):
        """The size to which images are resized if no size is given. All must have the size of the first."""
        if self._first is None:
            self._first = found, name
            if not self._fits(found):
                warnings.warn(
                    f"Images of {_sides(found)} are resized to {_sides(self._fixed(found))}.", stacklevel=outside()
                )
        if found != self._first[0]:
            raise ValueError(
                f"The images have several sizes: {self._first[1]} has {_sides(self._first[0])} and {name} has "
                f"{_sides(found)}. Pass the one to resize them to, such as size={self._fixed(found)[::-1]}."
            )
        return self._fixed(found)

    def _fits(self, found):
        return self._fixed(found) == tuple(found)

    def _fixed(self, found):
        return tuple(fixed or side for fixed, side in zip(self.shape, found, strict=True))


def _sides(shape):
    height, width = shape
    return f"{width}x{height}"


def _any(side):
    return "any" if side is None else side
