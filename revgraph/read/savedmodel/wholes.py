"""Operations that are one site: the calls of layers that have a view."""

import dataclasses
from typing import Any

import tensorflow as tf

from revgraph.graph.graph import Site, Spec
from revgraph.graph.operations import Activation, Affine, Contraction, Operation, Product, Quotient, Routing, Scale
from revgraph.graph.scaling import broadcast_to, broadcasts
from revgraph.read.savedmodel.weights import Weight


@dataclasses.dataclass(frozen=True, eq=False)
class Whole:
    """Operations that are one site, such as a call of a layer.

    Args:
        path: Where it stands.
        operation: What they compute.
        inputs: The tensors that it takes.
        outputs: The tensors that it gives.
        layer: The layer.
    """

    path: str
    operation: Operation
    inputs: tuple
    outputs: tuple
    layer: Any


def add_whole(builder, whole, given) -> tuple[int, ...]:
    """Adds the site of a whole to a builder, and returns the slots of its outputs.

    Sites in front of it make floating numbers of integers, and a signal as large as the constants that it meets.
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
    """The slot, or that of its tensor as floating numbers where it has integers."""
    spec = builder.specs[slot]
    if tf.as_dtype(spec.dtype).is_floating:
        return slot
    dtype = builder.dtype
    return _moved(builder, slot, whole, "Cast", lambda x: tf.cast(x, dtype), Spec(spec.shape, dtype))


def _as_large(builder, slots, whole):
    """The slots, or that of the tensor broadcast to the shape of the output where it is smaller."""
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
