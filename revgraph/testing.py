"""Tests for your own rules: `check_rule` compares a rule on a layer with the same rule on the layer's dense matrix."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from revgraph.canonize import canonize
from revgraph.graph.analysis import is_linear_layer
from revgraph.graph.operations import Affine, Opaque
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import Weights
from revgraph.read import trace
from revgraph.read.keras.private import is_of_keras
from revgraph.reverse.ledger import ABSORBED
from revgraph.reverse_rules.engine import ReplacementLayer, Rule

__all__ = ["Checked", "RuleReport", "check_rule"]


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
    """The check of one site, a call of a layer, with random inputs and random relevance.

    Relevance is given in arrays of shape (batch,).

    Args:
        path: The path of the site.
        difference: The largest difference from the dense form, relative to the largest relevance.
        start: Relevance that arrived at the outputs.
        input: Relevance that the rule handed on to the inputs.
        bias: Relevance absorbed by the bias.
        constants: Relevance absorbed by constants that contribute to the outputs, such as padding.
        rule: Relevance that the rule drops or adds by its definition.
        softmax: Relevance that the Taylor expansion of a softmax leaves out or adds.
        stabiliser: Relevance absorbed by the stabiliser, the epsilon that is added to a denominator.
        other: The rest.
    """

    path: str
    difference: float
    start: np.ndarray
    input: np.ndarray
    bias: np.ndarray
    constants: np.ndarray
    rule: np.ndarray
    softmax: np.ndarray
    stabiliser: np.ndarray
    other: np.ndarray


class RuleReport(tuple[Checked, ...], Tabular):
    """The result of `check_rule`: one `Checked` per linear site of the layer. It prints as a table of means."""

    def table(self) -> Table:
        """The difference from the dense form, and where relevance went, as means over the samples."""
        columns = ("start", "input", *ABSORBED, "other")
        rows = [(c.path, c.difference, *(float(np.mean(getattr(c, name))) for name in columns)) for c in self]
        return Table(("site", "difference", *columns), rows)

    __repr__ = __str__ = Tabular.__str__


def check_rule(
    layer: Any,
    rule: Rule,
    input_shape: Sequence[Any],
    *,
    formula: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None,
    nonnegative: bool = False,
    samples: int = 3,
    seed: int = 0,
    tolerance: float | None = None,
) -> RuleReport:
    """Compares a rule on a layer with the rule on the layer's dense matrix, and reports where relevance goes.

    The matrix W and the bias b come from the layer's Jacobian. So errors with stride, padding, dilation or groups make
    a difference. With `formula` the rule is also compared with its formula on that matrix.

    Args:
        layer: An affine Keras layer, built-in or your own. Its activation is left out.
        rule: The rule.
        input_shape: Shape of one sample, or a list of shapes for several inputs.
        formula: NumPy function `(W, b, x, R) -> R_in` of W (inputs, outputs), b (outputs,), x (samples, inputs) and
            R (samples, outputs), which returns an array (samples, inputs).
        nonnegative: Use random inputs without negative entries.
        samples: Number of random samples.
        seed: Seed of inputs and relevance.
        tolerance: Largest difference that passes, relative to the largest relevance; by default 1e-9, and 1e-4 for
            layers that compute in float32. Layers of Keras are checked in float64.

    Returns:
        A `RuleReport`.

    Raises:
        AssertionError: The rule differs from the rule on the matrix, or from the formula.
        TypeError: `rule` is no rule.
        ValueError: The layer is not affine.

    Example:

        print(check_rule(keras.layers.Conv2D(4, 3, strides=2), MyRule(), input_shape=(8, 8, 3)))
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"Expected a rule, such as revgraph.rules.Epsilon(). Received: {rule!r}.")
    graph = _graph(layer, input_shape)
    sites = [s for s in graph.sites if is_linear_layer(s.operation) or isinstance(s.operation, Affine | Opaque)]
    if not sites:
        raise ValueError(f"{layer.name!r} has no weights and no sum, so it has no dense matrix to compare with.")
    tolerance = tolerance or (1e-9 if graph.dtype == "float64" else 1e-4)
    random = np.random.default_rng(seed)
    inputs = [random.normal(size=(samples, *graph.specs[slot].shape[1:])) for slot in graph.input_slots]
    values = graph.run([np.abs(x) for x in inputs] if nonnegative else inputs)
    checked = [_checked(s, graph, values, rule, formula, random, tolerance) for s in sites]
    return RuleReport(checked)


def _graph(layer, input_shape):
    """The layer as a canonized graph. A layer of the user's own stays one site; one of Keras computes in float64."""
    several = bool(input_shape) and isinstance(input_shape[0], list | tuple)
    shapes = list(input_shape) if several else [input_shape]
    own = not is_of_keras(type(layer))
    if not own:
        layer = _in_float64(layer, [(None, *shape) for shape in shapes])
    inputs = [keras.Input(shape, dtype=layer.compute_dtype) for shape in shapes]
    model = keras.Model(inputs, layer(inputs if several else inputs[0]))
    return canonize(trace(model, keep=(type(layer),) if own else ()))


def _in_float64(layer, shapes):
    """A copy of the layer in float64, with its weights if it has any."""
    copy = type(layer).from_config({**layer.get_config(), "dtype": "float64"})
    copy.build(shapes[0] if len(shapes) == 1 else shapes)
    if layer.built and layer.weights:
        copy.set_weights(layer.get_weights())
    return copy


