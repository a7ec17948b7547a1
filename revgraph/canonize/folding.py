"""Folding: scale and shift, and padding, become part of the linear layer beside them."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Graph
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
"""The batch size from which on it is cheaper to scale the kernels than the outputs, if both are as large for one."""


def fold_padding(graph: Graph, keep=frozenset()) -> Graph:
    """Makes zero padding in front of a convolution the convolution's own.

    Rules that look at weights alone, or at the bounds of the input, then know that padding is not input, and share
    nothing out to it; and scale and shift in front of the padding can be folded with the border kept right.
    """
    sites = _Sites(graph, keep)
    for i, site in sites:
        j = sites.reader(site.outputs[0]) if isinstance(site.operation, ZeroPad) else None
        merged = None if j is None else _padded(site, sites[j])
        if merged is not None:
            sites.replace(i, None)
            sites.replace(j, merged)
    return sites.graph()


def _padded(pad, conv):
    """padding -> convolution, or padding -> padding, as one site; None where they do not fit."""
    operation, widths = conv.operation, pad.operation.widths
    if isinstance(operation, ZeroPad):
        both = tuple((a + c, b + d) for (a, b), (c, d) in zip(widths, operation.widths, strict=True))
        whole = dataclasses.replace(operation, function=lambda x: tf.pad(x, both), widths=both)
    elif isinstance(operation, Conv | DepthwiseConv | SeparableConv) and operation.padding != "same":
        last = operation.data_format == "channels_last"
        spatial, ends = (widths[1:-1], widths[:1] + widths[-1:]) if last else (widths[2:], widths[:2])
        if any(before or after for before, after in ends):
            return None
        own = _explicit(operation)
        around = tuple((a + c, b + d) for (a, b), (c, d) in zip(spatial, own, strict=True))
        whole = dataclasses.replace(operation, padding=around, multiple=None)
    else:
        return None
    merged = (pad.path, *pad.merged, *conv.merged)
    return dataclasses.replace(conv, operation=whole, inputs=pad.inputs, merged=merged)


def _explicit(operation):
    if operation.padding == "valid":
        return ((0, 0),) * len(operation.strides)
    if operation.padding == "causal":
        size = operation.read("float32")["kernel"].shape[0]
        return ((operation.dilation[0] * (size - 1), 0),)
    return operation.padding


def fold_batchnorm(graph: Graph, keep=frozenset()) -> Graph:
    """Folds per-channel scale and shift, BatchNormalization above all, into the linear layer beside them.

    w <- w gamma / sqrt(variance + epsilon), b <- (b - mean) gamma / sqrt(variance + epsilon) + beta, computed from
    the live variables at each call. Between the two may stand what moves channels as a whole: reshaping, cropping,
    upsampling, average pooling. What has no linear neighbour stays an affine site of its own.
    """
    sites = _Sites(graph, keep)
    for i, site in sites:
        if isinstance(site.operation, Scale) and _keeps_shape(site, sites.specs):
            _fold_into_writer(sites, i)
    for i, site in reversed(list(sites)):
        # Other scales in front of a linear layer are preprocessing of the input, whose relevance users want to see.
        if isinstance(site.operation, BatchNorm) and _keeps_shape(site, sites.specs):
            _fold_into_reader(sites, i)
    return sites.graph()


def _fold_into_writer(sites, i):
    """Lets the linear layer before site i do what the scale there does, if there is one."""
    scale, chain = sites[i], []
    j = sites.writer(scale.inputs[0])
    while j is not None and _moves_channels(sites[j]):
        chain.insert(0, j)
        j = sites.writer(sites[j].inputs[0])
    merged = None if j is None else _after(sites[j], [sites[k] for k in chain], scale, sites.specs, sites.dtype)
    if merged is None:
        return
    sites.replace(i, None)
    sites.replace(j, merged)
    last = chain[-1] if chain else j
    sites.replace(last, dataclasses.replace(sites[last], outputs=scale.outputs))


def _fold_into_reader(sites, i):
    """Lets the linear layer behind site i do what the scale there does, if there is one."""
    scale, chain = sites[i], []
    j = sites.reader(scale.outputs[0])
    while j is not None and _moves_channels(sites[j]):
        chain.append(j)
        j = sites.reader(sites[j].outputs[0])
    merged = None if j is None else _before(scale, [sites[k] for k in chain], sites[j], sites.specs, sites.dtype)
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
        keep: Slots that somebody asked for; like the outputs of the graph they stay as they are.
    """

    def __init__(self, graph, keep):
        self.specs, self.dtype = graph.specs, graph.dtype
        self._graph, self._sites = graph, list(graph.sites)
        self._held = {*graph.output_slots, *keep}
        self._writers, self._readers = {}, {}
        for i, site in enumerate(self._sites):
            self._writers.update(dict.fromkeys(site.outputs, i))
            for slot in set(site.inputs):
                self._readers.setdefault(slot, set()).add(i)

    def __iter__(self):
        return ((i, site) for i, site in enumerate(self._sites) if site is not None)

    def __getitem__(self, i):
        return self._sites[i]

    def _is_private(self, slot):
        return slot not in self._held and len(self._readers.get(slot, ())) == 1

    def writer(self, slot) -> int | None:
        """The site that writes a slot which one site alone reads; None for other slots."""
        return self._writers.get(slot) if self._is_private(slot) else None

    def reader(self, slot) -> int | None:
        """The one site that reads a slot; None where there are several, or somebody asked for it."""
        return next(iter(self._readers[slot])) if self._is_private(slot) else None

    def replace(self, i, site):
        """Puts another site in the place of site i, or none."""
        for slot in self._sites[i].outputs:
            self._writers.pop(slot, None)
        for slot in self._sites[i].inputs:
            self._readers[slot].discard(i)
        self._sites[i] = site
        if site is not None:
            self._writers.update(dict.fromkeys(site.outputs, i))
            for slot in site.inputs:
                self._readers.setdefault(slot, set()).add(i)

    def graph(self):
        return self._graph.rewrite(site for _, site in self)


