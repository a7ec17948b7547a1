"""For tests of rules of one's own: a rule on a layer against the same rule on the layer's dense matrix."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from revgraph.canonize import canonize
from revgraph.graph.analysis import is_linear_layer
from revgraph.graph.operations import Affine, Opaque
from revgraph.graph.tables import Table, Tabular
from revgraph.read import trace
from revgraph.read.keras.private import is_of_keras
from revgraph.reverse.ledger import FIELDS
from revgraph.reverse_rules.engine import ReplacementLayer, Rule


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
    """One site under the rule, with random inputs and random relevance; arrays of shape (batch,).

    Args:
        path: The site.
        difference: The largest difference from the dense form, relative to the largest relevance.
        start: Relevance that arrived from above.
        input: Relevance handed on below.
        bias: Absorbed by the bias.
        constants: Absorbed by constants that take part.
        rule: Dropped or added by the rule, as it is defined.
        stabiliser: Absorbed by the stabiliser.
        other: What remains.
    """

    path: str
    difference: float
    start: np.ndarray
    input: np.ndarray
    bias: np.ndarray
    constants: np.ndarray
    rule: np.ndarray
    stabiliser: np.ndarray
    other: np.ndarray


class RuleReport(tuple, Tabular):
    """What `check_rule` found: one `Checked` per linear site of the layer. Prints as a table of means over samples."""

    def table(self) -> Table:
        """Difference from the dense form, and where relevance went."""
        rows = [(c.path, c.difference, *(float(np.mean(getattr(c, field))) for field in FIELDS)) for c in self]
        return Table(("site", "difference", *FIELDS), rows)

    __repr__ = __str__ = Tabular.__str__


def check_rule(
    layer, rule, input_shape, *, formula=None, nonnegative=False, samples=3, seed=0, tolerance=None
) -> RuleReport:
    """Compares a rule on a layer with the rule on the layer's dense matrix, and reports where relevance goes.

    The matrix W and the bias b are read off the layer's Jacobian, so that stride, padding, dilation and groups have to
    come out right. With `formula` the paper's own formula on that matrix is compared, too.

    Args:
        layer: A Keras layer that is affine, built-in or of one's own. Its activation, if any, is left out.
        rule: The rule.
        input_shape: Shape of one sample, or a list of shapes for several inputs.
        formula: Function `(W, b, x, R) -> R_in` in NumPy with W (inputs, outputs), b (outputs,), x (samples, inputs),
            R (samples, outputs), giving (samples, inputs).
        nonnegative: Whether the random inputs are.
        samples: Number of random samples.
        seed: Integer.
        tolerance: Largest difference that passes, relative to the largest relevance; by default 1e-9, and 1e-4 for
            layers that compute in float32. Layers of Keras are checked in float64.

    Returns:
        A `RuleReport`.

    Raises:
        AssertionError: The relevances differ.
        ValueError: The layer is not affine.

    Example:

        print(check_rule(keras.layers.Conv2D(4, 3, strides=2), MyRule(), input_shape=(8, 8, 3)))
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"Expected a rule, such as revgraph.reverse_rules.Epsilon(). Received: {rule!r}.")
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
    """The layer as a canonized graph; a layer of one's own stays whole, one of Keras computes in float64."""
    several = bool(input_shape) and isinstance(input_shape[0], list | tuple)
    shapes = list(input_shape) if several else [input_shape]
    own = not is_of_keras(type(layer))
    if not own:
        layer = _in_float64(layer, [(None, *shape) for shape in shapes])
    inputs = [keras.Input(shape, dtype=layer.compute_dtype) for shape in shapes]
    model = keras.Model(inputs, layer(inputs if several else inputs[0]))
    return canonize(trace(model, keep=(type(layer),) if own else ()))


def _in_float64(layer, shapes):
    """A copy of the layer, with its weights if it has any yet."""
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
    found = [r.numpy() for r in pullback(relevance)]
    _, dense_pullback = ReplacementLayer(dense, rule, graph.dtype)(*inputs)
    expected = [r.numpy() for r in dense_pullback(relevance)]
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
        connected: (inputs, outputs), 1 where a connection exists.
        shape: Shape of one output.
        kernel_name, bias_name: Names of the weights.
    """

    connected: np.ndarray
    shape: tuple[int, ...]
    kernel_name: str = "kernel"
    bias_name: str = "bias"

    def split(self, weights):
        return {self.kernel_name: weights[self.kernel_name]}, weights.get(self.bias_name)

    def linear(self, inputs, weights):
        x = tf.concat([tf.reshape(t, (tf.shape(t)[0], -1)) for t in inputs], axis=1)
        kernel = weights[self.kernel_name]
        return tf.reshape(x @ (kernel * tf.cast(self.connected, kernel.dtype)), (-1, *self.shape))

    def __call__(self, inputs, weights):
        z, bias = self.linear(inputs, weights), weights.get(self.bias_name)
        return (z if bias is None else z + bias,)


def _dense_form(site, inputs, dtype) -> DenseForm:
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
    """Zeros and then one unit vector after the other, as arrays of these shapes."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    basis = np.concatenate([np.zeros((1, sum(sizes))), np.eye(sum(sizes))])
    parts = np.split(basis, np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
