"""Analyzers around an analyzer: averages over noisy inputs, integrals along a path."""

import functools
import threading
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.completeness import by_completeness
from revgraph.analyzers.gradient import checked_convention
from revgraph.analyzers.inputs import flat_inputs, is_stream, packed, refuse_mixed_ids
from revgraph.analyzers.reference import FROM_ZERO, check_references, flat_references
from revgraph.analyzers.selected import as_option, fixed, selected_values, tiled
from revgraph.analyzers.statistics import STATISTICS
from revgraph.composites.composite import Bound
from revgraph.graph import Graph
from revgraph.graph.arguments import check_count, check_number, check_seed
from revgraph.graph.tables import Table
from revgraph.graph.types import Relevance, Selection, Tensors
from revgraph.reverse.ledger import Conservation

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
    statistic: str = "mean"

    def __init__(self, subanalyzer: Analyzer, augment_by_n: int = 2, neuron_selection_mode: str | None = None) -> None:
        if not isinstance(subanalyzer, Analyzer):
            raise TypeError(f"{type(self).__name__} wraps an analyzer of revgraph. Received: {subanalyzer!r}.")
        check_count("augment_by_n", augment_by_n)
        # The analyzer of a task has another one inside, which takes what the preprocessor makes.
        self._preprocess = getattr(subanalyzer, "preprocess", None)
        self.subanalyzer = getattr(subanalyzer, "inner", subanalyzer)
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
            given = [flat_inputs(X if self._preprocess is None else self._preprocess(X), self.graph)]
        results = [self._explained(inputs, selection, batch_size, verbose, options) for inputs in given]
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *results)

    def _begin(self):
        """Called before each `analyze`."""

    def _explained(self, inputs, selection, batch_size, verbose, options):
        inputs = self._cast(inputs)
        count = len(inputs[0])
        selection = self._fixed(selection, inputs, batch_size, options)
        together = max(1, min(self.augment_by_n, (batch_size or AT_ONCE) // count)) if self._mixes_steps() else 1
        progress = keras.utils.Progbar(self.augment_by_n) if verbose else None
        each, of_mean = STATISTICS[self.statistic]
        total = None
        for first in range(0, self.augment_by_n, together):
            steps = range(first, min(first + together, self.augment_by_n))
            variants = [self.augment(inputs, step) for step in steps]
            result = self._analyzer_of(steps, count).analyze(
                packed([np.concatenate(x) for x in zip(*variants, strict=True)], self.subanalyzer.graph),
                tiled(selection, count, len(steps)),
                batch_size=batch_size,
                **{name: as_option(name, value, count, len(steps)) for name, value in options.items()},
            )
            part = keras.tree.map_structure(functools.partial(_summed, len(steps), each), result)
            total = part if total is None else keras.tree.map_structure(np.add, total, part)
            if progress:
                progress.add(len(steps))
        dtype = self.graph.dtype
        mean = keras.tree.map_structure(lambda r: of_mean(r / self.augment_by_n).astype(dtype), total)
        relevance, *rest = mean if isinstance(mean, tuple) else (mean,)
        reduced = self.reduce(keras.tree.flatten(relevance)[: len(inputs)], inputs)
        relevance = packed([np.asarray(r, dtype) for r in reduced], self.graph)
        return (relevance, *rest) if rest else relevance

    def _analyzer_of(self, steps: range, count: int) -> Analyzer:
        """The analyzer that explains the variants of these steps, of `count` inputs each."""
        return self.subanalyzer

    def _cast(self, inputs):
        return [np.asarray(self.graph.cast(slot, x)) for slot, x in zip(self.graph.input_slots, inputs, strict=True)]

    def _mixes_steps(self) -> bool:
        """Whether variants of several steps may be explained in one batch."""
        return True

    def _fixed(self, selection, inputs, batch_size, options):
        """The selection, with the largest output of these inputs in place of the largest of each variant."""
        return fixed(self.subanalyzer, selection, self.as_they_are(inputs), batch_size, options)

    @property
    def innermost(self) -> Analyzer:
        return self.subanalyzer.innermost

    @property
    def bound(self) -> tuple[Bound, ...]:
        return self.subanalyzer.bound

    def summary(self) -> Table:
        """Which site got which rule in the wrapped analyzer."""
        return self.subanalyzer.summary()


def _summed(times, each, relevance):
    """Sum over variants of a function of each, in float64."""
    relevance = each(relevance.astype("float64"))
    return relevance.reshape(times, -1, *relevance.shape[1:]).sum(axis=0)


class GaussianSmoother(AugmentReduceBase):
    """Mean relevance of inputs with Gaussian noise on them.  [Smilkov et al., 2017]

    Args:
        subanalyzer: The analyzer that explains the noisy inputs.
        augment_by_n: Number of noisy variants of each input.
        noise_scale: Standard deviation of the noise, in the input's own units.
        seed: Integer for the same noise at each `analyze`; None for other noise.
        neuron_selection_mode: See `Analyzer`; the subanalyzer's own by default.
        statistic: What is returned of the relevance R of the noisy inputs: `"mean"`; `"squared"`, mean R^2, which is
            SmoothGrad-Squared [Hooker et al., 2019]; or `"variance"`, mean R^2 - (mean R)^2, which is VarGrad
            [Adebayo et al., 2018].

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
        statistic: str = "mean",
    ) -> None:
        check_number("noise_scale", noise_scale, least=0)
        check_seed(seed)
        if not isinstance(statistic, str) or statistic not in STATISTICS:
            raise ValueError(f"statistic is {', '.join(map(repr, STATISTICS))}. Received: {statistic!r}.")
        self.statistic = statistic
        super().__init__(subanalyzer, augment_by_n, neuron_selection_mode)
        self._check_inputs()
        self.noise_scale = noise_scale
        self.seed = seed
        # Threads that ask at once do not draw from each other's noise.
        self._noise = threading.local()

    def _check_inputs(self):
        _check_floating(self)

    def _begin(self):
        self._noise.generator = np.random.default_rng(self.seed)

    def _explained(self, inputs, selection, batch_size, verbose, options):
        if self.statistic != "mean" and options.get("return_convergence_delta"):
            raise ValueError(
                f"statistic={self.statistic!r} adds up to nothing, so there is no convergence delta. Leave out "
                f"return_convergence_delta."
            )
        return super()._explained(inputs, selection, batch_size, verbose, options)

    def augment(self, inputs: list[np.ndarray], step: int) -> list[np.ndarray]:
        return [x + self._noise.generator.normal(0, self.noise_scale, x.shape).astype(x.dtype) for x in inputs]


class PathIntegrator(AugmentReduceBase):
    """Mean relevance along the straight path from a reference to the input, times their difference.

    (x - r) * 1/n sum_k R(r + t_k (x - r)), with midpoints t_k = (k + 1/2) / n for k = 0 to n - 1, or the left ends
    t_k = k / n under `convention="innvestigate"`.  [Sundararajan et al., 2017]

    Args:
        subanalyzer: The analyzer that explains the points of the path.
        steps: n, number of points.
        reference_inputs: r; see `revgraph.analyzers.reference`. Zeros by default.
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
        reference_inputs: Tensors = FROM_ZERO,
        convention: str = "paper",
        neuron_selection_mode: str | None = None,
    ) -> None:
        self.convention = checked_convention(convention)
        check_count("steps", steps)
        check_references(reference_inputs)
        super().__init__(subanalyzer, steps, neuron_selection_mode)
        self._check_inputs()
        self.reference_inputs = reference_inputs

    def _check_inputs(self):
        _check_floating(self)

    def augment(self, inputs: list[np.ndarray], step: int) -> list[np.ndarray]:
        return self._at(self._position(step), inputs)

    def _position(self, step):
        """Where on the path a step is, from 0 at the reference to 1 at the input: a number, or one per sample."""
        return (step + (0.5 if self.convention == "paper" else 0.0)) / self.augment_by_n

    def _at(self, t, inputs):
        """What the subanalyzer takes for the point r + t (x - r) of the path."""
        references = flat_references(self.reference_inputs, inputs, self.graph)
        return [moved_to(t, x, r) for x, r in zip(inputs, references, strict=True)]

    def as_they_are(self, inputs: list[Any]) -> list[Any]:
        return self._at(1.0, inputs)

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
        return by_completeness(self, X, neuron_selection, batch_size, verbose, start)

    def _explained(self, inputs, selection, batch_size, verbose, options):
        if options.get("return_layers") is not None:
            raise ValueError(
                f"{type(self).__name__} has relevance for inputs only, because it is a product with their difference "
                f"from the reference. Leave out return_layers."
            )
        inputs = self._cast(inputs)
        with_delta = options.get("return_convergence_delta", False)
        options = {name: value for name, value in options.items() if name != "return_convergence_delta"}
        relevance = super()._explained(inputs, selection, batch_size, verbose, options)
        if not with_delta:
            return relevance
        selection = self._fixed(selection, inputs, batch_size, options)
        ends = (selected_values(self.subanalyzer, self._at(t, inputs), selection, batch_size, options) for t in (1, 0))
        difference = np.subtract(*ends)
        pairs = zip(keras.tree.flatten(relevance), inputs, strict=True)
        found = sum(r.sum(axis=tuple(range(r.ndim - x.ndim + 1, r.ndim)), dtype="float64") for r, x in pairs)
        return relevance, (difference[:, None] if found.ndim > difference.ndim else difference) - found


def moved_to(t: Any, x: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The point r + t (x - r) of a path, for one t or for one per sample."""
    return r + np.reshape(t, (-1, *(1,) * (x.ndim - 1))).astype(x.dtype) * (x - r)


def _with_axes(array, rank):
    """An array (batch, ...) with axes of size 1 behind the batch, so that it has `rank` axes."""
    return array.reshape(len(array), *(1,) * (rank - array.ndim), *array.shape[1:])


def _check_floating(wrapper):
    graph = wrapper.graph
    names = not_floating(graph)
    if names:
        raise TypeError(
            f"{type(wrapper).__name__} changes its inputs step by step, and {', '.join(names)} holds indices. The "
            f'analyzers "integrated_gradients" and "smoothgrad" change the rows of tables that indices look up. Use '
            f"them, explain the model from its embeddings on, or use an analyzer without a wrapper."
        )
    refuse_mixed_ids(type(wrapper).__name__, graph)


def not_floating(graph: Graph) -> list[str]:
    """The names of inputs that hold integers or truth values."""
    return [
        name
        for name, slot in zip(graph.input_names, graph.input_slots, strict=True)
        if not graph.specs[slot].dtype.startswith(("float", "bfloat"))
    ]
