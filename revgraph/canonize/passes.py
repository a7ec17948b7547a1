"""Canonization: pure passes `Graph -> Graph` after which every weighted site is affine.

Each pass takes the graph and `keep`, slots that must survive because somebody asked for their value, and preserves
what the graph computes.
"""

import dataclasses

import keras

from revgraph.canonize.folding import fold_batchnorm, fold_padding
from revgraph.canonize.products import join_products
from revgraph.graph.graph import Graph, Site, Spec
from revgraph.graph.log import timed
from revgraph.graph.operations import (
    AveragePool,
    ChannelDiagonalConv,
    Conv,
    DepthwiseConv,
    Fused,
    Normalize,
    Routing,
    SeparableConv,
    reading,
)
from revgraph.read.keras.tracing import trace

SAME = ("Cast", "Identity")
"""Names of routings that leave every entry where it is."""


def canonize(model, keep=()) -> Graph:
    """Rewrites a model into the form that rules are defined on; the result computes the same outputs.

    Fused activations become sites of their own, separable convolutions their two parts, average pooling a
    channel-diagonal convolution, nested products one product; zero padding and BatchNormalization are folded into the
    linear layer beside them, and normalizations of a sample by its own statistics become affine.

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
    with timed("canonize", graph):
        for rewrite in PASSES:
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
    """Lets the graph return logits in place of the probabilities that softmax or sigmoid make of them.

    Probabilities may be moved on their way to the output, such as by a reshape: the logits are moved likewise.
    """
    logits = {}
    for slot in graph.output_slots:
        graph, logits[slot] = _logits_of(slot, graph)
    outputs = keras.tree.map_structure(lambda slot: logits[slot], graph.outputs)
    return prune(graph.rewrite(graph.sites, outputs=outputs), keep)


def _logits_of(slot, graph):
    """A graph that computes the logits behind a slot, moved as the slot's entries are, and their slot."""
    producers, passed, below = graph.producers(), [], slot
    while below in producers and (_is_move(producers[below]) or producers[below].operation.traits.probability):
        passed.append(producers[below])
        (below,) = passed[-1].inputs
    # What is done to the logits stays as it is.
    while passed and not passed[-1].operation.traits.probability:
        passed.pop()
    if not passed:
        return graph, slot
    (logit,) = passed[-1].inputs
    for site in reversed(passed):
        if not site.operation.traits.probability and site.operation.name not in SAME:
            graph, moved = graph.with_slot(graph.specs[site.outputs[0]])
            move = dataclasses.replace(site, inputs=(logit,), outputs=(moved,))
            graph, logit = graph.rewrite((*graph.sites, move)), moved
    return graph, logit


def _is_move(site):
    """Whether a site gives the entries of its only input, each where it was or in another place."""
    operation = site.operation
    if not isinstance(operation, Routing) or len(site.inputs) != 1 or len(site.outputs) != 1:
        return False
    return operation.name in SAME or (operation.copies and operation.fixed and not operation.fills)


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


def hold_deviations(graph: Graph, keep=frozenset()) -> Graph:
    r"""Makes normalization of a sample by its own statistics an affine site: the standard deviation counts as constant.

    z = (x - mean(x)) / c * gamma + beta with c = sqrt(variance(x) + epsilon) held constant, so that mean subtraction
    takes part as the linear map that it is, R_j = sum_k x_j (delta_jk - 1/n) / (x_k - mean(x)) R_k, and the
    division passes relevance on.

    Reference:
        Ali et al.: XAI for Transformers: Better Explanations through Conservative Propagation. ICML, 2022.
    """

    def rewrite(site):
        if not isinstance(site.operation, Normalize):
            return site
        return dataclasses.replace(site, operation=dataclasses.replace(site.operation, held=True))

    return graph.rewrite(map(rewrite, graph.sites))


PASSES = (
    split_activations,
    split_separable,
    average_pooling_to_conv,
    hold_deviations,
    join_products,
    fold_padding,
    fold_batchnorm,
)
"""The passes of `canonize`, in their order."""
