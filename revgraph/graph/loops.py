"""Loops: operations with two graphs inside, one for a turn, and one that says whether another turn follows."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import tensorflow as tf

from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Operation, Routing, Source
from revgraph.graph.types import Weights


def without_numbers(path: str) -> str:
    """A path without the numbers of calls: `enc/lstm_cell` for `enc#2/lstm_cell#3`."""
    return re.sub(r"#\d+(?=/|$)", "", path)


@dataclasses.dataclass(frozen=True)
class Written:
    """A list of tensors that a loop writes. The loop returns it stacked along a new first axis.

    Args:
        shape: Shape of an element. None for sizes that are not known.
        dtype: Dtype of an element.
        reserved: Whether the list starts empty. The loop is then given the number of elements. Otherwise it is given
            the elements with which the list starts, stacked.
        writes: How many elements each turn writes.
        grows: Whether a turn may write behind the end.
    """

    shape: tuple[int | None, ...]
    dtype: str
    reserved: bool
    writes: int
    grows: bool

    def start(self, given: tf.Tensor) -> tf.Tensor:
        """The list before the first turn, as a list of TensorFlow.

        Args:
            given: The number of elements where `reserved`, else the elements, stacked.
        """
        if not self.reserved:
            return as_list(given)
        return tf.raw_ops.TensorListReserve(
            element_shape=self._sizes, num_elements=given, element_dtype=tf.as_dtype(self.dtype)
        )

    def write(self, items: tf.Tensor, index: tf.Tensor, element: tf.Tensor) -> tf.Tensor:
        """The list with an element written to a place."""
        return tf.raw_ops.TensorListSetItem(
            input_handle=items, index=index, item=element, resize_if_index_out_of_bounds=self.grows
        )

    def stack(self, items: tf.Tensor) -> tf.Tensor:
        """The elements of the list, stacked."""
        return tf.raw_ops.TensorListStack(
            input_handle=items, element_shape=self._sizes, element_dtype=tf.as_dtype(self.dtype)
        )

    @property
    def _sizes(self):
        return tf.constant([-1 if n is None else n for n in self.shape], tf.int32)


def as_list(stacked: tf.Tensor) -> tf.Tensor:
    """A list of TensorFlow of the entries along the first axis. What is such a list already is returned as it is.

    The gradient of a list takes less time than that of a stacked tensor. TensorFlow adds the former element by element,
    and the latter as a whole in each turn.
    """
    if stacked.dtype == tf.variant:
        return stacked
    return tf.raw_ops.TensorListFromTensor(tensor=stacked, element_shape=tf.shape(stacked)[1:])


def element(shape: Sequence[int | None], dtype: str | tf.DType) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function of a list and an index that returns an element. The list may be stacked or one of TensorFlow.

    Args:
        shape: Shape of the element. None for sizes that are not known.
        dtype: Dtype of the element.
    """
    sizes = [-1 if n is None else n for n in shape]

    def function(items, index):
        if items.dtype != tf.variant:
            return items[index]
        return tf.raw_ops.TensorListGetItem(
            input_handle=items, index=index, element_shape=tf.constant(sizes, tf.int32), element_dtype=dtype
        )

    return function


