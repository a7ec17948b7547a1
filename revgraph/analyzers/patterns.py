"""PatternNet and PatternAttribution, and the estimators of their patterns."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from revgraph import composites
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.composites import Composite, Matcher, NotAnalyzeableModelException
from revgraph.graph import Graph
from revgraph.graph.analysis import is_linear_layer
from revgraph.graph.types import Tensors
from revgraph.reverse.conditions import Masks
from revgraph.reverse.targets import Target
from revgraph.reverse_rules import Jacobian, SumOverEmbedding
from revgraph.reverse_rules.pattern import Pattern

ESTIMATORS = {
    "relu": lambda z: z > 0,
    "relu.positive": lambda z: z > 0,
    "relu.negative": lambda z: z <= 0,
    "linear": lambda z: tf.ones_like(z, bool),
}
"""Name of an estimator -> which outputs take part, as a function of the site's output z."""


class PatternNet(ReverseAnalyzer):
    """PatternNet: the signal that made the output, estimated layer by layer.  [Kindermans et al., 2018]

    For a linear layer y = w^T x and the regime + of samples that take part,

        a = (E+[x y] - E+[x] E[y]) / (w^T E+[x y] - w^T E+[x] E[y]),

    which the way back uses in place of w. Everything else passes the gradient. Call `fit` first, or pass `patterns`.

    Args:
        model: A built Keras model.
        patterns: One array per linear layer, of its kernel's shape, from input to output; None to `fit` them.
        pattern_type: `"relu"`, the default, estimates on outputs above zero, `"relu.negative"` on the others,
            `"linear"` on all.
        **options: See `ReverseAnalyzer`.

    Example:

        analyzer = revgraph.create_analyzer("pattern.net", model)
        analyzer.fit(x_train, batch_size=256)
        signal = analyzer.analyze(x)
    """

    name = "pattern.net"
    times_weights: ClassVar[bool] = False

    def __init__(
        self,
        model: keras.Model | Graph,
        patterns: Sequence[np.ndarray] | None = None,
        pattern_type: str | None = None,
        **options: Any,
    ) -> None:
        pattern_type = "relu" if pattern_type is None else pattern_type
        if not isinstance(pattern_type, str) or pattern_type not in ESTIMATORS:
            raise ValueError(f"pattern_type is one of {', '.join(map(repr, ESTIMATORS))}. Received: {pattern_type!r}.")
        self.pattern_type = pattern_type
        self.patterns: list[np.ndarray] | None = None
        super().__init__(model, composites.GRADIENT, **options)
        if patterns is not None:
            self._set(patterns)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "patterns": self.patterns}

    def _linear_sites(self):
        return [site for site in self.graph.sites if is_linear_layer(site.operation)]

    def _set(self, patterns):
        """Binds each linear layer to its pattern."""
        if not isinstance(patterns, list | tuple):
            raise ValueError(
                f"patterns must be a list of arrays, one for each linear layer. Received: {type(patterns).__name__}."
            )
        patterns, sites = [np.asarray(pattern) for pattern in patterns], self._linear_sites()
        shapes = [tuple(site.operation.read("float32")["kernel"].shape) for site in sites]
        if [pattern.shape for pattern in patterns] != shapes:
            raise ValueError(
                f"patterns needs one array for each linear layer, of its kernel's shape, from input to output: "
                f"{shapes}. Received: {[pattern.shape for pattern in patterns]}."
            )
        self.patterns = patterns
        rules = {s.path: Pattern(p, self.times_weights) for s, p in zip(sites, patterns, strict=True)}
        entries = [(_at(path), rule) for path, rule in rules.items()]
        rest = [(composites.EMBEDDING, SumOverEmbedding()), (composites.ANY, Jacobian())]
        self.composite = Composite(*entries, *rest, defaults=(), name=self.name)
        self._walks.clear()

    def fit(self, X: Tensors, batch_size: int = 32, verbose: int = 0) -> "PatternNet":
        """Estimates the patterns from data, in one pass.

        Args:
            X: Inputs, of what the model was trained on: what `analyze` takes, datasets and generators too.
            batch_size: Samples at once.
            verbose: 1 shows a progress bar.

        Returns:
            The analyzer.

        Raises:
            ValueError: Wrong shape, no data, or data that are not finite.
        """
        sites = self._linear_sites()
        for site in sites:
            rank = len(self.graph.specs[site.outputs[0]].shape)
            if site.operation.output_axis(rank) is None:
                raise NotAnalyzeableModelException(
                    f"No pattern can be estimated for {site.path!r}: its kernel does not end in the output's channels."
                )
        program = tf.function(self._moments, autograph=False)
        total: list[list[np.ndarray]] = []
        for inputs, _, _ in self.batches(X, batch_size, verbose):
            inputs = [self.graph.cast(slot, x) for slot, x in zip(self.graph.input_slots, inputs, strict=True)]
            moments = [[np.asarray(m, "float64") for m in of_site] for of_site in program(inputs)]
            if not all(np.isfinite(m).all() for of_site in moments for m in of_site):
                raise ValueError("The data to fit on lead to values that are not finite: look for NaN or inf in them.")
            total = moments if not total else keras.tree.map_structure(np.add, total, moments)
        self._set([_pattern(site.operation, *m) for site, m in zip(sites, total, strict=True)])
        return self

    def _moments(self, inputs):
        """Per linear layer, sums over samples and positions: x, x y and 1 over the regime, y and 1 over all."""
        values = self.graph.run(inputs)
        takes_part = ESTIMATORS[self.pattern_type]
        moments = []
        for site in self._linear_sites():
            operation, x = site.operation, [values[slot] for slot in site.inputs]
            z = values[site.outputs[0]]
            kernels, _ = operation.split(operation.read(self.graph.dtype))
            mask = tf.cast(takes_part(z), z.dtype)
            with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
                tape.watch(kernels["kernel"])
                y = operation.linear(x, kernels)
            # y is linear in the kernel, so its derivative there sums x over all positions that an entry connects.
            sums = [tape.gradient(y, kernels["kernel"], output_gradients=g) for g in (mask, mask * tf.stop_gradient(y))]
            axes = [i for i in range(z.shape.rank) if i != operation.output_axis(z.shape.rank)]
            moments.append([*sums, *(tf.reduce_sum(t, axes) for t in (mask, y, tf.ones_like(y)))])
        return moments

    def questions(self, *args: Any) -> Iterator[tuple[list[Any], list[Target], Masks | None]]:
        if self.patterns is None:
            raise ValueError(f"{self.name!r} has no patterns yet: call fit(x_train) before analyze, or pass patterns=.")
        return super().questions(*args)


