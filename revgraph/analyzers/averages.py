"""Integrated and expected gradients, and SmoothGrad: gradients at many points. Ids are moved by their rows."""

import threading
from typing import Any, ClassVar

import keras
import numpy as np

from revgraph.analyzers.background import Background, background_of, beside, one_reference
from revgraph.analyzers.completeness import by_completeness
from revgraph.analyzers.gradient import Gradient
from revgraph.analyzers.inputs import refuse_mixed_ids
from revgraph.analyzers.reference import FROM_ZERO, check_references, flat_references, references_of
from revgraph.analyzers.wrappers import (
    AugmentReduceBase,
    GaussianSmoother,
    PathIntegrator,
    moved_to,
    not_floating,
)
from revgraph.canonize.paths import on_path, with_noise
from revgraph.composites import GRADIENT, Composite, operations
from revgraph.graph import Graph
from revgraph.graph.arguments import check_number, check_seed
from revgraph.graph.lookups import held, lookups
from revgraph.graph.operations import RowsOnPath
from revgraph.graph.types import Selection, Tensors
from revgraph.read import trace
from revgraph.reverse.ledger import Conservation
from revgraph.reverse_rules import Rule, SumOverEmbedding
from revgraph.reverse_rules.embedding import TimesRowDifference

SEEDS = 2**24
"""Seeds of noise are integers below this, which float32 can represent."""


class SmoothGrad(GaussianSmoother):
    """SmoothGrad: the mean gradient of noisy inputs.  [Smilkov et al., 2017]

    Where inputs are ids, the noise is on the rows of tables that they look up.

    Args:
        model: A built Keras model.
        augment_by_n: Number of noisy variants of each input.
        noise_scale: Standard deviation of the noise, in the unit of the input, or of the rows of tables.
        seed: Integer for the same noise at each `analyze`; None for other noise.
        postprocess: None, `"abs"` or `"square"`, applied to each gradient.
        statistic: `"mean"`, `"squared"` for SmoothGrad-Squared, or `"variance"` for VarGrad; see `GaussianSmoother`.
        **options: See `Gradient`; for ids `reduce=` among them.
    """

    name = "smoothgrad"

    def __init__(
        self,
        model: keras.Model | Graph,
        augment_by_n: int = 64,
        noise_scale: float = 1,
        seed: int | None = None,
        postprocess: str | None = None,
        statistic: str = "mean",
        **options: Any,
    ) -> None:
        check_number("noise_scale", noise_scale, least=0)
        self._whole = trace(model)
        _check_moved(type(self).__name__, self._whole)
        self._ids = lookups(self._whole).names
        moved = with_noise(self._whole, noise_scale) if self._ids else self._whole
        super().__init__(Gradient(moved, postprocess, **options), augment_by_n, noise_scale, seed, statistic=statistic)
        self.model = model

    def _graph(self):
        return self._whole

    def _check_inputs(self):
        """They are checked already."""

    def augment(self, inputs: list[np.ndarray], step: int) -> list[np.ndarray]:
        noisy = [y if x.dtype.kind == "f" else x for x, y in zip(inputs, super().augment(inputs, step), strict=True)]
        # Without ids, no seeds are drawn between the noise of two steps.
        return self._seeded(noisy, self._noise.generator.integers(SEEDS, size=len(inputs[0])) if self._ids else None)

    def as_they_are(self, inputs: list[Any]) -> list[Any]:
        return self._seeded(inputs, np.zeros(len(inputs[0])))

    def _seeded(self, inputs, seeds):
        return [*inputs, seeds.astype(self.graph.dtype)] if self._ids else inputs


class IntegratedGradients(Background, PathIntegrator):
    """Integrated gradients: contributions that add up to the output's difference from the reference's.

    [Sundararajan et al., 2017]

    Where inputs are ids, the path leads through the rows of tables that they look up. The contribution of an id is the
    sum over its row. What else the model does with ids and masks stays as it is.

    Args:
        model: A built Keras model.
        steps: Number of points on the path.
        reference_inputs: Where the path begins; see `revgraph.analyzers.reference`. By default zeros, and for ids rows
            of zeros.
        postprocess: None, `"abs"` or `"square"`, applied to each gradient. Models that look up ids take None.
        convention: `"paper"` for midpoints, `"innvestigate"` for left ends.
        background: Several references in place of one: an array (references, ...), such as some samples of the
            training data, or the structure of such arrays that the model takes. The relevance is the mean over them.
        **options: See `Gradient`.
    """

    name = "integrated_gradients"

    def __init__(
        self,
        model: keras.Model | Graph,
        steps: int = 64,
        reference_inputs: Tensors = FROM_ZERO,
        postprocess: str | None = None,
        convention: str = "paper",
        background: Tensors | None = None,
        **options: Any,
    ) -> None:
        reference_inputs = one_reference(background, reference_inputs)
        check_references(reference_inputs)
        self._whole = graph = trace(model)
        _check_moved(type(self).__name__, graph)
        found = lookups(graph)
        self._ids, self._in_place = found.names, found.in_place
        gradient: Gradient
        if self._ids:
            moved = on_path(graph, references_of(reference_inputs, graph).names(FROM_ZERO))
            gradient = GradientOnPath(moved, postprocess, convention, **options)
        else:
            gradient = Gradient(graph, postprocess, convention, **options)
        super().__init__(gradient, steps, reference_inputs, convention)
        self.model = model
        if background is not None:
            self.background = background_of(background, graph)

    def _graph(self):
        return self._whole

    def _check_inputs(self):
        """They are checked already."""

    def _mixes_steps(self):
        return self._in_place

    def _at(self, t, inputs):
        references = flat_references(self.reference_inputs, inputs, self.graph)
        moved = [moved_to(t, x, r) if x.dtype.kind == "f" else x for x, r in zip(inputs, references, strict=True)]
        return [*moved, *references, np.full(len(inputs[0]), t, self.graph.dtype)] if self._ids else moved

    def reduce(self, mean: list[np.ndarray], inputs: list[np.ndarray]) -> list[np.ndarray]:
        # Ids have the product with the difference of their rows already, and masks have no relevance.
        products = super().reduce(mean, inputs)
        return [p if x.dtype.kind == "f" else m for m, p, x in zip(mean, products, inputs, strict=True)]


