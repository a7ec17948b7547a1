"""The bounds of the model's input, carried to the layer that needs them."""

from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.graph.analysis import is_padding, shifts
from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import ChannelDiagonalConv, Operation, Routing, Scale, ZeroPad
from revgraph.graph.types import Bounds


class CarriedBounds:
    """The bounds of a slot, computed from those of the input.

    Bounds can be carried through scale and shift, averages, and operations that move entries. Padding and masks add
    zero to what lies between the bounds. Weights are read at each call, so the bounds follow weights that are assigned
    later.

    Args:
        graph: The graph.
        slot: The slot whose bounds are wanted.
        low, high: Bounds of the input: numbers, or arrays that broadcast against a sample, such as one value per
            channel.

    Raises:
        ValueError: Another operation stands between the input and the slot.
    """

    def __init__(self, graph: Graph, slot: int, low: Any, high: Any) -> None:
        self.sites: list[Site] = []
        self.declared = low, high
        producers = graph.producers()
        while slot in producers:
            site = producers[slot]
            if not shifts(site, producers) and (len(site.inputs) != 1 or not _carries_bounds(site.operation)):
                raise ValueError(
                    f"The bounds of the input cannot be carried through {site.path!r} ({site.operation.label}). Give "
                    f"those of the layer itself, as ZBox(low, high)."
                )
            self.sites.insert(0, site)
            slot = site.inputs[0]
        self.graph, self._producers = graph, producers
        self.rank = len(graph.specs[slot].shape)

    def __call__(self, dtype: str | tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        """(low, high) as tensors that broadcast against the slot."""
        low, high = (self._with_batch_axis(tf.cast(b, dtype)) for b in self.declared)
        for site in self.sites:
            low, high = self._through(site, low, high)
        return low, high

    def _with_batch_axis(self, bound):
        return tf.reshape(bound, (1,) * (self.rank - bound.shape.rank) + tuple(bound.shape))

    def _through(self, site, low, high):
        operation = site.operation
        if isinstance(operation, Routing):
            uniform = all(n == 1 for bound in (low, high) for n in bound.shape[:-1])
            if is_padding(operation) and (uniform or not isinstance(operation, ZeroPad)):
                return tf.minimum(low, tf.zeros_like(low)), tf.maximum(high, tf.zeros_like(high))
            shape = [n or 1 for n in self.graph.specs[site.inputs[0]].shape]
            low, high = (tf.broadcast_to(bound, (1, *shape[1:])) for bound in (low, high))
        weights = operation.read(low.dtype)
        tables = [self._producers[slot].operation.read(low.dtype)["table"] for slot in site.inputs[1:]]
        (a, *_), (b, *_) = operation((low, *tables), weights), operation((high, *tables), weights)
        return tf.minimum(a, b), tf.maximum(a, b)


def _carries_bounds(operation: Operation) -> bool:
    """Whether an operation maps the bounds of its input to the bounds of its output.

    This holds where larger inputs give larger outputs, and where every entry is scaled and shifted apart.
    """
    if isinstance(operation, Routing):
        increasing = operation.fixed and (operation.copies or operation.keeps_sign)
        return increasing or is_padding(operation) or (operation.copies and not operation.fills)
    return isinstance(operation, Scale | ChannelDiagonalConv)


def checked_bounds(bounds: Any) -> Bounds:
    """The bounds that a user declared for the input, checked.

    Raises:
        ValueError: They are not a pair (low, high) with low <= high.
    """
    if not isinstance(bounds, tuple | list) or len(bounds) != 2 or not are_bounds(*bounds):
        raise ValueError(f"input_bounds is a pair (low, high) of numbers with low <= high. Received: {bounds!r}.")
    low, high = bounds
    return low, high


def are_bounds(low: Any, high: Any) -> bool:
    """Whether both are finite numbers, or arrays of them, and low <= high everywhere."""
    low, high = np.asarray(low), np.asarray(high)
    numbers = all(bound.dtype.kind in "fiu" and np.all(np.isfinite(bound)) for bound in (low, high))
    return numbers and bool(np.all(low <= high))
