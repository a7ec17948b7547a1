"""Lists of tensors, which loops read and write, are read as tensors that are stacked along a first axis.

While a graph is read, a list is a third kind of value, besides slots and weights. An operation without a view for lists
is given a list of TensorFlow, which `whole` makes. Passes then join it with the sites with which it exchanges lists.
"""

import dataclasses
from typing import TYPE_CHECKING

import tensorflow as tf

from revgraph.graph.graph import Spec
from revgraph.graph.loops import Element, as_list, element, place
from revgraph.graph.operations import Routing
from revgraph.read.savedmodel.moves import is_nonnegative
from revgraph.read.savedmodel.nodes import Node, TensorFlowOperation
from revgraph.read.savedmodel.weights import Value, Weight, in_dtype

if TYPE_CHECKING:
    from revgraph.read.savedmodel.builder import Builder


class ReadError(Exception):
    """A loop reads a list that it writes.

    Args:
        writing: The list.
    """

    def __init__(self, writing: "Writing") -> None:
        super().__init__("A loop reads a list that it writes.")
        self.writing = writing


@dataclasses.dataclass(frozen=True, eq=False)
class Stacked:
    """A list whose elements are stacked in one tensor, along the first axis.

    Args:
        tensor: The slot of the tensor, or a weight.
        inside: Whether a loop reads the list. Inside of the loop the value in the slot is a list of TensorFlow.
    """

    tensor: int | Weight
    inside: bool = False

    def whole(self, reader: "Builder", node: Node) -> int:
        """Adds a site that makes it a list of TensorFlow, for a node that reads it. Returns the slot."""
        operation, path = TensorFlowOperation(node.operation, as_list), f"{node.path}/list"
        return reader.site(node, operation, (reader.as_slot(self.tensor),), path=path, spec=Spec((), "variant"))[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Reserved:
    """A list of a given size, without elements yet.

    Args:
        node: The node that reserves it.
    """

    node: Node

    @property
    def size(self) -> int | Weight:
        """The number of elements: a slot or a weight."""
        return self.node.arguments[1]

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """The shape of an element, with None for unknown sizes; None where the number of axes is not known."""
        shape = self.node.arguments[0]
        if not isinstance(shape, Weight) or shape.value is None or shape.value.ndim != 1:
            return None
        return tuple(None if n < 0 else int(n) for n in shape.value)

    def known_size(self, reader: "Builder") -> int | None:
        """The number of elements; None where it is not known."""
        size = reader.integers(self.size)
        return None if size is None or size.ndim or size[()] is None else int(size)

    def whole(self, reader: "Builder", node: Node) -> int:
        """Adds a site that makes it a list of TensorFlow, for a node that reads it. Returns the slot."""
        return reader.results(self.node, {})[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Writing:
    """A list that the loop around it writes and does not read.

    Args:
        loop: The node of the loop.
        place: Position among the arguments of the loop.
        writes: For each write the index, the element, and whether the index may lie behind the end of the list.
    """

    loop: Node
    place: int
    writes: tuple[tuple, ...] = ()

    def whole(self, reader: "Builder", node: Node) -> int:
        """Raises a `ReadError`, because a list that is being written cannot be read."""
        raise ReadError(self)


def tensor_of(value: Value) -> Value:
    """The stacked tensor of a `Stacked` list; any other value as it is."""
    return value.tensor if isinstance(value, Stacked) else value


def is_list(value: Value) -> bool:
    """Whether a value is a list of tensors."""
    return isinstance(value, Stacked | Reserved | Writing)


def _reserve(reader, node):
    return [Reserved(node)]


def _from_tensor(reader, node):
    tensor = node.arguments[0]
    return None if is_list(tensor) else [Stacked(tensor)]


def _stack(reader, node):
    items = node.arguments[0]
    if not isinstance(items, Stacked):
        return None
    if not items.inside or isinstance(items.tensor, Weight):
        return [items.tensor]
    operation = Routing(node.function(), node.type, copies=True, fixed=True, keeps_sign=True)
    inert, fixed = items.tensor in reader.inert, reader.is_fixed(items.tensor)
    return reader.site(node, operation, (items.tensor,), inert=inert, fixed=fixed)


def _set_item(reader, node):
    items, index, item = node.arguments
    if isinstance(items, Writing) and not is_list(item):
        grows = bool(node.attribute("resize_if_index_out_of_bounds", False))
        return [dataclasses.replace(items, writes=(*items.writes, (index, item, grows)))]
    if isinstance(items, Writing) or is_list(item) or getattr(items, "inside", False):
        return None
    if isinstance(items, Stacked):
        spec = reader.spec(items.tensor)
        return [Stacked(_moved(reader, node, place, (items.tensor, item), (index,), spec))]

    def function(item, index, size):
        return place(tf.zeros([size, *tf.unstack(tf.shape(item))], item.dtype), item, index)

    spec = reader.spec(item)
    spec = Spec((items.known_size(reader), *spec.shape), spec.dtype)
    return [Stacked(_moved(reader, node, function, (item,), (index, items.size), spec, fills=True))]


def _get_item(reader, node):
    items, index, _ = node.arguments
    if not isinstance(items, Stacked):
        return None
    (spec,) = node.specs
    take = element(spec.shape, computed(reader, spec))
    return [_moved(reader, node, take, (items.tensor,), (index,), spec, kind=Element)]


def _moved(reader, node, function, data, places, spec, fills=False, kind=Routing):
    """The entries of `data`, moved to the places that `places` give. The value is a weight if all of these are."""
    given = (*data, *places)
    slots = tuple(value for value in given if not isinstance(value, Weight))

    def run(*tensors):
        remaining = iter(tensors)
        return function(*(v.read(reader.dtype) if isinstance(v, Weight) else next(remaining) for v in given))

    if not slots:
        return Weight(lambda dtype: in_dtype(run(), dtype), spec.shape)
    weights = [v for v in data if isinstance(v, Weight)]
    known = {
        "copies": True,
        "fixed": all(map(reader.is_fixed, places)),
        "keeps_sign": all(map(is_nonnegative, weights)),
        "fills": fills or bool(weights),
    }
    inert = all(slot in reader.inert for slot in slots)
    fixed = inert and all(map(reader.is_fixed, given))
    (slot,) = reader.site(node, kind(run, node.type, **known), slots, spec=spec, inert=inert, fixed=fixed)
    return slot


def _length(reader, node):
    items = node.arguments[0]
    if not isinstance(items, Stacked):
        return None
    if isinstance(items.tensor, Weight):
        return [items.tensor.map(lambda t: tf.shape(t)[0], ())]

    def length(x):
        return tf.raw_ops.TensorListLength(input_handle=x) if items.inside else tf.shape(x)[0]

    known = dict.fromkeys(("copies", "fixed", "keeps_sign", "fills"), True)
    size = Routing(length, "Size", **known)
    return reader.site(node, size, (items.tensor,), inert=True, fixed=True)


def computed(reader: "Builder", spec: Spec) -> tf.DType:
    """The dtype in which revgraph computes a tensor of this spec."""
    dtype = tf.as_dtype(spec.dtype)
    return tf.as_dtype(reader.dtype) if dtype.is_floating else dtype


VIEWS = {
    "TensorListFromTensor": _from_tensor,
    "TensorListGetItem": _get_item,
    "TensorListLength": _length,
    "TensorListReserve": _reserve,
    "TensorListSetItem": _set_item,
    "TensorListStack": _stack,
}
"""Views of the operations on lists, by type: view(reader, node) returns the values of the outputs, or None."""
