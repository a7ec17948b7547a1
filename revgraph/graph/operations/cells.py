"""The affine part of a recurrent cell: x W + h U + b as one operation."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from revgraph.graph.operations.base import Affine, Source, ordered_sum
from revgraph.graph.types import Weights


@dataclasses.dataclass(frozen=True, eq=False)
class Joined(Affine):
    """A sum of linear layers, z = sum_k g_k (x_k W_k + b_k) + b, as a cell computes from its input and its state.

    Each linear layer reads one input. Behind these inputs come the gates. A gate is a tensor without negative entries,
    such as the reset gate of a GRU. It counts as a constant, so it scales the kernel of its layer.

    Args:
        parts: The linear layers.
        gates: For each of them, the positions of the inputs that multiply what it gives.
        bias: Reads the bias b that is added to the sum. None where nothing is added.
    """

    parts: tuple[Affine, ...]
    gates: tuple[tuple[int, ...], ...]
    bias: Source | None = None

    @property
    def label(self) -> str:
        return " + ".join(part.label for part in self.parts)

    @property
    def constants(self) -> frozenset[int]:
        return frozenset(range(len(self.parts), len(self.parts) + sum(map(len, self.gates))))

    def read(self, dtype: str | tf.DType) -> dict[str, tf.Tensor]:
        read = {f"{k}:{name}": w for k, part in enumerate(self.parts) for name, w in part.read(dtype).items()}
        return read if self.bias is None else {**read, "bias": self.bias(dtype)}

    def completed(self, weights: Weights, dtype: str | tf.DType, inputs: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        found, biases = dict(weights), [weights["bias"]] if "bias" in weights else []
        for k, (part, gates) in enumerate(zip(self.parts, self.gates, strict=True)):
            gate = None
            for position in gates:
                gate = inputs[position] if gate is None else gate * inputs[position]
            if gate is not None:
                found[f"{k}:gate"] = gate
            own = found.pop(f"{k}:bias", None)
            if own is not None:
                biases.append(own if gate is None else part.add_bias(tf.zeros_like(gate), own) * gate)
        return {**found, "bias": ordered_sum(biases)} if biases else found

    def linear(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
        def term(k, part):
            prefix = f"{k}:"
            own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
            gate = own.pop("gate", None)
            z = part.linear([inputs[k]], own)
            return z if gate is None else z * gate

        return ordered_sum([term(k, part) for k, part in enumerate(self.parts)])

    def add_bias(self, z: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return self.parts[0].add_bias(z, bias) if bias.shape.rank < z.shape.rank else z + bias
