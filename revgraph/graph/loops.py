"""Loops: an operation with graphs inside, one for a turn and one that says whether there is another turn."""

import dataclasses

import tensorflow as tf

from revgraph.graph.graph import Graph
from revgraph.graph.operations import Operation, Routing, Source


@dataclasses.dataclass(frozen=True)
class Written:
    """A list of tensors that a loop writes, and that it gives stacked along a new first axis.

    Args:
        shape: Shape of an element, None for sizes that are not known.
        dtype: Dtype of an element.
        reserved: The loop is given the number of elements, and the list starts without any. Otherwise the loop is given
            the elements with which the list starts, stacked.
        writes: How many elements each turn writes.
        grows: A turn may write behind the end.
    """

    shape: tuple[int | None, ...]
    dtype: str
    reserved: bool
    writes: int
    grows: bool

    def start(self, given) -> tf.Tensor:
        """TensorFlow's own list, as it is before the first turn."""
        if not self.reserved:
            return as_list(given)
        return tf.raw_ops.TensorListReserve(
            element_shape=self._sizes, num_elements=given, element_dtype=tf.as_dtype(self.dtype)
        )

    def write(self, items, index, element) -> tf.Tensor:
        """The list with an element in a place."""
        return tf.raw_ops.TensorListSetItem(
            input_handle=items, index=index, item=element, resize_if_index_out_of_bounds=self.grows
        )

    def stack(self, items) -> tf.Tensor:
        """The elements in one tensor."""
        return tf.raw_ops.TensorListStack(
            input_handle=items, element_shape=self._sizes, element_dtype=tf.as_dtype(self.dtype)
        )

    @property
    def _sizes(self):
        return tf.constant([-1 if n is None else n for n in self.shape], tf.int32)


def as_list(stacked) -> tf.Tensor:
    """TensorFlow's own list of the entries along the first axis; a list as it is.

    TensorFlow adds up the gradient of a list element by element, and that of a stacked tensor as a whole in each turn.
    """
    if stacked.dtype == tf.variant:
        return stacked
    return tf.raw_ops.TensorListFromTensor(tensor=stacked, element_shape=tf.shape(stacked)[1:])


def element(shape, dtype):
    """A function of a list, stacked or TensorFlow's own, and an index that gives an element of this shape and dtype."""
    sizes = [-1 if n is None else n for n in shape]

    def function(items, index):
        if items.dtype != tf.variant:
            return items[index]
        return tf.raw_ops.TensorListGetItem(
            input_handle=items, index=index, element_shape=tf.constant(sizes, tf.int32), element_dtype=dtype
        )

    return function


def place(items, item, index):
    """A stacked list with another element in one place."""
    return tf.tensor_scatter_nd_update(items, [[index]], item[tf.newaxis])


class Element(Routing):
    """One element of a list: its inputs are the list, stacked along the first axis, and an index."""