def _at(path: str) -> Matcher:
    return Matcher(lambda site, facts: site.path == path, path)


class PatternAttribution(PatternNet):
    """PatternAttribution: how much each part of the signal contributed.  [Kindermans et al., 2018]

    As `PatternNet`, with patterns times weights on the way back.
    """

    name = "pattern.attribution"
    times_weights = True


def _pattern(operation, sum_x, sum_xy, active, sum_y, count):
    """a of one linear layer from its moments; zero for outputs that never take part."""

    def per_output(kernel, factor):
        return np.asarray(operation.scale_outputs({"kernel": kernel}, tf.constant(factor))["kernel"])

    def over_inputs(kernel):
        scale = tf.ones(active.shape, "float64")
        with tf.GradientTape() as tape:
            tape.watch(scale)
            scaled = operation.scale_outputs({"kernel": tf.constant(kernel)}, scale)["kernel"]
        return tape.gradient(scaled, scale).numpy()

    def divided(a, b):
        return np.divide(a, b, out=np.zeros_like(a), where=b != 0)

    share = divided(np.ones_like(active), active)
    covariance = per_output(sum_xy, share) - per_output(sum_x, share * sum_y / count)
    weights = np.asarray(operation.read("float64")["kernel"])
    return per_output(covariance, divided(np.ones_like(active), over_inputs(weights * covariance)))
