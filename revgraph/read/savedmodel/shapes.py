"""Arithmetic with shapes, computed for several sizes at once. A result that is the same for all sizes is known."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Spec
from revgraph.read.savedmodel.nodes import Node, runner
from revgraph.read.savedmodel.weights import Weight, in_dtype

CASES = (
    lambda place: 1,
    lambda place: 2 + place % 4,
    lambda place: 7 + place,
    lambda place: 12 + 2 * place,
    lambda place: 100_003 + 3 * place,
    lambda place: 250_000 + 7 * place,
)
"""Sizes that stand in for an unknown one. Each is a function of a number that tells slots and axes apart.

Some cases have small sizes and some have large ones. In the first all sizes are equal, in the others they differ. So a
result that is the same in all cases, such as a difference or a minimum, does not depend on sizes.
"""

SHAPES = frozenset({"Rank", "Shape", "ShapeN", "Size"})
"""Types of operations that return the shape of a tensor."""

SHAPE_ARITHMETIC = frozenset(
    "Add AddV2 Cast Ceil ConcatV2 ExpandDims Floor FloorDiv FloorMod GatherV2 Max Maximum Min Minimum Mul Neg Pack "
    "Prod RealDiv Reshape Round Slice Split SplitV Squeeze StridedSlice Sub Sum Unpack".split()
)
"""Types of operations with which models compute shapes."""

ALIKE = frozenset({"OnesLike", "ZerosLike"})
"""Types of operations that take nothing but the shape of a tensor, and fill it with a constant."""

LARGEST = 100
"""The largest number of entries with which a tensor is taken for a shape."""


class Shapes:
    """The values of those slots that are computed from shapes alone, in each of the `CASES`.

    Args:
        specs: Shape and dtype of each slot.
    """

    def __init__(self, specs: Mapping[int, Spec]) -> None:
        self.specs = specs
        self._values: dict[int, list[np.ndarray]] = {}

    def note(self, slots: Iterable[int], values: Iterable[list]) -> None:
        """Remembers the values of slots: for each slot, an array per case."""
        self._values.update(zip(slots, values, strict=True))

    def values(self, slot: int) -> list[np.ndarray] | None:
        """The value of a slot in each of the `CASES`; None where it is not known."""
        return self._values.get(slot)

    def of(self, node: Node) -> list[list[np.ndarray]] | None:
        """For each output of a node its value in each of the `CASES`; None where it does not depend on shapes alone."""
        if node.type in SHAPES:
            return self._shapes(node)
        if node.type not in SHAPE_ARITHMETIC:
            return None
        cases = []
        for i in range(len(CASES)):
            given = [a.value if isinstance(a, Weight) else self._values.get(a, [None] * 9)[i] for a in node.arguments]
            if any(value is None or np.size(value) > LARGEST for value in given):
                return None
            try:
                cases.append(constants(node.operation, given))
            except tf.errors.InvalidArgumentError:
                # The operation may be impossible for some of the sizes.
                return None
        return [list(values) for values in zip(*cases, strict=True)]

    def _shapes(self, node):
        given = [self._examples(argument) for argument in node.arguments]
        per_case = [[np.int64(shape) for shape in shapes] for shapes in zip(*given, strict=True)]
        dtype = node.specs[0].dtype
        results = {
            "Size": lambda shapes: [np.prod(shapes[0])],
            "Rank": lambda shapes: [np.int64(len(shapes[0]))],
        }.get(node.type, list)
        return [list(v) for v in zip(*([np.asarray(r, dtype) for r in results(c)] for c in per_case), strict=True)]

    def _examples(self, value):
        """The shape of a value in each of the `CASES`."""
        shape, slot = (value.shape, 0) if isinstance(value, Weight) else (self.specs[value].shape, value)
        return [tuple(case(17 * slot + 5 * axis) if n is None else n for axis, n in enumerate(shape)) for case in CASES]

    def integers(self, value: int | Weight) -> np.ndarray | None:
        """The entries of an integer tensor, with None for an entry that depends on sizes; None where nothing is known.

        Args:
            value: A slot or a weight.
        """
        if isinstance(value, Weight):
            return value.value
        if value not in self._values:
            return None
        cases = np.stack(self._values[value])
        return np.asarray(np.where((cases == cases[0]).all(axis=0), cases[0].astype(object), None))


def constants(operation: tf.Operation, values: Sequence, floating: str | None = None) -> list[np.ndarray]:
    """Runs a TensorFlow operation on arrays, and returns arrays.

    Args:
        operation: The operation.
        values: One array for each of its inputs.
        floating: The dtype that replaces every floating dtype; None to keep them.
    """
    tensors = [tf.convert_to_tensor(value, t.dtype) for value, t in zip(values, operation.inputs, strict=True)]
    if floating:
        tensors = [in_dtype(t, floating) for t in tensors]
    return [t.numpy() for t in runner(operation, floating)(*tensors)]


def all_equal(values: list[np.ndarray]) -> bool:
    """Whether all arrays have the same shape and entries."""
    return all(v.shape == values[0].shape and np.array_equal(v, values[0]) for v in values[1:])
