"""What rules share that treat positive and negative contributions apart: `AlphaBeta` and TensorWatch's `BRule`."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from revgraph.graph.arguments import check_number
from revgraph.reverse_rules.terms import Part


def alpha_and_beta(alpha: float | None, beta: float | None, name: str = "AlphaBeta") -> tuple[float, float]:
    """Alpha and beta, the missing one inferred from alpha - beta = 1.

    Args:
        alpha, beta: As they were given. Where both are None, alpha is 2 and beta is 1.
        name: Name of the rule, for the error.

    Raises:
        ValueError: alpha - beta is not 1, or beta is negative.
    """
    for argument, value in (("alpha", alpha), ("beta", beta)):
        # The check below says more of what is not a number in the sense of IEEE 754.
        if value is not None and value == value:
            check_number(f"{name}: {argument}", value)
    a, b = alpha, beta
    if a is None:
        a = 2.0 if b is None else b + 1.0
    if b is None:
        b = a - 1.0
    if not (abs(a - b - 1) <= 1e-6 and a >= 1 and b >= 0):
        raise ValueError(
            f"{name}: alpha - beta must be 1 with alpha >= 1 and beta >= 0, so that relevance is conserved. "
            f"Received: alpha={alpha}, beta={beta}. Give one of the two, and the other is inferred."
        )
    return float(a), float(b)


def once_if_alone(gain: Part, loss: Part) -> tuple[Part, Part]:
    """Both parts, with gates for outputs that have only one kind of contributions.

    Such an output hands its relevance to the contributions that it has with weight 1, in place of alpha or -beta.

    Args:
        gain: The part of the positive contributions.
        loss: The part of the negative contributions.
    """

    def gated(part: Part, own: int, other: int) -> Part:
        def gate(z: tf.Tensor, zs: Sequence[tf.Tensor]) -> tf.Tensor:
            absent, alone = (zs[own] == 0) & (zs[other] != 0), (zs[own] != 0) & (zs[other] == 0)
            share = tf.where(alone, tf.constant(1.0 / part.weight, z.dtype), tf.ones_like(z))
            return tf.where(absent, tf.zeros_like(z), share)

        return dataclasses.replace(part, gate=gate)

    return gated(gain, 0, 1), gated(loss, 1, 0)
