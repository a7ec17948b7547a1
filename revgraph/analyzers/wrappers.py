"""Analyzers around an analyzer: averages over noisy inputs, integrals along a path."""

import functools
import threading
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.gradient import Gradient, checked_convention
from revgraph.analyzers.inputs import flat_inputs, is_stream, packed, refuse_mixed_ids
from revgraph.analyzers.reference import check_references, flat_references
from revgraph.analyzers.selected import (
    as_option,
    is_largest,
    largest,
    outputs_at_start,
    selected_values,
    tiled,
)
from revgraph.composites.composite import Bound
from revgraph.graph import Graph
from revgraph.graph.arguments import check_count, check_number, check_seed
from revgraph.graph.tables import Table
from revgraph.graph.types import Relevance, Selection, Tensors
from revgraph.reverse.ledger import Conservation, completeness

AT_ONCE = 64
"""Samples explained at once, where `batch_size` does not say so and the batch itself is smaller."""


class AugmentReduceBase(Analyzer):
    """Explains several variants of each input and averages their relevance.

    A subclass says what the variants are (`augment`), and may change the mean (`reduce`). Where the largest output is
    explained, it is that of the input itself, for all of its variants. Any analyzer can be wrapped, and everything that
    its `analyze` takes is passed on.

    Args:
        subanalyzer: The analyzer that explains the variants.
        augment_by_n: Number of variants of each input.
        neuron_selection_mode: See `Analyzer`; the subanalyzer's own by default.
    """

    name = "augment_reduce"

    def __init__(self, subanalyzer: Analyzer, augment_by_n: int = 2, neuron_selection_mode: str | None = None) -> None:
        if not isinstance(subanalyzer, Analyzer):
            raise TypeError(f"{type(self).__name__} wraps an analyzer of revgraph. Received: {subanalyzer!r}.")
        check_count("augment_by_n", augment_by_n)
        self.subanalyzer = subanalyzer
        self.augment_by_n = int(augment_by_n)
        super().__init__(subanalyzer.model, neuron_selection_mode or subanalyzer.neuron_selection_mode)

    def _graph(self):
        return self.subanalyzer.graph

    def augment(self, inputs: list[np.ndarray], step: int) -> list[np.ndarray]:
        """The variant number `step` of the inputs.

        Args:
            inputs: Flat list of arrays, (batch, ...) each.
            step: From 0 to augment_by_n - 1, asked for in this order.
        """
        return inputs

    def reduce(self, mean: list[np.ndarray], inputs: list[np.ndarray]) -> list[np.ndarray]:
        """What is returned, from the mean relevance over all variants.

        Args:
            mean, inputs: Flat lists of arrays, (batch, ...) each; with several targets means are (batch, targets, ...).
        """
        return mean

    def analyze(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **options: Any,
    ) -> Relevance:
        """Computes the relevance of every entry of the inputs.

        Args:
            X, neuron_selection, batch_size, verbose: See `Analyzer.analyze`.
            **options: Passed on to the subanalyzer's `analyze`.

        Returns:
            What the subanalyzer returns, averaged.
        """
        selection = self.selected(neuron_selection)
        self._begin()
        if is_stream(X):
            # Cut to `batch_size` where variants are explained, because a selection is one for the batch as it is.
            given: Iterable[list[Any]] = (inputs for inputs, _, _ in self.batches(X, None, verbose))
            verbose = 0
        else:
            given = [flat_inputs(X, self.graph)]
        results = [self._explained(inputs, selection, batch_size, verbose, options) for inputs in given]
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *results)

    def _begin(self):
        """Called before each `analyze`."""

    def _explained(self, inputs, selection, batch_size, verbose, options):
        slots = self.graph.input_slots
        inputs = [np.asarray(self.graph.cast(slot, x)) for slot, x in zip(slots, inputs, strict=True)]
        count = len(inputs[0])
        selection = self._fixed(selection, inputs, batch_size, options)
        together = max(1, min(self.augment_by_n, (batch_size or AT_ONCE) // count))
        progress = keras.utils.Progbar(self.augment_by_n) if verbose else None
        total = None
        for first in range(0, self.augment_by_n, together):
            steps = range(first, min(first + together, self.augment_by_n))
            variants = [self.augment(inputs, step) for step in steps]
            result = self.subanalyzer.analyze(
                packed([np.concatenate(x) for x in zip(*variants, strict=True)], self.graph),
                tiled(selection, count, len(steps)),
                batch_size=batch_size,
                **{name: as_option(name, value, count, len(steps)) for name, value in options.items()},
            )
            part = keras.tree.map_structure(functools.partial(_summed, len(steps)), result)
            total = part if total is None else keras.tree.map_structure(np.add, total, part)
            if progress:
                progress.add(len(steps))
        dtype = self.graph.dtype
        mean = keras.tree.map_structure(lambda r: (r / self.augment_by_n).astype(dtype), total)
        relevance, *rest = mean if isinstance(mean, tuple) else (mean,)
        reduced = self.reduce(keras.tree.flatten(relevance), inputs)
        relevance = keras.tree.pack_sequence_as(relevance, [np.asarray(r, dtype) for r in reduced])
        return (relevance, *rest) if rest else relevance

    def _fixed(self, selection, inputs, batch_size, options):
        """The selection, with the largest output of these inputs in place of the largest of each variant."""
        if isinstance(selection, dict):
            named = [name for name, chosen in selection.items() if is_largest(chosen)]
            if named:
                outputs = outputs_at_start(self.subanalyzer, inputs, batch_size, options)
                selection = {**selection, **{name: largest(outputs[name]) for name in named if name in outputs}}
            return selection
        if not is_largest(selection) or not self.innermost.selects:
            return selection
        starts = list(outputs_at_start(self.subanalyzer, inputs, batch_size, options).values())
        if len(starts) != 1:
            return selection
        (y,), initial = starts, options.get("initial_relevance")
        is_start_itself = selection is None and not callable(initial) and np.ndim(initial) == y.ndim
        return selection if is_start_itself else largest(y)

    @property
    def innermost(self) -> Analyzer:
        return self.subanalyzer.innermost

    @property
    def bound(self) -> tuple[Bound, ...]:
        return self.subanalyzer.bound

    def summary(self) -> Table:
        """Which site got which rule in the wrapped analyzer."""
        return self.subanalyzer.summary()


def _summed(times, relevance):
    """Sum over variants, in float64."""
    return relevance.reshape(times, -1, *relevance.shape[1:]).sum(axis=0, dtype="float64")


class GaussianSmoother(AugmentReduceBase):
    """Mean relevance of inputs with Gaussian noise on them.  [Smilkov et al., 2017]

    Args:
        subanalyzer: The analyzer that explains the noisy inputs.
        augment_by_n: Number of noisy variants of each input.
        noise_scale: Standard deviation of the noise, in the input's own units.
        seed: Integer for the same noise at each `analyze`; None for other noise.
        neuron_selection_mode: See `Analyzer`; the subanalyzer's own by default.

    Example:

        smooth = GaussianSmoother(revgraph.create_analyzer("lrp.epsilon", model), noise_scale=0.1, seed=0)
        relevance = smooth.analyze(x)
    """

    name = "gaussian_smoother"

    def __init__(
        self,
        subanalyzer: Analyzer,
        augment_by_n: int = 64,
        noise_scale: float = 1,
        seed: int | None = None,
        neuron_selection_mode: str | None = None,
    ) -> None:
        check_number("noise_scale", noise_scale, least=0)
        check_seed(seed)
        super().__init__(subanalyzer, augment_by_n, neuron_selection_mode)
        _check_floating(self)
        self.noise_scale = noise_scale
        self.seed = seed
        # Threads that ask at once do not draw from each other's noise.
        self._noise = threading.local()

    def _begin(self):
        self._noise.generator = np.random.default_rng(self.seed)

    def augment(self, inputs: list[np.ndarray], step: int) -> list[np.ndarray]:
        return [x + self._noise.generator.normal(0, self.noise_scale, x.shape).astype(x.dtype) for x in inputs]


class PathIntegrator(AugmentReduceBase):
    """Mean relevance along the straight path from a reference to the input, times their difference.

    (x - r) * 1/n sum_k R(r + t_k (x - r)), with midpoints t_k = (k + 1/2) / n for k = 0 to n - 1, or the left ends
    t_k = k / n under `convention="innvestigate"`.  [Sundararajan et al., 2017]

    Args:
        subanalyzer: The analyzer that explains the points of the path.
        steps: n, number of points.
        reference_inputs: r: a number, an array of one sample's or of the batch's shape, or for several inputs a list of
            these.
        convention: `"paper"` or `"innvestigate"`.
        neuron_selection_mode: See `Analyzer`; the subanalyzer's own by default.

    Example:

        path = PathIntegrator(revgraph.create_analyzer("lrp.epsilon", model), steps=32, reference_inputs=x_mean)
        relevance = path.analyze(x)
    """

    name = "path_integrator"

    def __init__(
        self,
        subanalyzer: Analyzer,
        steps: int = 64,
        reference_inputs: Tensors = 0,
        convention: str = "paper",
        neuron_selection_mode: str | None = None,
    ) -> None:
        self.convention = checked_convention(convention)
        check_count("steps", steps)
        check_references(reference_inputs)
        super().__init__(subanalyzer, steps, neuron_selection_mode)
        _check_floating(self)
        self.reference_inputs = reference_inputs

    def augment(self, inputs: list[np.ndarray], step: int) -> list[np.ndarray]:
        t = (step + (0.5 if self.convention == "paper" else 0.0)) / self.augment_by_n
        references = flat_references(self.reference_inputs, inputs, self.graph)
        return [r + x.dtype.type(t) * (x - r) for x, r in zip(inputs, references, strict=True)]

    def reduce(self, mean: list[np.ndarray], inputs: list[np.ndarray]) -> list[np.ndarray]:
        references = flat_references(self.reference_inputs, inputs, self.graph)
        differences = [x - r for x, r in zip(inputs, references, strict=True)]
        # With several targets or conditions, means have more axes behind the batch.
        return [m * _with_axes(d, m.ndim) for m, d in zip(mean, differences, strict=True)]

    def conservation(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **start: Any,
    ) -> Conservation:
        """Completeness: how far contributions are from adding up to the output's difference from the reference's.

        Args:
            X, neuron_selection, batch_size, verbose, **start: See `ReverseAnalyzer.conservation`.

        Returns:
            A `Conservation` without sites: `start` is f(x) - f(reference) of what is selected, `input` the sum of the
            contributions, and `other` the gap between them.
        """
        if "return_layers" in start or "return_convergence_delta" in start:
            raise TypeError("conservation does not take return_layers and return_convergence_delta, `analyze` does.")
        relevance, gap = self.analyze(X, neuron_selection, batch_size, verbose, return_convergence_delta=True, **start)
        if gap.ndim > 1:
            raise ValueError(
                "conservation follows one target per sample, under one condition. Ask for several one by one, such as "
                "neuron_selection=targets[:, 0] or conditions=conditions[0]."
            )
        masked: np.ndarray | float = 0.0
        if start.get("conditions") is not None:
            open_ways = {name: value for name, value in start.items() if name not in ("conditions", "around")}
            _, rest = self.analyze(X, neuron_selection, batch_size, return_convergence_delta=True, **open_ways)
            masked = gap - rest
        return completeness(keras.tree.flatten(relevance), gap, masked)

    def _explained(self, inputs, selection, batch_size, verbose, options):
        if options.get("return_layers") is not None:
            raise ValueError(
                f"{type(self).__name__} has relevance for inputs only, because it is a product with their difference "
                f"from the reference. Leave out return_layers."
            )
        with_delta = options.get("return_convergence_delta", False)
        options = {name: value for name, value in options.items() if name != "return_convergence_delta"}
        relevance = super()._explained(inputs, selection, batch_size, verbose, options)
        if not with_delta:
            return relevance
        selection = self._fixed(selection, inputs, batch_size, options)
        references = flat_references(self.reference_inputs, inputs, self.graph)
        ends = (selected_values(self.subanalyzer, x, selection, batch_size, options) for x in (inputs, references))
        difference = np.subtract(*ends)
        pairs = zip(keras.tree.flatten(relevance), inputs, strict=True)
        found = sum(r.sum(axis=tuple(range(r.ndim - x.ndim + 1, r.ndim)), dtype="float64") for r, x in pairs)
        return relevance, (difference[:, None] if found.ndim > difference.ndim else difference) - found


def _with_axes(array, rank):
    """An array (batch, ...) with axes of size 1 behind the batch, so that it has `rank` axes."""
    return array.reshape(len(array), *(1,) * (rank - array.ndim), *array.shape[1:])


def _check_floating(wrapper):
    graph = wrapper.graph
    names = [
        name
        for name, slot in zip(graph.input_names, graph.input_slots, strict=True)
        if not graph.specs[slot].dtype.startswith(("float", "bfloat"))
    ]
    if names:
        raise TypeError(
            f"{type(wrapper).__name__} changes its inputs step by step, and {', '.join(names)} holds indices. Explain "
            f"the model from its embeddings on, or use an analyzer without a wrapper."
        )
    refuse_mixed_ids(type(wrapper).__name__, graph)


class SmoothGrad(GaussianSmoother):
    """SmoothGrad: the mean gradient of noisy inputs.  [Smilkov et al., 2017]

    Args:
        model: A built Keras model.
        augment_by_n: Number of noisy variants of each input.
        noise_scale: Standard deviation of the noise, in the input's own units.
        seed: Integer for the same noise at each `analyze`; None for other noise.
        postprocess: None, `"abs"` or `"square"`, applied to each gradient.
        **options: See `Gradient`.
    """

    name = "smoothgrad"

    def __init__(
        self,
        model: keras.Model | Graph,
        augment_by_n: int = 64,
        noise_scale: float = 1,
        seed: int | None = None,
        postprocess: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(Gradient(model, postprocess, **options), augment_by_n, noise_scale, seed)


class IntegratedGradients(PathIntegrator):
    """Integrated gradients: contributions that add up to the output's difference from the reference's.

    [Sundararajan et al., 2017]

    Args:
        model: A built Keras model.
        steps: Number of points on the path.
        reference_inputs: A number, an array of one sample's or of the batch's shape, or for several inputs a list of
            these.
        postprocess: None, `"abs"` or `"square"`, applied to each gradient.
        convention: `"paper"` for midpoints, `"innvestigate"` for left ends.
        **options: See `Gradient`.
    """

    name = "integrated_gradients"

    def __init__(
        self,
        model: keras.Model | Graph,
        steps: int = 64,
        reference_inputs: Tensors = 0,
        postprocess: str | None = None,
        convention: str = "paper",
        **options: Any,
    ) -> None:
        gradient = Gradient(model, postprocess, convention, **options)
        super().__init__(gradient, steps, reference_inputs, convention)
