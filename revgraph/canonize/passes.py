"""Canonization: passes that rewrite a graph until every site with weights is affine, z = linear(x) + bias.

LRP rules are defined on affine sites. Each pass takes a graph and `keep`, the slots that must survive because somebody
asked for their relevance. It returns a new graph with the same outputs.
"""

import dataclasses
from collections.abc import Iterable

import keras
import tensorflow as tf

from revgraph.canonize.cells import join_cells, slice_kernels
from revgraph.canonize.folding import fold_batchnorm, fold_padding
from revgraph.canonize.products import join_products
from revgraph.graph.analysis import is_linear_layer
from revgraph.graph.graph import Graph, Site, Spec
from revgraph.graph.log import timed
from revgraph.graph.loops import Loop
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
"""Names of routings that keep every entry in its place."""


def canonize(model: keras.Model | Graph, keep: Iterable[int] = (), gates: bool = True) -> Graph:
    """Rewrites a model into a graph of the sites on which LRP rules are defined.

    The graph computes the same outputs as the model, and the model itself is not changed. These steps are taken:

    * An activation inside of a layer becomes a site.
    * A separable convolution becomes two convolutions.
    * Average pooling becomes a convolution.
    * Normalization of a sample by its own statistics (LayerNormalization) becomes affine.
    * Nested products become one product.
    * Zero padding and BatchNormalization are folded into the linear layer beside them.
    * In the body of a loop, such as a recurrent layer has, the affine part of a cell becomes one site.

    Args:
        model: A built Keras model, or a `Graph`.
        keep: Slots of the graph that must not be folded away.
        gates: Whether gates inside of a cell, such as the reset gate of a GRU, count as constants; see `join_cells`.

    Returns:
        A `Graph`, which can be called like the model, and printed.

    Example:

        graph = revgraph.canonize.canonize(model)
        print(graph)
        np.testing.assert_allclose(graph(x), model(x), rtol=1e-4)
    """
    graph = trace(model)
    with timed("canonize", graph):
        for rewrite in PASSES:
            graph = rewrite(graph, frozenset(keep))
        return canonize_loops(graph, frozenset(keep), gates)


def split_activations(graph: Graph, keep: Iterable[int] = frozenset()) -> Graph:
    """Splits a layer with an activation, such as `Dense(activation="relu")`, into an affine site and an activation.

    The output of the affine site is z, the sum that LRP shares out.

    Args:
        graph: The graph.
        keep: Taken as every pass takes it; this pass removes no slot.

    Returns:
        A graph with the same outputs.
    """
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


def strip_output_activation(graph: Graph, keep: Iterable[int] = frozenset()) -> Graph:
    """Removes softmax and sigmoid at the outputs, so that the graph returns logits instead of probabilities.

    Where probabilities are moved on their way to the output, such as by a reshape, the logits are moved in the same
    way. This pass changes what the graph returns, so it is not part of `canonize`.

    Args:
        graph: The graph.
        keep: Slots that must survive.

    Returns:
        A graph that returns logits.
    """
    logits = {}
    for slot in graph.output_slots:
        graph, logits[slot] = _logits_of(slot, graph)
    outputs = keras.tree.map_structure(lambda slot: logits[slot], graph.outputs)
    return prune(graph.rewrite(graph.sites, outputs=outputs), keep)


def _logits_of(slot: int, graph: Graph) -> tuple[Graph, int]:
    """A graph that computes the logits for a slot of probabilities, and the slot of the logits."""
    producers, passed, below = graph.producers(), [], slot
    while below in producers:
        site = producers[below]
        before = site.inputs[0] if site.operation.traits.probability else _moved(site, graph)
        if before is None:
            break
        passed.append((site, before))
        below = before
    # Moves in front of the probabilities stay, because they move the logits already.
    while passed and not passed[-1][0].operation.traits.probability:
        passed.pop()
    if not passed:
        return graph, slot
    logit = passed[-1][1]
    for site, before in reversed(passed):
        if not site.operation.traits.probability and site.operation.label not in SAME:
            graph, moved = graph.with_slot(graph.specs[site.outputs[0]])
            inputs = tuple(logit if read == before else read for read in site.inputs)
            move = dataclasses.replace(site, inputs=inputs, outputs=(moved,))
            graph, logit = graph.rewrite((*graph.sites, move)), moved
    return graph, logit


