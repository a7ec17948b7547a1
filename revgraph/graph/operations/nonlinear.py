"""Operations that are not affine: activations, products, look-ups, and what cannot be looked into."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from revgraph.graph.activations import TRAITS, UNKNOWN
from revgraph.graph.operations.base import Affine, Operation, Source, live


@dataclasses.dataclass(frozen=True, eq=False)
class Fused(Operation):
    """An affine operation with an activation behind it, as `Dense(activation="relu")` has it."""

    affine: Affine
    activation: "Activation"

    @property
    def label(self):
        return f"{self.affine.label} + {self.activation.label}"

    def read(self, dtype):
        return self.affine.read(dtype)

    def __call__(self, inputs, weights):
        return self.activation(self.affine(inputs, weights), {})


@dataclasses.dataclass(frozen=True, eq=False)
class Activation(Operation):
    """A function of one input that keeps its shape; the name says which, and so what is known of it."""

    function: Callable[[tf.Tensor], tf.Tensor]
    name: str
    layer: Any = None

    @property
    def label(self):
        return self.name

    @property
    def traits(self):
        return TRAITS.get(self.name, UNKNOWN)

    def __call__(self, inputs, weights):
        return (self.function(inputs[0]),)


class Product(Operation):
    """The product of its inputs, entry by entry: gates, swish."""

    def __call__(self, inputs, weights):
        z = inputs[0]
        for x in inputs[1:]:
            z = z * x
        return (z,)


class Quotient(Operation):
    """One input divided by the other, entry by entry."""

    def __call__(self, inputs, weights):
        return (inputs[0] / inputs[1],)


@dataclasses.dataclass(frozen=True, eq=False)
class Contraction(Operation):
    """Sums of products of its inputs, linear in each of them: matmul, einsum and dot of two tensors of the graph."""

    function: Callable[..., tf.Tensor]
    name: str

    @property
    def label(self):
        return self.name

    def __call__(self, inputs, weights):
        return (self.function(*inputs),)


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding(Operation):
    """Looks up a row for each index; the row's relevance belongs to the index."""

    table: Source

    def read(self, dtype):
        return {"embeddings": self.table(dtype)}

    def __call__(self, inputs, weights):
        return (tf.gather(weights["embeddings"], tf.cast(inputs[0], tf.int32)),)


@dataclasses.dataclass(frozen=True, eq=False)
class Opaque(Operation):
    """A Keras layer or operation that revgraph cannot look into: called as a whole, on its variables by name.

    Variables whose weight is left out are zero.
    """

    operation: keras.Operation
    function: Callable[..., object]
    outputs_count: int = 1

    refusal = None
    """Why no method at all can explain it, and what to do, where that is so."""

    @property
    def label(self):
        return type(self.operation).__name__

    def read(self, dtype):
        return {name: live(lambda v=v: v)(v.dtype) for name, v in self._variables().items()}

    def _variables(self):
        """Variables by the shortest ending of their path that tells them apart, mostly `kernel` and `bias`."""
        variables = getattr(self.operation, "variables", ())
        names = [v.name for v in variables]
        return {
            (v.name if names.count(v.name) == 1 else v.path): v
            for v in variables
            if "float" in keras.backend.standardize_dtype(v.dtype)
        }

    def __call__(self, inputs, weights):
        mapping = [(v, weights[name] if name in weights else tf.zeros_like(v)) for name, v in self._variables().items()]
        if not mapping:
            return tuple(tf.nest.flatten(self.function(*inputs)))
        with keras.StatelessScope(state_mapping=mapping):
            return tuple(tf.nest.flatten(self.function(*inputs)))
