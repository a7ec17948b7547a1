"""Canonization: pure passes `Graph -> Graph` after which every weighted site is affine.

Each pass takes the graph and `keep`, slots that must survive because somebody asked for their value, and preserves
what the graph computes.
"""

import dataclasses

import keras
import tensorflow as tf

from revgraph.graph.graph import Graph, Site, Spec
from revgraph.graph.operations import (
    Activation,
    Affine,
    AveragePool,
    BatchNorm,
    ChannelDiagonalConv,
    Conv,
    DepthwiseConv,
    Fused,
    Routing,
    Scale,
    SeparableConv,
    along,
    reading,
)
from revgraph.graph.tracing import trace

PROBABILITIES = frozenset({"softmax", "sigmoid", "log_softmax", "logsoftmax", "log_sigmoid", "logsigmoid"})
"""Names of activations that turn logits into probabilities."""


def canonize(model, keep=()) -> Graph:
    """Rewrites a model into the form that rules are defined on; the result computes the same outputs.

    Fused activations become sites of their own, separable convolutions their two parts, average pooling a
    channel-diagonal convolution, and BatchNormalization is folded into the linear layer beside it.

    Args:
        model: A built Keras model, or a `Graph`.
        keep: Slots of the graph that must not be folded away.

    Returns:
        A `Graph` that can be called like the model, and printed.

    Example:

        graph = revgraph.canonize.canonize(model)
        print(graph)
        np.testing.assert_allclose(graph(x), model(x), rtol=1e-4)
    """
    graph = trace(model)
    for rewrite in (split_activations, split_separable, average_pooling_to_conv, fold_batchnorm):
        graph = rewrite(graph, frozenset(keep))
    return graph


def split_activations(graph: Graph, keep=frozenset()) -> Graph:
    """Makes `Dense(activation="relu")` an affine site and an activation site; the affine site's forward is its Z."""
    sites = []
    for site in graph.sites:
        if not isinstance(site.operation, Fused):
            sites.append(site)
            continue
        graph, between = graph.with_slot(graph.specs[site.outputs[0]])
        activation = site.operation.activation
        sites.append(dataclasses.replace(site, operation=site.operation.affine, outputs=(between,)))
        sites.append(
            Site(f"{site.path}/{activation.name}", activation, (between,), site.outputs, activation.layer or site.layer)
        )
    return graph.rewrite(sites)


def strip_output_activation(graph: Graph, keep=frozenset()) -> Graph:
    """Lets the graph return logits in place of the probabilities that softmax or sigmoid make of them."""
    producers = graph.producers()
    logits = {}
    for slot in graph.output_slots:
        site, logit = producers.get(slot), slot
        while site is not None and _is_probability(site):
            logit = site.inputs[0]
            site = producers.get(logit)
        logits[slot] = logit
    outputs = keras.tree.map_structure(lambda slot: logits[slot], graph.outputs)
    return prune(graph.rewrite(graph.sites, outputs=outputs), keep)


def _is_probability(site):
    operation = site.operation
    return (isinstance(operation, Activation) and operation.name in PROBABILITIES) or (
        isinstance(operation, Routing) and operation.name in ("Cast", "Identity")
    )


def prune(graph: Graph, keep=frozenset()) -> Graph:
    """Drops the sites that no output and no kept slot depends on."""
    needed = {*graph.output_slots, *keep}
    sites = []
    for site in reversed(graph.sites):
        if needed.intersection(site.outputs):
            needed.update(site.inputs)
            sites.append(site)
    return graph.rewrite(reversed(sites))


def average_pooling_to_conv(graph: Graph, keep=frozenset()) -> Graph:
    """Makes average pooling of every kind a channel-diagonal convolution, to which every rule applies as it is."""

    def rewrite(site):
        pool = site.operation
        if not isinstance(pool, AveragePool):
            return site
        conv = ChannelDiagonalConv(reading({}), pool.function, pool.count)
        return dataclasses.replace(site, operation=conv)

    return graph.rewrite(map(rewrite, graph.sites))


def split_separable(graph: Graph, keep=frozenset()) -> Graph:
    """Makes a separable convolution its depthwise and its pointwise convolution, which get the rule one by one."""
    sites = []
    for site in graph.sites:
        operation = site.operation
        if not isinstance(operation, SeparableConv):
            sites.append(site)
            continue
        graph, between = graph.with_slot(_depthwise_spec(graph.specs[site.outputs[0]], operation))
        depthwise, pointwise = _separable_parts(operation)
        sites.append(dataclasses.replace(site, path=f"{site.path}/depthwise", operation=depthwise, outputs=(between,)))
        sites.append(dataclasses.replace(site, path=f"{site.path}/pointwise", operation=pointwise, inputs=(between,)))
    return graph.rewrite(sites)


def _depthwise_spec(spec, operation):
    channels = operation.read("float32")["pointwise_kernel"].shape[-2]
    axis = operation.output_axis(len(spec.shape))
    return Spec((*spec.shape[:axis], channels, *spec.shape[axis + 1 :]), spec.dtype)