def _moved(site: Site, graph: Graph) -> int | None:
    """The slot whose entries are those of a site's output, each in its old place or in another; None where none is.

    Other inputs are integers: a place, or the sizes of a reshape.
    """
    move = site.operation
    floating = [slot for slot in site.inputs if tf.as_dtype(graph.specs[slot].dtype).is_floating]
    if not isinstance(move, Routing) or len(floating) != 1 or len(site.outputs) != 1:
        return None
    return floating[0] if move.name in SAME or (move.copies and move.fixed and not move.fills) else None


def prune(graph: Graph, keep: Iterable[int] = frozenset()) -> Graph:
    """Drops the sites on which no output and no kept slot depends.

    Args:
        graph: The graph.
        keep: Slots that must survive, besides the outputs.

    Returns:
        A graph with the same outputs.
    """
    needed = {*graph.output_slots, *keep}
    sites = []
    for site in reversed(graph.sites):
        if needed.intersection(site.outputs):
            needed.update(site.inputs)
            sites.append(site)
    return graph.rewrite(reversed(sites))


def average_pooling_to_conv(graph: Graph, keep: Iterable[int] = frozenset()) -> Graph:
    """Makes average pooling of every kind a convolution, to which every rule for convolutions applies.

    The kernel is 1/n where an output channel meets the same input channel, with n the size of the window, and zero
    elsewhere; see `revgraph.graph.operations.ChannelDiagonalConv`.

    Args:
        graph: The graph.
        keep: Taken as every pass takes it; this pass removes no slot.

    Returns:
        A graph with the same outputs.
    """

    def rewrite(site):
        pool = site.operation
        if not isinstance(pool, AveragePool):
            return site
        conv = ChannelDiagonalConv(reading({}), pool.function, pool.count)
        return dataclasses.replace(site, operation=conv)

    return graph.rewrite(map(rewrite, graph.sites))


def split_separable(graph: Graph, keep: Iterable[int] = frozenset()) -> Graph:
    """Splits a separable convolution into its depthwise and its pointwise convolution. Each gets a rule.

    Args:
        graph: The graph.
        keep: Taken as every pass takes it; this pass removes no slot.

    Returns:
        A graph with the same outputs.
    """
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


def hold_deviations(graph: Graph, keep: Iterable[int] = frozenset()) -> Graph:
    r"""Makes normalization of a sample by its own statistics affine, because the standard deviation is held constant.

    LayerNormalization, GroupNormalization, RMSNormalization and UnitNormalization compute

        z = (x - mean(x)) / c * gamma + beta    with c = sqrt(variance(x) + epsilon)

    and c is held constant. The subtraction of the mean is a linear map of n entries, which shares relevance out as
    R_j = sum_k x_j (delta_jk - 1/n) / (x_k - mean(x)) R_k. The division passes relevance on unchanged.

    Args:
        graph: The graph.
        keep: Taken as every pass takes it; this pass removes no slot.

    Returns:
        A graph with the same outputs.

    Reference:
        Ali et al.: XAI for Transformers: Better Explanations through Conservative Propagation. ICML, 2022.
    """

    def rewrite(site):
        if not isinstance(site.operation, Normalize):
            return site
        return dataclasses.replace(site, operation=dataclasses.replace(site.operation, held=True))

    return graph.rewrite(map(rewrite, graph.sites))


def canonize_loops(graph: Graph, keep: Iterable[int] = frozenset(), gates: bool = True) -> Graph:
    """Canonizes the body of every loop, and joins the affine parts of a recurrent cell to one site.

    Args:
        graph: The graph.
        keep: Taken as every pass takes it; this pass removes no slot of the graph itself.
        gates: See `join_cells`.

    Returns:
        A graph with the same outputs.
    """

    return graph.rewrite(_with_canonized_body(site, graph.calls, gates) for site in graph.sites)


def _with_canonized_body(site, calls, gates):
    if not isinstance(site.operation, Loop):
        return site
    body = site.operation.body
    for each in (*PASSES, slice_kernels):
        body = each(body, frozenset())
    body = join_cells(body, frozenset(), gates)
    # Entries of composites name the recurrent layer, and mean what is inside of its loop.
    around = max((c for c in calls if site.path.startswith(f"{c.path}/")), key=lambda c: len(c.path), default=None)
    layer = site.layer if around is None else around.layer
    inside = (_with_canonized_body(s, calls, gates) for s in body.sites)
    inside = (dataclasses.replace(s, layer=s.layer or layer) if is_linear_layer(s.operation) else s for s in inside)
    operation = dataclasses.replace(site.operation, body=body.rewrite(inside))
    return dataclasses.replace(site, operation=operation, layer=layer)


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