def _checked(site, graph, values, rule, formula, random, tolerance):
    inputs = [values[slot] for slot in site.inputs]
    dense = _dense_form(site, inputs, graph.dtype)
    (z,), pullback = ReplacementLayer(site, rule, graph.dtype)(*inputs)
    relevance = tf.constant(random.normal(size=z.shape), z.dtype)
    found = _arrays(pullback(relevance), inputs)
    _, dense_pullback = ReplacementLayer(dense, rule, graph.dtype)(*inputs)
    expected = _arrays(dense_pullback(relevance), inputs)
    difference = _difference(found, expected)
    _demand(difference, tolerance, f"{rule} on {site.path!r} differs from the rule on the layer's dense matrix")
    if formula is not None:
        flat = [t.numpy().reshape(len(t), -1) for t in (*inputs, relevance)]
        weights = dense.read("float64")
        bias = np.broadcast_to(weights.get(dense.bias_name, 0.0), (1, *z.shape[1:])).reshape(-1)
        own = formula(np.asarray(weights[dense.kernel_name]), bias, np.concatenate(flat[:-1], axis=1), flat[-1])
        together = np.concatenate([r.reshape(len(r), -1) for r in found], axis=1)
        off = _difference([together], [own])
        _demand(off, tolerance, f"{rule} on {site.path!r} differs from the formula on the layer's dense matrix")
        difference = max(difference, off)
    absorbed = {name: np.broadcast_to(t, len(relevance)) for name, t in vars(pullback.absorbed(relevance)).items()}
    start = np.asarray(relevance).reshape(len(relevance), -1).sum(axis=1)
    arrived = sum(r.reshape(len(r), -1).sum(axis=1) for r in found)
    other = start - arrived - sum(absorbed.values())
    return Checked(site.path, difference, start, arrived, **absorbed, other=other)


def _arrays(relevance, inputs):
    """Relevance of inputs as arrays; zeros for inputs that get none."""
    return [np.zeros(x.shape) if r is None else np.asarray(r) for r, x in zip(relevance, inputs, strict=True)]


def _difference(found, expected):
    scale = max(max(np.abs(e).max() for e in expected), 1e-12)
    return float(max(np.abs(f - e).max() for f, e in zip(found, expected, strict=True)) / scale)


def _demand(difference, tolerance, text):
    if not difference <= tolerance:
        raise AssertionError(f"{text} by {difference:.3g} of the largest relevance; the tolerance is {tolerance:.3g}.")


@dataclasses.dataclass(frozen=True, eq=False)
class DenseForm(Affine):
    """An affine operation as a dense matrix on its flattened inputs.

    Args:
        connected: Array (inputs, outputs), 1 where a connection exists.
        shape: Shape of one output.
        kernel_name, bias_name: Names of the weights.
    """

    connected: np.ndarray
    shape: tuple[int, ...]
    kernel_name: str = "kernel"
    bias_name: str = "bias"

    def split(self, weights: Weights) -> tuple[dict[str, tf.Tensor], tf.Tensor | None]:
        """The weights of the linear part, and the bias."""
        return {self.kernel_name: weights[self.kernel_name]}, weights.get(self.bias_name)

    def linear(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
        """The product of the flattened inputs with the matrix."""
        x = tf.concat([tf.reshape(t, (tf.shape(t)[0], -1)) for t in inputs], axis=1)
        kernel = weights[self.kernel_name]
        return tf.reshape(x @ (kernel * tf.cast(self.connected, kernel.dtype)), (-1, *self.shape))

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        z, bias = self.linear(inputs, weights), weights.get(self.bias_name)
        return (z if bias is None else z + bias,)


def _dense_form(site, inputs, dtype):
    operation = site.operation
    weights = operation.weights(dtype, inputs)
    names = sorted(weights, key=lambda name: (name == "bias", -weights[name].shape.rank))
    kernel, bias_name = (names + ["bias"])[0] if names else "kernel", names[1] if len(names) > 1 else "bias"
    if len(names) > 2:
        raise ValueError(
            f"{site.path!r} has {len(names)} weights: {', '.join(names)}. check_rule knows a kernel and a bias."
        )

    def call(parts, weights):
        return np.asarray(operation(parts, weights)[0], "float64")

    shapes = [tuple(t.shape[1:]) for t in inputs]
    basis = [tf.cast(t, dtype) for t in _basis(shapes)]
    z = call(basis, weights)
    offset, matrix = z[0], (z[1:] - z[:1]).reshape(len(z) - 1, -1)
    x = np.concatenate([np.asarray(t, "float64").reshape(len(t), -1) for t in inputs], axis=1)
    if not np.allclose(
        call(inputs, weights).reshape(len(x), -1), x @ matrix + offset.reshape(-1), rtol=1e-3, atol=1e-4
    ):
        raise ValueError(f"{site.path!r} is not affine, so it has no dense matrix to compare with.")
    ones = {name: tf.zeros_like(w) if name == bias_name else tf.ones_like(w) for name, w in weights.items()}
    connected = call(basis, ones)[1:].reshape(matrix.shape) != 0
    has_bias = bias_name in weights
    sources = {kernel: matrix, **({bias_name: offset[None]} if has_bias else {})}
    return DenseForm(
        lambda dtype: {name: tf.cast(value, dtype) for name, value in sources.items()},
        connected,
        tuple(z.shape[1:]),
        kernel,
        bias_name,
    )


def _basis(shapes):
    """Zeros followed by all unit vectors, as arrays of these shapes."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    basis = np.concatenate([np.zeros((1, sum(sizes))), np.eye(sum(sizes))])
    parts = np.split(basis, np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