def _separable_parts(operation):
    def first(dtype):
        return {"kernel": operation.read(dtype)["depthwise_kernel"]}

    def second(dtype):
        weights = operation.read(dtype)
        bias = {"bias": weights["bias"]} if "bias" in weights else {}
        return {"kernel": weights["pointwise_kernel"], **bias}

    one = (1,) * len(operation.strides)
    depthwise = DepthwiseConv(first, operation.strides, operation.padding, operation.dilation, operation.data_format)
    return depthwise, Conv(second, one, "valid", one, operation.data_format)


def fold_batchnorm(graph: Graph, keep=frozenset()) -> Graph:
    """Folds per-channel scale and shift, BatchNormalization above all, into the linear site beside them.

    w <- w gamma / sqrt(variance + epsilon), b <- (b - mean) gamma / sqrt(variance + epsilon) + beta, computed from
    the live variables at each call. What has no linear neighbour stays an affine site of its own.
    """
    readers, held = graph.consumers(), {*graph.output_slots, *keep}

    def alone(slot):
        return slot not in held and len(readers[slot]) == 1

    writer = {}
    for site in graph.sites:
        before = writer.get(site.inputs[0]) if isinstance(site.operation, Scale) else None
        merged = _after(before, site, graph) if before is not None and alone(site.inputs[0]) else None
        if merged is not None:
            del writer[before.outputs[0]]
        site = merged or site
        writer.update(dict.fromkeys(site.outputs, site))
    reader = {}
    for site in reversed(_in_order(writer, graph)):
        after = reader.get(site.outputs[0]) if _is_batchnorm(site) and alone(site.outputs[0]) else None
        merged = _before(site, after, graph) if after is not None else None
        if merged is not None:
            del writer[site.outputs[0]]
            writer[after.outputs[0]] = merged
        site = merged or site
        reader.update(dict.fromkeys(site.inputs, site))
    return graph.rewrite(_in_order(writer, graph))


def _in_order(writer, graph):
    """The sites that are left, where their outputs stood in the graph."""
    position = {slot: i for i, site in enumerate(graph.sites) for slot in site.outputs}
    return sorted(dict.fromkeys(writer.values()), key=lambda site: position[site.outputs[0]])


def _is_batchnorm(site):
    # Other scales in front of a linear layer are preprocessing of the input, whose relevance users want to see.
    return isinstance(site.operation, BatchNorm)


def _fits(scale, axis, rank):
    """Whether the scale is a vector along this axis, or a scalar."""
    if scale.axis is not None:
        return scale.axis % rank == axis
    return all(w.shape.rank == 0 for w in scale.read("float32").values())


def _after(linear, scale, graph):
    """linear -> scale as one site; None where they do not fit."""
    operation, factor = linear.operation, scale.operation
    rank = len(graph.specs[linear.outputs[0]].shape)
    if not isinstance(operation, Affine) or operation.output_axis(rank) is None:
        return None
    if not _fits(factor, operation.output_axis(rank), rank):
        return None

    def spread(vector):
        return vector if isinstance(operation, Scale) else along(vector, operation.output_axis(rank), rank)

    def read(dtype):
        weights, by = operation.read(dtype), factor.read(dtype)
        kernels, bias = operation.split(weights)
        merged = operation.scale_outputs(kernels, by["kernel"])
        terms = [] if bias is None else [bias * spread(by["kernel"])]
        terms += [spread(by["bias"])] if "bias" in by else []
        return {**merged, "bias": sum(terms[1:], terms[0])} if terms else merged

    merged = (*linear.merged, scale.path, *scale.merged)
    folded = dataclasses.replace(operation, reader=read)
    return Site(linear.path, folded, linear.inputs, scale.outputs, linear.layer, merged)


def _before(scale, linear, graph):
    """scale -> linear as one site; None where they do not fit, or where the border cannot be kept right."""
    operation, factor = linear.operation, scale.operation
    shape = graph.specs[scale.outputs[0]].shape
    rank = len(shape)
    if not isinstance(operation, Affine) or operation.input_axis(rank) is None or None in shape[1:]:
        return None
    if not _fits(factor, operation.input_axis(rank), rank):
        return None

    def read(dtype):
        weights, by = operation.read(dtype), factor.read(dtype)
        kernels, bias = operation.split(weights)
        terms = [] if bias is None else [bias]
        if "bias" in by:
            # The linear map of the shift itself: zeros that the convolution pads with are not shifted.
            shift = tf.broadcast_to(along(by["bias"], operation.input_axis(rank), rank), (1, *shape[1:]))
            terms.append(operation.linear((shift,), kernels))
        merged = operation.scale_inputs(kernels, by["kernel"])
        return {**merged, "bias": sum(terms[1:], terms[0])} if terms else merged

    merged = (scale.path, *scale.merged, *linear.merged)
    folded = dataclasses.replace(operation, reader=read)
    return Site(linear.path, folded, scale.inputs, linear.outputs, linear.layer, merged)