class PointOnPath(IntegratedGradients):
    """Integrated gradients at one point of the path: the gradient there, times the difference from the reference."""

    point: float | np.ndarray = 0.5
    """Where on the path the point is, from 0 at the reference to 1 at the input: a number, or one per sample."""

    def _position(self, step):
        return self.point


class ExpectedGradients(AugmentReduceBase):
    """Expected gradients: integrated gradients, averaged over references from the data.  [Erion et al., 2021]

    The mean of (x - r) * gradient(r + t (x - r)) over random references r and random points t of the path. SHAP calls
    it GradientExplainer, Captum GradientShap. Contributions add up to f(x) less the mean output of the references, but
    for chance: the more variants, the closer.

    Args:
        model: A built Keras model.
        background: The references from which one is drawn for each variant: an array (references, ...), such as some
            samples of the training data, or the structure of such arrays that the model takes.
        augment_by_n: Number of random variants of each input.
        seed: Integer for the same draws at each `analyze`; None for others.
        postprocess: None, `"abs"` or `"square"`, applied to each gradient. Models that look up ids take None.
        **options: See `Gradient`.

    Raises:
        TypeError: There is no background.
        ValueError: The background has not the shape of the model's inputs.

    Example:

        analyzer = revgraph.create_analyzer("expected_gradients", model, background=x_train[:200], seed=0)
        contributions = analyzer.analyze(x, neuron_selection=3)
    """

    name = "expected_gradients"

    def __init__(
        self,
        model: keras.Model | Graph,
        background: Tensors | None = None,
        augment_by_n: int = 64,
        seed: int | None = None,
        postprocess: str | None = None,
        **options: Any,
    ) -> None:
        check_seed(seed)
        super().__init__(PointOnPath(model, 1, 0, postprocess, **options), augment_by_n)
        if background is None:
            raise TypeError(
                "expected_gradients needs background=, an array of samples from which references are drawn, such as "
                'background=x_train[:200]. For one reference take "integrated_gradients" with reference_inputs=.'
            )
        self.model = model
        self.seed = seed
        self.background = background_of(background, self.graph)
        self.subanalyzer: PointOnPath
        # Threads that ask at once do not draw from each other's numbers.
        self._draws = threading.local()

    def _begin(self):
        self._draws.generator = np.random.default_rng(self.seed)

    def _mixes_steps(self):
        return self.subanalyzer._mixes_steps()

    def _analyzer_of(self, steps, count):
        drawn = [self._drawn(count) for _ in steps]
        rows = np.concatenate([row for row, _ in drawn])
        twin = beside(self.subanalyzer, [part[rows] for part in self.background])
        # All variants of a step have one point, because rows of tables may be moved with it.
        twin.point = np.repeat([point for _, point in drawn], count) if len(drawn) > 1 else drawn[0][1]
        return twin

    def _drawn(self, count):
        generator = self._draws.generator
        return generator.integers(len(self.background[0]), size=count), generator.random()

    def conservation(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **start: Any,
    ) -> Conservation:
        """How far contributions are from adding up to the mean difference from the references that were drawn."""
        return by_completeness(self, X, neuron_selection, batch_size, verbose, start)


class GradientOnPath(Gradient):
    """The gradient at a point of a path through rows of tables, which ids get times the difference of the rows.

    Args:
        model: What `on_path` makes of a graph.
        postprocess: None.
        convention, **options: See `Gradient`.
    """

    composite = Composite((operations(RowsOnPath), TimesRowDifference()), *GRADIENT.entries, name="gradient")
    reductions: ClassVar[dict[str, Rule]] = {"sum": SumOverEmbedding()}

    def __init__(self, model: Graph, postprocess: str | None = None, convention: str = "paper", **options: Any) -> None:
        if postprocess is not None:
            raise ValueError(
                f"IntegratedGradients of a model that looks up ids takes no postprocess, because what an id gets is "
                f"the sum over its row. Received: {postprocess!r}. Leave it out, and change what `analyze` returns."
            )
        super().__init__(model, postprocess, convention, **options)


def _check_moved(name, graph):
    """Refuses integers that are neither ids nor masks, for methods that change inputs and rows of tables."""
    names = [n for n in not_floating(graph) if n not in lookups(graph).names | held(graph)]
    if names:
        raise TypeError(
            f"{name} changes its inputs step by step, and {', '.join(names)} holds integers that are not looked up in "
            f"a table. Give the model floating numbers, or use an analyzer that changes no inputs, such as "
            f'"input_t_gradient" or "deep_lift".'
        )
    refuse_mixed_ids(name, graph)
