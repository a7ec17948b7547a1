"""Operations that are not affine: activations, products, look-ups, and operations that revgraph cannot read."""

import dataclasses
import string
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from revgraph.graph.activations import TRAITS, UNKNOWN, Traits
from revgraph.graph.operations.base import Affine, Operation, Source, as_tensor
from revgraph.graph.types import Weights


@dataclasses.dataclass(frozen=True, eq=False)
class Fused(Operation):
    """An affine operation followed by an activation, as in `Dense(activation="relu")`."""

    affine: Affine
    activation: "Activation"

    @property
    def label(self) -> str:
        return f"{self.affine.label} + {self.activation.label}"

    def read(self, dtype: str | tf.DType) -> dict[str, tf.Tensor]:
        return self.affine.read(dtype)

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        return self.activation(self.affine(inputs, weights), {})


@dataclasses.dataclass(frozen=True, eq=False)
class Activation(Operation):
    """A function of one input that keeps its shape. Inputs behind the first, such as masks, count as constants.

    Args:
        function: The function.
        name: Its name, which is the key of what is known of it in `revgraph.graph.activations.TRAITS`.
        layer: The Keras layer that it comes from, if any.
    """

    function: Callable[..., tf.Tensor]
    name: str
    layer: Any = None

    @property
    def label(self) -> str:
        return self.name

    @property
    def traits(self) -> Traits:
        return TRAITS.get(self.name, UNKNOWN)

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        return (self.function(*inputs),)


class Product(Operation):
    """The product of its inputs, entry by entry, as in gates and swish."""

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        z = inputs[0]
        for x in inputs[1:]:
            z = z * x
        return (z,)


class Quotient(Operation):
    """One input divided by the other, entry by entry."""

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        return (inputs[0] / inputs[1],)


def spelt_out(equation: str, ranks: Sequence[int]) -> str:
    """The equation of an einsum, with a letter for each axis in place of `...`, and without spaces.

    Args:
        equation: The equation, such as `"...qk,...kd->...qd"`.
        ranks: How many axes each input has.
    """
    inputs, output = equation.replace(" ", "").split("->")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    terms = [(term, rank - len(term.replace("...", ""))) for term, rank in zip(inputs.split(","), ranks, strict=True)]
    most = max((count for term, count in terms if "..." in term), default=0)
    # The axes of `...` are aligned at the right.
    spelt = [term.replace("...", "".join(free[most - count : most])) for term, count in terms]
    return f"{','.join(spelt)}->{output.replace('...', ''.join(free[:most]))}"


@dataclasses.dataclass(frozen=True, eq=False)
class Contraction(Operation):
    """Sums of products of its inputs, linear in each: matmul, einsum and dot of several tensors that are computed.

    Args:
        function: Computes the output from the inputs.
        name: What it is called in printed graphs.
        equation: The einsum that it computes, with a letter for each axis, such as `"bqk,bkd->bqd"`.
    """

    function: Callable[..., tf.Tensor]
    name: str
    equation: str

    @property
    def label(self) -> str:
        return self.name

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        return (self.function(*inputs),)


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding(Operation):
    """Looks up a row of a table for each id. The relevance of the row is that of the id.

    Args:
        table: Reads the table, of shape `(ids, embedding)`.
    """

    table: Source

    def read(self, dtype: str | tf.DType) -> dict[str, tf.Tensor]:
        return {"embeddings": self.table(dtype)}

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        return (tf.gather(weights["embeddings"], self.rows(inputs[0])),)

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """The numbers of the rows that are looked up for ids."""
        return tf.cast(ids, tf.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class RowsOnPath(Operation):
    """Rows on the straight path from reference rows: e_ref + t (e - e_ref).

    It reads ids, the ids of the reference rows, and t between 0 and 1, one number per sample.

    Args:
        lookup: The embedding.
        from_zero: Whether the reference rows are zero, whatever the ids of the reference are.
        in_place: Whether the first axis of the ids is that of the samples. Otherwise t is one number for all samples.
    """

    lookup: Embedding
    from_zero: bool
    in_place: bool

    @property
    def label(self) -> str:
        return "Embedding on a path"

    def read(self, dtype: str | tf.DType) -> dict[str, tf.Tensor]:
        return self.lookup.read(dtype)

    def ends(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, tf.Tensor]:
        """The rows of the ids, and those of the reference."""
        (rows,), (reference,) = (self.lookup((ids,), weights) for ids in inputs[:2])
        return rows, tf.zeros_like(rows) if self.from_zero else reference

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        rows, reference = self.ends(inputs, weights)
        t = inputs[2] if self.in_place else inputs[2][:1]
        t = tf.reshape(tf.cast(t, rows.dtype), (-1,) + (1,) * (rows.shape.rank - 1))
        return (reference + t * (rows - reference),)


@dataclasses.dataclass(frozen=True, eq=False)
class NoisyRows(Embedding):
    """Rows with Gaussian noise on every entry. It reads ids, and a seed of the noise, one number per sample.

    Args:
        scale: The standard deviation of the noise.
        number: Tells lookups apart, which have noise of their own.
    """

    scale: float = 0.0
    number: int = 0

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        (rows,) = super().__call__(inputs[:1], weights)
        seed = tf.stack([tf.cast(inputs[1][0], tf.int32), self.number])
        return (rows + self.scale * tf.random.stateless_normal(tf.shape(rows), seed, dtype=rows.dtype),)


@dataclasses.dataclass(frozen=True, eq=False)
class Opaque(Operation):
    """A Keras layer or operation that revgraph cannot look into. It is called as a whole.

    Its weights are its floating variables by name. A variable whose weight is left out is zero in the call.

    Args:
        operation: The Keras layer or operation.
        function: Computes the outputs from the inputs.
        outputs_count: How many outputs it has.
    """

    operation: keras.Operation
    function: Callable[..., object]
    outputs_count: int = 1

    refusal: ClassVar[str | None] = None
    """Why no method can explain the operation, and what to do. None where some method can."""

    @property
    def label(self) -> str:
        return type(self.operation).__name__

    def read(self, dtype: str | tf.DType) -> dict[str, tf.Tensor]:
        return {name: as_tensor(v.value, v.dtype) for name, v in self._variables().items()}

    def _variables(self):
        """The floating variables by name, mostly `kernel` and `bias`; by path where a name occurs twice."""
        variables = getattr(self.operation, "variables", ())
        names = [v.name for v in variables]
        return {
            (v.name if names.count(v.name) == 1 else v.path): v
            for v in variables
            if "float" in keras.backend.standardize_dtype(v.dtype)
        }

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        mapping = [(v, weights[name] if name in weights else tf.zeros_like(v)) for name, v in self._variables().items()]
        if not mapping:
            return tuple(tf.nest.flatten(self.function(*inputs)))
        with keras.StatelessScope(state_mapping=mapping):
            return tuple(tf.nest.flatten(self.function(*inputs)))
