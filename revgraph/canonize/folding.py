"""Passes that fold: padding, scale and shift become part of the linear layer beside them."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import (
    Affine,
    BatchNorm,
    ChannelDiagonalConv,
    Conv,
    Dense,
    DepthwiseConv,
    Scale,
    SeparableConv,
    ZeroPad,
    along,
)

SEVERAL = 4
"""The batch size for which outputs and weights are counted, when the fewer of the two are to be scaled."""


def fold_padding(graph: Graph, keep: Iterable[int] = frozenset()) -> Graph:
    """Makes zero padding in front of a convolution the padding of that convolution.

    Some rules look at weights alone (Flat, WSquare) or at the bounds of the input (ZBox). They would give relevance to
    a zero that a separate layer pads with. They give none to a convolution's own padding. A scale and shift in front
    of the padding can then be folded too, with the right values at the border.

    Args:
        graph: The graph.
        keep: Slots that must survive, because somebody asked for their relevance.

    Returns:
        A graph with the same outputs.
    """
    sites = _Sites(graph, keep)
    for i, site in sites:
        j = sites.reader(site.outputs[0]) if isinstance(site.operation, ZeroPad) else None
        if j is None:
            continue
        merged = _padded(site, sites[j])
        if merged is not None:
            sites.replace(i, None)
            sites.replace(j, merged)
    return sites.graph()


def _padded(pad, conv):
    """One site for padding in front of a convolution or of other padding; None where they cannot be joined."""
    operation, widths = conv.operation, pad.operation.widths
    if isinstance(operation, ZeroPad):
        both = tuple((a + c, b + d) for (a, b), (c, d) in zip(widths, operation.widths, strict=True))
        return _joined(pad, conv, dataclasses.replace(operation, function=lambda x: tf.pad(x, both), widths=both))
    if isinstance(operation, Conv | DepthwiseConv | SeparableConv) and operation.padding != "same":
        last = operation.data_format == "channels_last"
        spatial, ends = (widths[1:-1], widths[:1] + widths[-1:]) if last else (widths[2:], widths[:2])
        if any(before or after for before, after in ends):
            return None
        own = _explicit(operation)
        around = tuple((a + c, b + d) for (a, b), (c, d) in zip(spatial, own, strict=True))
        return _joined(pad, conv, dataclasses.replace(operation, padding=around, multiple=None))
    return None


def _joined(pad, conv, operation):
    merged = (pad.path, *pad.merged, *conv.merged)
    return dataclasses.replace(conv, operation=operation, inputs=pad.inputs, merged=merged)


def _explicit(operation):
    """The padding of a convolution as entries before and after along each spatial axis."""
    if operation.padding == "valid":
        return ((0, 0),) * len(operation.strides)
    if operation.padding == "causal":
        size = operation.read("float32")["kernel"].shape[0]
        return ((operation.dilation[0] * (size - 1), 0),)
    return operation.padding


def fold_batchnorm(graph: Graph, keep: Iterable[int] = frozenset()) -> Graph:
    """Folds scale and shift per channel, mostly BatchNormalization, into the linear layer beside them.

    For BatchNormalization behind a linear layer with kernel w and bias b:

        w <- w gamma / sqrt(variance + epsilon)
        b <- (b - mean) gamma / sqrt(variance + epsilon) + beta

    Kernel and bias are computed from the model's variables at each call, so weights assigned later are seen. A scale
    goes into the linear layer in front of it. If there is none, BatchNormalization goes into the linear layer behind
    it. Operations that move whole channels may stand between the two: reshaping, cropping, upsampling, average
    pooling. A scale without a linear neighbour stays an affine site.

    Args:
        graph: The graph.
        keep: Slots that must survive, because somebody asked for their relevance. A scale is not folded across them.

    Returns:
        A graph with the same outputs.
    """
    sites = _Sites(graph, keep)
    for i, site in sites:
        if isinstance(site.operation, Scale) and _keeps_shape(site, sites.specs):
            _fold_into_writer(sites, i)
    for i, site in reversed(list(sites)):
        # Other scales in front of a linear layer preprocess the input. Users want the relevance before that step.
        if isinstance(site.operation, BatchNorm) and _keeps_shape(site, sites.specs):
            _fold_into_reader(sites, i)
    return sites.graph()


def _fold_into_writer(sites: "_Sites", i: int) -> None:
    """Folds the scale at site i into the linear layer in front of it, if there is one."""
    scale = sites[i]
    chain: list[int] = []
    j = sites.writer(scale.inputs[0])
    while j is not None and _moves_channels(sites[j]):
        chain.insert(0, j)
        j = sites.writer(sites[j].inputs[0])
    if j is None:
        return
    merged = _after(sites[j], [sites[k] for k in chain], scale, sites.specs, sites.dtype)
    if merged is None:
        return
    sites.replace(i, None)
    sites.replace(j, merged)
    last = chain[-1] if chain else j
    sites.replace(last, dataclasses.replace(sites[last], outputs=scale.outputs))


def _fold_into_reader(sites: "_Sites", i: int) -> None:
    """Folds the scale at site i into the linear layer behind it, if there is one."""
    scale = sites[i]
    chain: list[int] = []
    j = sites.reader(scale.outputs[0])
    while j is not None and _moves_channels(sites[j]):
        chain.append(j)
        j = sites.reader(sites[j].outputs[0])
    if j is None:
        return
    merged = _before(scale, [sites[k] for k in chain], sites[j], sites.specs, sites.dtype)
    if merged is None:
        return
    sites.replace(i, None)
    sites.replace(j, merged)
    first = chain[0] if chain else j
    sites.replace(first, dataclasses.replace(sites[first], inputs=scale.inputs))


class _Sites:
    """The sites of a graph while some are replaced or dropped.

    Args:
        graph: The graph.
        keep: Slots that must survive, as the outputs of the graph do.
    """

    def __init__(self, graph: Graph, keep: Iterable[int]) -> None:
        self.specs, self.dtype = graph.specs, graph.dtype
        self._graph, self._sites = graph, dict(enumerate(graph.sites))
        self._held = {*graph.output_slots, *keep}
        self._writers: dict[int, int] = {}
        self._readers: dict[int, set[int]] = {}
        for i, site in self._sites.items():
            self._writers.update(dict.fromkeys(site.outputs, i))
            for slot in set(site.inputs):
                self._readers.setdefault(slot, set()).add(i)

    def __iter__(self) -> Iterator[tuple[int, Site]]:
        for i in list(self._sites):
            # Sites may be replaced or dropped meanwhile.
            if i in self._sites:
                yield i, self._sites[i]

    def __getitem__(self, i: int) -> Site:
        return self._sites[i]

    def _is_private(self, slot):
        return slot not in self._held and len(self._readers.get(slot, ())) == 1

    def writer(self, slot: int) -> int | None:
        """The number of the site that writes a slot; None unless exactly one site reads the slot and nobody kept it."""
        return self._writers.get(slot) if self._is_private(slot) else None

    def reader(self, slot: int) -> int | None:
        """The number of the only site that reads a slot; None where there are several, or where the slot is kept."""
        return next(iter(self._readers[slot])) if self._is_private(slot) else None

    def replace(self, i: int, site: Site | None) -> None:
        """Puts another site in the place of site i, or drops site i."""
        for slot in self._sites[i].outputs:
            self._writers.pop(slot, None)
        for slot in self._sites[i].inputs:
            self._readers[slot].discard(i)
        if site is None:
            del self._sites[i]
        else:
            self._sites[i] = site
            self._writers.update(dict.fromkeys(site.outputs, i))
            for slot in site.inputs:
                self._readers.setdefault(slot, set()).add(i)

    def graph(self) -> Graph:
        """The graph of the sites as they are now."""
        return self._graph.rewrite(site for _, site in self)


def _moves_channels(site):
    """Whether a site moves channels, or averages within channels, in a way that does not depend on values."""
    moves = isinstance(site.operation, ChannelDiagonalConv) or getattr(site.operation, "fixed", False)
    return moves and len(site.inputs) == len(site.outputs) == 1


def _keeps_shape(scale, specs):
    """Whether a scale keeps the shape of its input. A large constant would broadcast the input to its own shape."""
    return specs[scale.inputs[0]].shape == specs[scale.outputs[0]].shape


def _routed(chain: list[Site], shape: tuple, axis: int, dtype: str) -> np.ndarray | None:
    """The channel at the start of a chain from which each entry at its end comes; -1 where it comes from none.

    Two numberings of the channels are sent through the chain. The second is random, because a mean of several channels
    could look like a channel in one numbering, but not in both. None if the entries are not copies of channels.
    """
    if None in shape[1:]:
        return None
    number = np.arange(1, shape[axis] + 1)
    other = np.random.default_rng(0).integers(1, 2**16, shape[axis])

    def send(values):
        t = tf.constant(np.broadcast_to(values.reshape(along_shape), (1, *shape[1:])), dtype)
        for site in chain:
            (t,) = site.operation((t,), site.operation.weights(dtype, (t,)))
        nearest = np.rint(t)
        return nearest.astype(int), np.allclose(t, nearest, atol=1e-3)

    along_shape = [-1 if i == axis else 1 for i in range(len(shape))]
    try:
        (first, whole), (second, _) = send(number), send(other)
    except tf.errors.InvalidArgumentError:
        # A reshape from samples back to time steps fails on a single sample.
        return None
    inside = (first > 0) & (first <= shape[axis])
    fits = whole and np.array_equal(second[inside], other[first[inside] - 1]) and not second[~inside].any()
    return np.where(inside, first - 1, -1) if fits else None


def _pairs(first: np.ndarray | None, second: np.ndarray, size: int) -> np.ndarray | None:
    """The map from values of `first` to values of `second`, entry by entry; None if it is no function or has gaps."""
    mapping = np.full(size, -1)
    if first is None or (first < 0).any() or (second < 0).any():
        return None
    mapping[first.ravel()] = second.ravel()
    complete = (mapping >= 0).all() and np.array_equal(mapping[first], second)
    return mapping if complete else None


def _positions(array, axis):
    """The index of every entry along an axis, in the shape of the array."""
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    return np.broadcast_to(np.arange(array.shape[axis]).reshape(shape), array.shape)


def _channel_map(
    chain: list[Site], start: tuple, start_axis: int, end_axis: int, dtype: str, backwards: bool = False
) -> Callable | None:
    """A function that reorders a vector over the channels at one end of a chain into the order at the other end.

    Args:
        chain: Sites that move channels.
        start: Shape of the chain's input.
        start_axis, end_axis: Axes of the channels at the two ends.
        dtype: Floating dtype in which the graph computes.
        backwards: Whether the vector is over the channels at the end, and is reordered for the start.

    Returns:
        The function; None where the channels do not correspond one to one.
    """
    if not chain:
        return (lambda vector: vector) if start_axis == end_axis else None
    source = _routed(chain, start, start_axis, dtype)
    if source is None or source.ndim <= end_axis:
        return None
    end = _positions(source, end_axis)
    first, second = (source, end) if backwards else (end, source)
    mapping = _pairs(first, second, start[start_axis] if backwards else source.shape[end_axis])
    if mapping is None:
        return None
    return lambda vector: vector if vector.shape.rank == 0 else tf.gather(vector, mapping)


def _after(linear, chain, scale, specs, dtype):
    """The linear site in front of a chain and a scale, with the scale in its weights; None where that cannot be."""
    operation, factor = linear.operation, scale.operation
    shape = specs[linear.outputs[0]].shape
    rank = len(shape)
    axis = operation.output_axis(rank) if isinstance(operation, Affine) else None
    if axis is None:
        return None
    order = _order(factor, chain, shape, axis, len(specs[scale.inputs[0]].shape), dtype, backwards=True)
    if order is None:
        return None

    def spread(vector):
        return vector if isinstance(operation, Scale) else along(vector, axis, rank)

    def read(dtype):
        weights, by = operation.read(dtype), factor.read(dtype)
        kernels, bias = operation.split(weights)
        kernel = order(by["kernel"])
        merged = operation.scale_outputs(kernels, kernel)
        terms = [] if bias is None else [bias * spread(kernel)]
        terms += [spread(order(by["bias"]))] if "bias" in by else []
        return {**merged, "bias": sum(terms[1:], terms[0])} if terms else merged

    def multiplier(dtype):
        return along(order(factor.read(dtype)["kernel"]), axis, rank)

    folded = dataclasses.replace(operation, reader=read, multiple=None)
    if _outputs_are_few(operation, shape):
        folded = dataclasses.replace(folded, multiple=(operation, multiplier))
    return dataclasses.replace(linear, operation=folded, merged=(*linear.merged, scale.path, *scale.merged))


def _outputs_are_few(operation, shape):
    """Whether an operation has fewer outputs than weights for a batch of `SEVERAL` samples."""
    if isinstance(operation, Scale) or None in shape[1:]:
        return False
    weights = operation.read("float32")
    kernels, _ = operation.split(weights)
    return SEVERAL * math.prod(shape[1:]) <= sum(math.prod(w.shape) for w in kernels.values())


def _order(factor, chain, shape, axis, rank, dtype, backwards):
    """A function that reorders the vectors of a scale for the channels of a linear site; None if there is none.

    `axis` is the channel axis of the linear site. The scale stands at the other end of the chain, on `rank` axes.
    """
    if factor.axis is None:
        scalar = all(w.shape.rank == 0 for w in factor.read("float32").values())
        return (lambda vector: vector) if scalar and not chain else None
    if backwards:
        return _channel_map(chain, shape, axis, factor.axis % rank, dtype, backwards=True)
    return _channel_map(chain, shape, factor.axis % rank, axis, dtype)


def _before(scale, chain, linear, specs, dtype):
    """The linear site behind a scale and a chain, with the scale in its weights; None where that cannot be.

    The linear layer maps the shift, and the result becomes bias. A convolution pads the shift with zeros as it pads its
    input, so outputs at the border stay right.
    """
    operation, factor = linear.operation, scale.operation
    shape = specs[linear.inputs[0]].shape
    rank = len(shape)
    axis = operation.input_axis(rank) if isinstance(operation, Affine) else None
    if axis is None:
        return None
    shifted = _shape_of_shift(operation, shape)
    start = specs[scale.outputs[0]].shape
    order = _order(factor, chain, start, axis, len(start), dtype, backwards=False)
    if shifted is None or order is None:
        return None

    def read(dtype):
        weights, by = operation.read(dtype), factor.read(dtype)
        kernels, bias = operation.split(weights)
        terms = [] if bias is None else [bias]
        if "bias" in by:
            shift = tf.broadcast_to(along(order(by["bias"]), axis, rank), shifted)
            terms.append(operation.linear((shift,), kernels))
        merged = operation.scale_inputs(kernels, order(by["kernel"]))
        return {**merged, "bias": sum(terms[1:], terms[0])} if terms else merged

    folded = dataclasses.replace(operation, reader=read, multiple=None)
    return dataclasses.replace(linear, operation=folded, merged=(scale.path, *scale.merged, *linear.merged))


def _shape_of_shift(operation, shape):
    """The shape of the smallest input on which the shift has the same effect as on every input; None if unknown.

    Without padding one window is enough, because every output sees a whole window.
    """
    if isinstance(operation, Dense):
        return (*(1,) * (len(shape) - 1), shape[-1])
    if isinstance(operation, Conv | DepthwiseConv) and operation.padding == "valid":
        kernel = operation.read("float32")["kernel"]
        window = [(k - 1) * d + 1 for k, d in zip(kernel.shape, operation.dilation, strict=False)]
        channels = shape[operation.input_axis(len(shape))]
        return (1, *window, channels) if operation.data_format == "channels_last" else (1, channels, *window)
    return None if None in shape[1:] else (1, *shape[1:])