def _moves_channels(site):
    """Whether a site may move channels, or average within them, whatever their values."""
    moves = isinstance(site.operation, ChannelDiagonalConv) or getattr(site.operation, "fixed", False)
    return moves and len(site.inputs) == len(site.outputs) == 1


def _keeps_shape(scale, specs):
    """Whether a scale leaves the shape of its input as it is; constants may make it larger."""
    return specs[scale.inputs[0]].shape == specs[scale.outputs[0]].shape


def _routed(chain, shape, axis, dtype) -> np.ndarray | None:
    """For every entry at the end of a chain the channel at its start that it comes from, from 0; -1 where from none.

    Two numberings of the channels are sent through, one of them random: a mean of several channels does not fit both.
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
        # Time steps that are samples cannot be put together again from one sample.
        return None
    inside = (first > 0) & (first <= shape[axis])
    fits = whole and np.array_equal(second[inside], other[first[inside] - 1]) and not second[~inside].any()
    return np.where(inside, first - 1, -1) if fits else None


def _pairs(first, second, size) -> np.ndarray | None:
    """The map from `first` to `second`, both given entry by entry; None where it is not one-valued, or not complete."""
    mapping = np.full(size, -1)
    if first is None or (first < 0).any() or (second < 0).any():
        return None
    mapping[first.ravel()] = second.ravel()
    complete = (mapping >= 0).all() and np.array_equal(mapping[first], second)
    return mapping if complete else None


def _positions(array, axis):
    """The index along an axis of every entry."""
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    return np.broadcast_to(np.arange(array.shape[axis]).reshape(shape), array.shape)


def _channel_map(chain, start, start_axis, end_axis, dtype, backwards=False) -> Callable | None:
    """A function that brings a vector over channels at one end of a chain into the order of those at the other end.

    Args:
        chain: Sites that move channels.
        start: Shape of the chain's input.
        start_axis, end_axis: Axes of the channels at its ends.
        dtype: Floating dtype in which the graph computes.
        backwards: From the end to the start.
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
    """linear -> chain -> scale, with the scale in the linear site; None where they do not fit."""
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
    """Whether an operation has fewer outputs than weights, for a batch of several samples."""
    if isinstance(operation, Scale) or None in shape[1:]:
        return False
    weights = operation.read("float32")
    kernels, _ = operation.split(weights)
    return SEVERAL * math.prod(shape[1:]) <= sum(math.prod(w.shape) for w in kernels.values())


def _order(factor, chain, shape, axis, rank, dtype, backwards):
    """How the vectors of a scale are brought into the order of the channels of a linear site; None if they cannot be.

    `axis` is that of the linear site; at the other end of the chain, with `rank` axes, stands the scale.
    """
    if factor.axis is None:
        scalar = all(w.shape.rank == 0 for w in factor.read("float32").values())
        return (lambda vector: vector) if scalar and not chain else None
    if backwards:
        return _channel_map(chain, shape, axis, factor.axis % rank, dtype, backwards=True)
    return _channel_map(chain, shape, factor.axis % rank, axis, dtype)


def _before(scale, chain, linear, specs, dtype):
    """scale -> chain -> linear, with the scale in the linear site; None where they do not fit.

    The shift becomes the linear map of itself as a bias: zeros that a convolution pads with are not shifted.
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
    """The shape of an input on which the shift has the same effect as on every input; None if that is not known.

    Without padding every output sees a whole window, and one window is enough.
    """
    if isinstance(operation, Dense):
        return (*(1,) * (len(shape) - 1), shape[-1])
    if isinstance(operation, Conv | DepthwiseConv) and operation.padding == "valid":
        kernel = operation.read("float32")["kernel"]
        window = [(k - 1) * d + 1 for k, d in zip(kernel.shape, operation.dilation, strict=False)]
        channels = shape[operation.input_axis(len(shape))]
        return (1, *window, channels) if operation.data_format == "channels_last" else (1, channels, *window)
    return None if None in shape[1:] else (1, *shape[1:])
