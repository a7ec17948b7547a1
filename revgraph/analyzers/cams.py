"""Class activation maps: the channels of a feature map, weighted by their gradients and added up."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.canonize.passes import prune
from revgraph.composites import GRADIENT
from revgraph.graph import Graph
from revgraph.graph.analysis import depending
from revgraph.graph.feature_maps import last_feature_map
from revgraph.graph.types import Selection, Tensors
from revgraph.reverse.ledger import Conservation
from revgraph.reverse.walk import Question, Walk, no_relevance


class GradCAM(ReverseAnalyzer):
    """Grad-CAM: where the channels that speak for the class are active.  [Selvaraju et al., 2017]

    M = ReLU(sum_k w_k A_k), with A_k the channel k of a feature map, and w_k the mean over its places of dy/dA_k.

    The map is scaled up to the places of the input, by linear interpolation along each axis. All channels of the input
    get an equal share of it, so relevance has the input's shape, and `relevance.sum(axis=-1)` is the map. This works
    for images, series and volumes, with channels on the last axis. Each of several inputs has its own map; an input
    without places, such as a table, gets zeros.

    Args:
        model: A built Keras model.
        layer: Name or path of the layer whose output is the feature map, or the layer. By default it is the last in
            front of the start that has the input's axes: for an image the last convolution or pooling, for a series the
            last convolution or recurrent layer that returns all steps. The property `feature_maps` says which.
        relu: Whether the negative part of the map is left out, as in the paper.
        upsample: False returns the map as it is, (batch, places...) without channels.
        **options: See `ReverseAnalyzer`.

    Raises:
        ValueError: The model has no feature map, or the layer makes none.
        KeyError: There is no such layer.

    Example:

        analyzer = revgraph.create_analyzer("grad_cam", model, layer="conv5_block3_out")
        where = analyzer.analyze(images, neuron_selection=3).sum(axis=-1)  # (batch, height, width)
    """

    name = "grad_cam"

    def __init__(
        self,
        model: keras.Model | Graph,
        layer: str | keras.Layer | None = None,
        relu: bool = True,
        upsample: bool = True,
        **options: Any,
    ) -> None:
        self.layer = layer
        self.relu = relu
        self.upsample = upsample
        super().__init__(model, GRADIENT, **options)

    def _canonize(self, graph, keep):
        return prune(graph, keep)

    def _own_start(self, y):
        return tf.ones_like(y)

    def _weights(self, activations, gradients, places):
        """The weights of activations, which broadcast against them."""
        return tf.reduce_mean(gradients, places, keepdims=True)

    def _map(self, activations, gradients):
        """The map (batch, places...) of activations (batch, places..., channels) and their gradients."""
        places = tuple(range(1, len(activations.shape) - 1))
        found = tf.reduce_sum(self._weights(activations, gradients, places) * activations, axis=-1)
        return tf.nn.relu(found) if self.relu else found

    def _new_walk(self, graph, question):
        walk = super()._new_walk(graph, question)
        return MapWalk(
            self._feature_maps(graph, question.starts), self._map, self.upsample,
            walk.reverse, question, walk.own, walk.finish, keep=walk.keep, jit_compile=walk.jit_compile,
        )  # fmt: skip

    def _feature_maps(self, graph, starts):
        """The slot of the feature map of each input that has one."""
        first = [s.path for s in graph.sites if getattr(s.operation, "data_format", None) == "channels_first"]
        if first:
            raise ValueError(
                f"{self.name} takes channels on the last axis, and {first[0]!r} has them on the first. Build the model "
                f'with data_format="channels_last", or take "gradient" or a method of LRP.'
            )
        found = {slot: self._feature_map(graph, slot, starts) for slot in graph.input_slots}
        found = {slot: made for slot, made in found.items() if made is not None}
        if not found:
            raise ValueError(
                f"{self.name} needs a feature map in front of the start of relevance: the output of a layer that has "
                f"the places of an input, such as a convolution. "
                + (f"{self.layer!r} of {graph.name!r} makes none." if self.layer else f"{graph.name!r} has none.")
                + " Name a layer that makes one, layer=..., or take a method without feature maps, such as "
                '"occlusion", "input_t_gradient" or "lrp.epsilon".'
            )
        return found

    def _feature_map(self, graph, slot, starts):
        rank = len(graph.specs[slot].shape)
        if rank < 3 or "float" not in graph.specs[slot].dtype:
            return None
        if self.layer is None:
            return last_feature_map(graph, slot, starts)
        outputs = self.traced.find(self.layer).outputs
        behind = depending(graph, slot)
        fit = [s for s in outputs if s in behind and s not in starts and len(graph.specs[s].shape) == rank]
        leads = [s for s in fit if not depending(graph, s).isdisjoint(starts)]
        return leads[0] if leads else None

    @property
    def feature_maps(self) -> dict[str, str]:
        """The layers that make the feature maps, by the name of the input."""
        walk: Any = self.walk(self.question)
        makers = {slot: site.path for site in self.traced.sites for slot in site.outputs}
        makers |= {call.outputs[0]: call.path for call in reversed(self.traced.calls) if len(call.outputs) == 1}
        names = dict(zip(walk.graph.input_slots, walk.graph.input_names, strict=True))
        return {names[slot]: makers[made] for slot, made in walk.maps.items()}

    def conservation(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **start: Any,
    ) -> Conservation:
        """Unsupported: a map is no share of the output; see `Analyzer.conservation`."""
        return Analyzer.conservation(self, X, neuron_selection, batch_size, verbose, **start)


class GradCAMPlusPlus(GradCAM):
    """Grad-CAM++: like Grad-CAM, with weights that find several objects of a class.  [Chattopadhay et al., 2018]

    w_k = sum over places of a_k ReLU(g_k), with g_k = dy/dA_k and a_k = g_k^2 / (2 g_k^2 + g_k^3 sum A_k). The factor
    exp(y) of the paper is left out: it is one number for the whole map, and too large for float32 where y is.

    Args:
        model, layer, relu, upsample, **options: See `GradCAM`.
    """

    name = "grad_cam_plus_plus"

    def _weights(self, activations, gradients, places):
        total = tf.reduce_sum(activations, places, keepdims=True)
        shares = tf.math.divide_no_nan(tf.ones_like(gradients), 2 + gradients * total)
        return tf.reduce_sum(shares * tf.nn.relu(gradients), places, keepdims=True)


class LayerCAM(GradCAM):
    """LayerCAM: every place has a weight of its own, which suits early layers, too.  [Jiang et al., 2021]

    M = ReLU(sum_k ReLU(dy/dA_k) A_k), place by place.

    Args:
        model, layer, relu, upsample, **options: See `GradCAM`.
    """

    name = "layer_cam"

    def _weights(self, activations, gradients, places):
        return tf.nn.relu(gradients)


class MapWalk(Walk):
    """A walk whose answer for an input is a map that is made of a feature map and its gradient.

    Args:
        maps: The slot of the feature map, by the slot of the input.
        combine: Function of a feature map and its gradient that gives a map (batch, places...).
        upsample: Whether maps get the shape of the input.
        reverse, question, own, finish, **options: See `Walk`.
    """

    def __init__(
        self,
        maps: dict[int, int],
        combine: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        upsample: bool,
        reverse: Any,
        question: Question,
        *arguments: Any,
        **options: Any,
    ) -> None:
        self.maps, self.combine, self.upsample = maps, combine, upsample
        self._asked = len(question.returned)
        asked = dataclasses.replace(question, returned=(*question.returned, *((slot,) for slot in maps.values())))
        super().__init__(reverse, asked, *arguments, **options)

    def _pulled_once(self, forward, tensors, masks, watch=False):
        # What is returned is no relevance that was handed on, so nothing is said of its growth.
        result = super()._pulled_once(forward, tensors, masks)
        gradients = dict(zip(self.maps, result["layers"][self._asked :], strict=True))
        answers = [self._answer(forward.values, slot, gradients) for slot in self.graph.input_slots]
        return {**result, "layers": result["layers"][: self._asked], "relevance": answers}

    def _answer(self, values, slot, gradients):
        if slot not in self.maps:
            return no_relevance(values[slot], self.graph.dtype)
        found = self.combine(values[self.maps[slot]], *gradients[slot])
        return spread(found, values[slot]) if self.upsample else found


def spread(maps: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Maps (batch, places...) with the places of x (batch, places..., channels), in equal shares for its channels.

    Between the centres of two entries values are interpolated linearly. Beyond the outer centres they are constant.
    """
    shape = tf.shape(x)
    for axis in range(1, len(x.shape) - 1):
        size, wanted = tf.shape(maps)[axis], shape[axis]
        place = (tf.range(wanted, dtype=maps.dtype) + 0.5) * tf.cast(size / wanted, maps.dtype) - 0.5
        place = tf.clip_by_value(place, 0, tf.cast(size - 1, maps.dtype))
        below = tf.cast(tf.floor(place), tf.int32)
        share = tf.reshape(place - tf.floor(place), (-1, *(1,) * (len(maps.shape) - 1 - axis)))
        above = tf.minimum(below + 1, size - 1)
        maps = tf.gather(maps, below, axis=axis) * (1 - share) + tf.gather(maps, above, axis=axis) * share
    return tf.broadcast_to(maps[..., None] / tf.cast(shape[-1], maps.dtype), shape)
