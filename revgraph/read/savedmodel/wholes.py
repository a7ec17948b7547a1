"""Wholes: calls of layers that become one site, in the place of the TensorFlow operations that they made."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from revgraph.graph.graph import Site, Spec
from revgraph.graph.operations import Activation, Affine, Contraction, Operation, Product, Quotient, Routing, Scale
from revgraph.graph.scaling import broadcast_to, broadcasts
from revgraph.read.savedmodel.weights import Value, Weight

if TYPE_CHECKING:
    from revgraph.read.savedmodel.builder import Builder


@dataclasses.dataclass(frozen=True, eq=False)
class Whole:
    """A call of a layer that becomes one site.

    Args:
        path: The path of the site.
        operation: The operation of the layer.
        inputs: The tensors that it takes, in TensorFlow's graph.
        outputs: The tensors that it returns, in TensorFlow's graph.
        layer: The layer.
    """

    path: str
    operation: Operation
    inputs: tuple[tf.Tensor, ...]
    outputs: tuple[tf.Tensor, ...]
    layer: Any


def add_whole(builder: "Builder", whole: Whole, given: Sequence[Value]) -> tuple[int, ...]:
    """Adds the site of a whole to a builder.

    Where the operation needs floating numbers, a site in front of it casts integers. Where constants of the layer
    broadcast its input to a larger shape, a site in front of it broadcasts the input.

    Args:
        builder: The builder.
        whole: The call of a layer.
        given: The value for each of its inputs.

    Returns:
        The slots of its outputs.
    """
    slots = [builder.constant(a) if isinstance(a, Weight) else a for a in given]
    if isinstance(whole.operation, Affine | Product | Quotient | Contraction | Activation):
        slots = [_floating(builder, slot, whole) for slot in slots]
    if isinstance(whole.operation, Scale | Activation):
        slots = _as_large(builder, slots, whole)
    written = tuple(builder.new_slot(Spec(tuple(t.shape), t.dtype.name)) for t in whole.outputs)
    builder.sites.append(Site(whole.path, whole.operation, tuple(slots), written, whole.layer))
    return written


def _floating(builder, slot, whole):
    """The slot, or a slot with the same numbers in a floating dtype where it has integers."""
    spec = builder.specs[slot]
    if tf.as_dtype(spec.dtype).is_floating:
        return slot
    dtype = builder.dtype
    return _moved(builder, slot, whole, "Cast", lambda x: tf.cast(x, dtype), Spec(spec.shape, dtype))


def _as_large(builder, slots, whole):
    """The slots, or a slot with the tensor broadcast to the shape of the output where it is smaller."""
    (slot,), shape = slots, tuple(whole.outputs[0].shape)
    spec = builder.specs[slot]
    if not broadcasts(spec.shape, shape):
        return slots
    return [_moved(builder, slot, whole, "BroadcastTo", broadcast_to(shape), Spec(shape, spec.dtype))]


def _moved(builder, slot, whole, name, function, spec):
    made = builder.new_slot(spec)
    routing = Routing(function, name, copies=True, fixed=True, keeps_sign=True)
    builder.sites.append(Site(f"{whole.path}/{name.lower()}", routing, (slot,), (made,), whole.layer))
    return made
