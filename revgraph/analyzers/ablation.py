"""Occlusion and ablation: how much the output changes when parts of the input are replaced by a reference."""

import math
from collections.abc import Iterator
from itertools import islice, product
from typing import Any, TypeAlias

import keras
import numpy as np

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.gradient import Gradient
from revgraph.analyzers.reference import FROM_ZERO, SAME, check_references, flat_references, references_of
from revgraph.analyzers.selected import fixed, selected_values, tiled
from revgraph.analyzers.wrappers import AT_ONCE
from revgraph.graph import Graph
from revgraph.graph.arguments import check_count
from revgraph.graph.types import Relevance, Selection, Tensors

Parts: TypeAlias = list[Any]
"""What is replaced at once: for each input a mask of a sample's shape, or None where nothing is."""


class Ablation(Analyzer):
    """Replaces parts of the input by a reference, and gives each part the change of the output, f(x) - f(replaced).

    An entry in several parts gets their mean, and an entry in none zero. The output is that at which relevance starts:
    the logit where the model ends in softmax or sigmoid. Only the model's outputs are asked for, so any model will do.

    Args:
        model: A built Keras model.
        reference_inputs: What parts are replaced by; see `revgraph.analyzers.reference`. By default zeros. Ids need an
            id, such as that of padding; masks stay as they are.
        **options: See `Analyzer`.
    """

    selects = True

    def __init__(self, model: keras.Model | Graph, reference_inputs: Tensors = FROM_ZERO, **options: Any) -> None:
        check_references(reference_inputs)
        # It knows where relevance starts, and the value there. Nothing walks backwards.
        self._forward = Gradient(model, **options)
        super().__init__(model, **options)
        self.reference_inputs = reference_inputs
        told = references_of(reference_inputs, self.graph)
        rows = told.names(FROM_ZERO)
        if rows:
            raise ValueError(
                f"{self.name} puts ids in the place of ids, and {', '.join(map(repr, sorted(rows)))} has ids: pass one "
                f"that says nothing, such as that of padding, reference_inputs=0."
            )
        same = told.names(SAME)
        self._changed = [name not in same for name in self.graph.input_names]
        if not any(self._changed):
            raise ValueError(
                f"{self.name} replaces parts of inputs, and with reference_inputs={reference_inputs!r} they stay as "
                f"they are. Pass what they are replaced by, such as reference_inputs=0."
            )

    def _graph(self):
        return self._forward.graph

    @property
    def innermost(self) -> Analyzer:
        return self._forward

    def _parts(self, shapes: list[tuple[int, ...]]) -> Iterator[Parts]:
        """The parts that are replaced, one after the other.

        Args:
            shapes: The shape of a sample of each input.
        """
        raise NotImplementedError

    def analyze(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **options: Any,
    ) -> Relevance:
        """Computes how much the output changes without each part of the input.

        Args:
            X, neuron_selection: See `ReverseAnalyzer.analyze`. For the largest output it is that of the input itself.
            batch_size: Variants of the input that are computed at once; 64 by default.
            verbose: 1 shows how many parts have been replaced.
            **options: `initial_relevance`, `layer`, `attribute_to_neuron_input`, `pre_activation`: see
                `ReverseAnalyzer.analyze`. With `layer` the change of that layer is what counts.

        Returns:
            Array of X's shape, or arrays in the structure of the model's inputs; for several targets (batch, targets,
            ...).
        """
        selection = self.selected(neuron_selection)
        self._forward.started(f"analyze of {self.name!r}", options)
        # References may be one for each sample, so a batch is taken as a whole, and cut where variants are computed.
        results = [
            self._without_parts(list(map(np.asarray, inputs)), selection, batch_size or AT_ONCE, verbose, options)
            for inputs, _, _ in self.batches(X)
        ]
        return self._packed([np.concatenate(parts) for parts in zip(*results, strict=True)])

    def selected(self, selection: Selection) -> Selection:
        return self._forward.selected(selection)

    def _without_parts(self, inputs, selection, batch_size, verbose, options):
        count, graph = len(inputs[0]), self.graph
        references = flat_references(self.reference_inputs, inputs, graph)
        selection = fixed(self._forward, selection, inputs, batch_size, options)
        whole = selected_values(self._forward, inputs, selection, batch_size, options)
        found: list[Any] = [0.0 for _ in inputs]
        times: list[Any] = [np.zeros(x.shape[1:]) for x in inputs]
        parts = self._parts([x.shape[1:] for x in inputs])
        progress = keras.utils.Progbar(None) if verbose else None
        while group := list(islice(parts, max(1, batch_size // count))):
            variants = [
                np.concatenate([x if part[i] is None else np.where(part[i], r, x) for part in group])
                for i, (x, r) in enumerate(zip(inputs, references, strict=True))
            ]
            chosen = tiled(selection, count, len(group))
            start = {name: tiled(value, count, len(group)) for name, value in options.items()}
            values = selected_values(self._forward, variants, chosen, batch_size, start)
            changes = whole - values.reshape(len(group), *whole.shape)
            for part, change in zip(group, changes.astype("float64"), strict=True):
                for i, mask in enumerate(part):
                    if mask is not None:
                        found[i] = found[i] + change.reshape(*change.shape, *(1,) * mask.ndim) * mask
                        times[i] += mask
            if progress:
                progress.add(len(group))
        means = [total / np.maximum(n, 1) for total, n in zip(found, times, strict=True)]
        return [
            np.broadcast_to(mean, (*whole.shape, *x.shape[1:])).astype(graph.dtype)
            for mean, x in zip(means, inputs, strict=True)
        ]


class Occlusion(Ablation):
    """Occlusion: how much the output changes when a patch of the input is covered.  [Zeiler and Fergus, 2014]

    A patch moves over each input in turn: over images, series, volumes, features of a table, or tokens.

    Args:
        model: A built Keras model.
        patch: Size of the patch: an int for all axes but that of the channels, which are covered together; or a tuple
            of one int per axis, with or without that of the channels. For several inputs a dict by the name of the
            input. By default an eighth of each axis, and one feature of a table.
        stride: How far the patch moves, like `patch`, and not more than it; `patch` by default. At the end of an axis
            the patch is cut.
        reference_inputs: What covers it; see `Ablation`.
        **options: See `Analyzer`.

    Example:

        analyzer = revgraph.create_analyzer("occlusion", model, patch=16, stride=8, reference_inputs=0.5)
        changes = analyzer.analyze(images, neuron_selection=3)
    """

    name = "occlusion"

    def __init__(
        self,
        model: keras.Model | Graph,
        patch: Any = None,
        stride: Any = None,
        reference_inputs: Tensors = FROM_ZERO,
        **options: Any,
    ) -> None:
        super().__init__(model, reference_inputs, **options)
        self.patch = patch
        self.stride = stride
        for given, name in ((patch, "patch"), (stride, "stride")):
            for part in _by_input(given, name, self.graph.input_names):
                if part is not None:
                    _check_size(part, name)

    def _parts(self, shapes):
        names = self.graph.input_names
        patches, strides = (_by_input(v, n, names) for v, n in ((self.patch, "patch"), (self.stride, "stride")))
        for i, (name, shape) in enumerate(zip(names, shapes, strict=True)):
            if not self._changed[i]:
                continue
            usual = 1 if len(shape) == 1 else tuple(math.ceil(n / 8) for n in shape[:-1])
            patch = _size(usual if patches[i] is None else patches[i], shape, "patch", name)
            stride = patch if strides[i] is None else _size(strides[i], shape, "stride", name)
            if any(s > p for s, p in zip(stride, patch, strict=True)):
                raise ValueError(
                    f"The stride {tuple(stride)} over input {name!r} is larger than the patch {tuple(patch)}, so "
                    f"entries between patches would never be covered. Make it as large as the patch, or smaller."
                )
            for first in product(*(_firsts(*each) for each in zip(shape, patch, stride, strict=True))):
                mask = np.zeros(shape, bool)
                mask[tuple(slice(f, f + p) for f, p in zip(first, patch, strict=True))] = True
                yield [mask if k == i else None for k in range(len(shapes))]


class FeatureAblation(Ablation):
    """Feature ablation: how much the output changes without a feature, or without a group of features.

    Args:
        model: A built Keras model.
        feature_mask: Which group each entry belongs to, from 0 on: an int array of a sample's shape, or one that
            broadcasts against it, such as [0, 0, 0, 1, 2] for a table whose first three columns are one category. The
            entries of a group are replaced together, and each of them gets the change. For several inputs a list or a
            dict of arrays by input name; a number that several inputs have is one group. By default every entry is a
            group.
        reference_inputs: What they are replaced by, such as the mean of the training data; see `Ablation`.
        **options: See `Analyzer`.

    Example:

        analyzer = revgraph.create_analyzer("feature_ablation", model, reference_inputs=x_train.mean(axis=0))
        changes = analyzer.analyze(x)
    """

    name = "feature_ablation"

    def __init__(
        self,
        model: keras.Model | Graph,
        feature_mask: Any = None,
        reference_inputs: Tensors = FROM_ZERO,
        **options: Any,
    ) -> None:
        super().__init__(model, reference_inputs, **options)
        self.feature_mask = feature_mask
        self._masks()

    def _masks(self):
        """The numbers of groups of each input, or None where there are none."""
        names, given = self.graph.input_names, self.feature_mask
        if given is None:
            return [None] * len(names)
        # A list of numbers is the mask of the only input.
        if len(names) == 1 and not isinstance(given, dict):
            given = {names[0]: given}
        if isinstance(given, list | tuple) and len(given) == len(names):
            given = dict(zip(names, given, strict=True))
        masks = [None if part is None else np.asarray(part) for part in _by_input(given, "feature_mask", names)]
        for name, mask in zip(names, masks, strict=True):
            if mask is not None and (mask.dtype.kind not in "iu" or mask.min(initial=0) < 0):
                raise ValueError(
                    f"feature_mask of {name!r} holds the number of the group of each entry, as ints from 0 on. "
                    f"Received: {mask!r}."
                )
        return masks

    def _parts(self, shapes):
        numbers, count = [], 0
        for name, mask, shape, changed in zip(
            self.graph.input_names, self._masks(), shapes, self._changed, strict=True
        ):
            if mask is None or not changed:
                # Numbers below zero are those of no mask.
                numbers.append(-1 - count - np.arange(math.prod(shape)).reshape(shape) if changed else None)
                count += math.prod(shape)
                continue
            try:
                numbers.append(np.broadcast_to(mask, shape))
            except ValueError:
                raise ValueError(
                    f"feature_mask of {name!r} needs the shape {shape} of a sample, or one that broadcasts against it. "
                    f"Received shape {mask.shape}."
                ) from None
        found = np.unique(np.concatenate([part.ravel() for part in numbers if part is not None]))
        for number in found:
            masks = [None if part is None else part == number for part in numbers]
            yield [mask if mask is not None and mask.any() else None for mask in masks]


def _by_input(value, what, names):
    """What is said of each input, in flat order."""
    if not isinstance(value, dict):
        return [value] * len(names)
    unknown = sorted(map(str, value.keys() - set(names)))
    if unknown:
        raise ValueError(f"{what} is by the names of the inputs, {list(names)}. Received: {unknown}.")
    return [value.get(name) for name in names]


def _check_size(value, what):
    for size in value if isinstance(value, list | tuple) else [value]:
        check_count(what, size)


def _size(value, shape, what, name):
    """The size along each axis of a sample; an axis of channels that is not named is taken whole."""
    axes = shape if len(shape) == 1 else shape[:-1]
    sizes = list(value) if isinstance(value, list | tuple) else [value] * len(axes)
    if len(sizes) == len(axes) < len(shape):
        sizes.append(shape[-1])
    if len(sizes) != len(shape) or any(n > m for n, m in zip(sizes, shape, strict=True)):
        raise ValueError(
            f"{what} for input {name!r} is an int, or one int for each of the axes {axes}, or of {shape} with the "
            f"channels, and not larger than them. Received: {value!r}. For several inputs pass a dict by their names."
        )
    return sizes


def _firsts(length, patch, stride):
    """Where the patch begins along an axis. The last one may reach over the end."""
    return range(0, max(length - patch, 0) + stride, stride)