def place(items: tf.Tensor, item: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """A stacked list with another element in one place."""
    return tf.tensor_scatter_nd_update(items, [[index]], item[tf.newaxis])


class Element(Routing):
    """One element of a list. Its inputs are the list, stacked along the first axis, and an index."""


@dataclasses.dataclass(frozen=True, eq=False)
class Loop(Operation):
    """A graph that is run again and again, as in `tf.while_loop` and recurrent layers.

    One run of the body is a *turn*. The body takes *states*, which every turn computes again, and *constants*, which
    are the same in every turn. It returns the next states. For each list that the loop writes, it also returns the
    index and the element of every write:

        states, (index, element), ... = body(*states, *constants)

    Weights inside are read once for all turns, when the loop is called. No slot holds a variable or a list of
    TensorFlow. A list that the loop reads is a constant, stacked along its first axis. `Element` sites in the body read
    elements of it. A list that the loop writes is an output, stacked in the same way.

    The site reads, in this order, the first states, the start of each list, and the constants. Those that `sources`
    reads are left out. It writes the last states, and then the lists.

    `revgraph.reverse.loops` walks back through the turns.

    Args:
        condition: Says whether another turn follows, from the states and the constants.
        body: One turn.
        states: How many states there are.
        lists: The lists that are written.
        read_lists: Positions of the constants that are lists which the loop reads.
        sources: One entry for each first state, start of a list, and constant. It reads the tensor, if that depends on
            no input. It is None where the tensor is an input of the site.
        signals: Positions of the states that carry relevance. The others are counters, shapes and constants.
    """

    condition: Graph
    body: Graph
    states: int
    lists: tuple[Written, ...]
    read_lists: frozenset[int]
    sources: tuple[Source | None, ...]
    signals: frozenset[int]

    @property
    def label(self) -> str:
        return f"Loop of {self.sites_count} sites"

    @property
    def advice(self) -> str:
        return (
            'It is a loop, such as a recurrent layer has. Under convention="innvestigate" there are no rules for '
            "loops, so leave that argument out. If token ids are looked up inside of the loop, look them up before it. "
            'Or use a gradient method such as "input_t_gradient", which takes the loop as it is.'
        )

    @property
    def sites_count(self) -> int:
        """How many sites a turn has, those of inner loops included."""
        return sum(getattr(site.operation, "sites_count", 1) for site in self.body.sites)

    @property
    def outputs_count(self) -> int:
        return self.states + len(self.lists)

    def read(self, dtype: str | tf.DType) -> dict[str, tf.Tensor]:
        """Reads what `sources` read, as `"given:<place>"`, and the weights of sites, as `"<place>:<name>"`."""
        sites = [*self.condition.sites, *self.body.sites]
        given = {f"given:{i}": source(dtype) for i, source in enumerate(self.sources) if source is not None}
        inside = {
            f"{i}:{name}": weight for i, site in enumerate(sites) for name, weight in site.operation.read(dtype).items()
        }
        return given | inside

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        return self.run(inputs, weights).outputs

    def given(self, inputs: Sequence[tf.Tensor], weights: Weights) -> list[tf.Tensor]:
        """First states, starts of lists and constants: those that the site reads, and those that `sources` read."""
        remaining = iter(inputs)
        return [next(remaining) if source is None else weights[f"given:{i}"] for i, source in enumerate(self.sources)]

    def weights_inside(self, weights: Weights) -> dict[Site, dict[str, tf.Tensor]]:
        """The weights of each site inside, as they were read.

        Args:
            weights: The weights of the loop, as `read` gives them.
        """
        sites = (*self.condition.sites, *self.body.sites)
        found: dict[Site, dict[str, tf.Tensor]] = {site: {} for site in sites}
        for name, weight in weights.items():
            place, _, own = name.partition(":")
            if place != "given":
                found[sites[int(place)]][own] = weight
        return found

    def elements(self) -> dict[Site, tuple[int, int]]:
        """The sites of the body that read an element of a list.

        Returns:
            For each such site, the place of the list among the constants, and the slot of the index.
        """
        lists = {self.body.input_slots[self.states + i]: i for i in self.read_lists}
        return {
            site: (lists[site.inputs[0]], site.inputs[1])
            for site in self.body.sites
            if isinstance(site.operation, Element) and site.inputs[0] in lists
        }

    def floating_lists(self) -> list[int]:
        """The places of the lists that hold numbers, and not ids or truth values."""
        return [i for i, written in enumerate(self.lists) if "float" in written.dtype]

    def floating_constants(self) -> list[int]:
        """The places of the constants that are numbers, and not ids or truth values."""
        slots = self.body.input_slots[self.states :]
        return [i for i, slot in enumerate(slots) if "float" in self.body.specs[slot].dtype]

    def hands_on(self) -> list[bool]:
        """Which first states, starts of lists and constants can have relevance that the site hands on to its inputs."""
        lists, constants = self.floating_lists(), self.floating_constants()
        # A list that is reserved is given its length.
        carry = [
            *(i in self.signals for i in range(self.states)),
            *(i in lists and not written.reserved for i, written in enumerate(self.lists)),
            *(i in constants for i in range(len(self.sources) - self.outputs_count)),
        ]
        return [carries and source is None for carries, source in zip(carry, self.sources, strict=True)]

    def writes(self) -> list[list[tuple[int, int]]]:
        """For each list, the slots of the index and of the element of every write of a turn."""
        slots = iter(self.body.output_slots[self.states :])
        return [[(next(slots), next(slots)) for _ in range(written.writes)] for written in self.lists]

    def run(self, inputs: Sequence[tf.Tensor], weights: Weights, keep: bool = False) -> "Run":
        """Runs the turns.

        Args:
            inputs: The inputs of the site.
            weights: Its weights, as `read` gives them.
            keep: Keep the states in front of each turn.
        """
        given = self.given(inputs, weights)
        count = self.outputs_count
        lists = zip(self.lists, given[self.states : count], strict=True)
        starts = [*given[: self.states], *(written.start(t) for written, t in lists)]
        constants = [as_list(t) if i in self.read_lists else t for i, t in enumerate(given[count:])]
        shapes = [self.body.specs[slot].shape for slot in self.body.input_slots[: self.states]]
        inside = self.weights_inside(weights)

        def run(graph, states):
            values = dict(zip(graph.input_slots, [*states, *constants], strict=True))

            def weights_of(i, site, arguments):
                return site.operation.completed(inside[site], graph.dtype, arguments)

            values = graph.compute(values, weights_of)
            return [values[slot] for slot in graph.output_slots]

        def condition(turns, kept, *turning):
            (more,) = run(self.condition, turning[: self.states])
            return tf.reshape(more, ())

        def turn(turns, kept, *turning):
            kept = [array.write(turns, state) for array, state in zip(kept, turning, strict=False)]
            results = run(self.body, turning[: self.states])
            states = [tf.ensure_shape(t, shape) for t, shape in zip(results[: self.states], shapes, strict=True)]
            written, lists = iter(results[self.states :]), []
            for kind, items in zip(self.lists, turning[self.states :], strict=True):
                for _ in range(kind.writes):
                    items = kind.write(items, next(written), next(written))
                lists.append(items)
            return [turns + 1, kept, *states, *lists]

        empty = [_array(state.dtype, shape) for state, shape in zip(starts, shapes, strict=False)] if keep else []
        invariants = [*map(tf.TensorShape, shapes), *(t.shape for t in starts[self.states :])]
        nothing = [tf.TensorShape([]), [tf.TensorShape(None) for _ in empty]]
        turns, kept, *results = tf.while_loop(
            condition, turn, [tf.constant(0), empty, *starts], [*nothing, *invariants]
        )
        stacked = (w.stack(t) for w, t in zip(self.lists, results[self.states :], strict=True))
        return Run((*results[: self.states], *stacked), turns, tuple(kept))


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run of a loop.

    Args:
        outputs: The outputs of the site.
        turns: How many turns there were, a scalar.
        kept: For each state, the `tf.TensorArray` of its values in front of each turn, if they were kept.
    """

    outputs: tuple[tf.Tensor, ...]
    turns: tf.Tensor
    kept: tuple[tf.TensorArray, ...] = ()


def _array(dtype, shape):
    """An empty list of tensors, for as many turns as there will be."""
    return tf.TensorArray(
        dtype, 0, dynamic_size=True, clear_after_read=False, infer_shape=False, element_shape=tf.TensorShape(shape)
    )