@dataclasses.dataclass(frozen=True, eq=False)
class Loop(Operation):
    """Turns of a graph, as `tf.while_loop` and recurrent layers take them.

    The body takes *states*, which each turn makes anew, and *constants*, which are the same in every turn. It gives the
    next states and, for each list that is written, the index and the element of each write:

        states, (index, element), ... = body(*states, *constants)

    Weights inside are live, and are read once for all turns. Handles of variables and lists are in no slot. A list that
    is read is a constant, stacked along its first axis. `Element` sites of the body take elements of it. A list that
    is written is an output, stacked in the same way.

    The site reads, in this order, the first states, what each list starts from, and the constants, but for those that
    `sources` has. It writes the last states, then the lists.

    A rule for loops has what it needs here. Its forward walk runs the turns in a `tf.while_loop` which counts them and
    keeps, for each turn, the states before it, and nothing else: the body is run again on the way back. Its pullback
    runs as many turns from the last one back. A turn puts the relevance of its elements, which it takes from the
    relevance of the lists by their indices, to that of the states in `signals`, and walks back over the body's sites.
    What arrives at the states is the relevance of the turn before. What arrives at a constant is added up over the
    turns; what arrives at an `Element` site is put to the relevance of the list at the index that the turn read. A
    written element that a later turn overwrites has no relevance. Relevance of first states that are in `sources` is
    that of constants.

    Args:
        condition: Says from the states and the constants whether there is another turn.
        body: One turn.
        states: How many states there are.
        lists: The lists that are written.
        read_lists: Which constants are lists that are read.
        sources: For each first state, start of a list, and constant, what reads it where it depends on no input; None
            where it is an input of the site.
        signals: The states that carry relevance. The others are counters, shapes and constants.
    """

    condition: Graph
    body: Graph
    states: int
    lists: tuple[Written, ...]
    read_lists: frozenset[int]
    sources: tuple[Source | None, ...]
    signals: frozenset[int]

    @property
    def label(self):
        return f"Loop of {self.sites_count} sites"

    @property
    def sites_count(self) -> int:
        """How many sites a turn has, those of loops inside included."""
        return sum(getattr(site.operation, "sites_count", 1) for site in self.body.sites)

    @property
    def outputs_count(self) -> int:
        return self.states + len(self.lists)

    @property
    def advice(self) -> str:
        return ADVICE

    def read(self, dtype):
        """The weights of the sites inside and what is given by sources, by their place."""
        sites = [*self.condition.sites, *self.body.sites]
        given = {f"given:{i}": source(dtype) for i, source in enumerate(self.sources) if source is not None}
        inside = {
            f"{i}:{name}": weight
            for i, site in enumerate(sites)
            if not _depends_on_inputs(site)
            for name, weight in site.operation.read(dtype).items()
        }
        return given | inside

    def __call__(self, inputs, weights):
        inputs = iter(inputs)
        given = [next(inputs) if source is None else weights[f"given:{i}"] for i, source in enumerate(self.sources)]
        count = self.outputs_count
        lists = zip(self.lists, given[self.states : count], strict=True)
        starts = [*given[: self.states], *(written.start(t) for written, t in lists)]
        constants = [as_list(t) if i in self.read_lists else t for i, t in enumerate(given[count:])]
        shapes = [self.body.specs[slot].shape for slot in self.body.input_slots[: self.states]]
        inside = _grouped(weights)

        def run(graph, first, states):
            values = dict(zip(graph.input_slots, [*states, *constants], strict=True))

            def weights_of(i, site, arguments):
                if _depends_on_inputs(site):
                    return site.operation.weights(graph.dtype, arguments)
                return inside.get(str(first + i), {})

            values = graph.compute(values, weights_of)
            return [values[slot] for slot in graph.output_slots]

        def condition(*turning):
            (more,) = run(self.condition, 0, turning[: self.states])
            return tf.reshape(more, ())

        def turn(*turning):
            results = run(self.body, len(self.condition.sites), turning[: self.states])
            states = [tf.ensure_shape(t, shape) for t, shape in zip(results[: self.states], shapes, strict=True)]
            written, lists = iter(results[self.states :]), []
            for kind, items in zip(self.lists, turning[self.states :], strict=True):
                for _ in range(kind.writes):
                    items = kind.write(items, next(written), next(written))
                lists.append(items)
            return [*states, *lists]

        invariants = [*map(tf.TensorShape, shapes), *(t.shape for t in starts[self.states :])]
        results = tf.while_loop(condition, turn, starts, invariants)
        return (*results[: self.states], *(w.stack(t) for w, t in zip(self.lists, results[self.states :], strict=True)))


def _depends_on_inputs(site):
    """Whether a site's weights depend on what it is called on."""
    return type(site.operation).weights is not Operation.weights


def _grouped(weights):
    """The weights of each site inside, by its place."""
    groups = {}
    for name, weight in weights.items():
        place, _, own = name.partition(":")
        groups.setdefault(place, {})[own] = weight
    return groups


ADVICE = (
    "It is a loop, and there are no rules for loops, such as recurrent layers, yet. A loop of a known number of steps "
    "can be written out: a recurrent layer of Keras takes unroll=True. Make the model anew with it, copy the weights "
    "by new.set_weights(old.get_weights()), and explain the new model; a loop of your own becomes a `for` of Python. "
    'Or use a gradient method such as "input_t_gradient", which needs no rules and takes the loop as it is.'
)
"""What to do about a loop that has no rule."""
