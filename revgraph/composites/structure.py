"""Rules for everything that has no kernel: activations, sums, products, moves, normalizations."""

import dataclasses

from revgraph.composites.matchers import (
    ACTIVATION,
    CONTRACTION,
    EMBEDDING,
    LINEAR_MAP,
    LOOP,
    NORMALIZATION,
    PADDING,
    POOLING,
    PRODUCT,
    QUOTIENT,
    ROUTING,
    SCALE,
    SOFTMAX,
    STEP,
    SUM,
    Entry,
)
from revgraph.reverse_rules import (
    Epsilon,
    Equal,
    Gate,
    IdentityBranch,
    Jacobian,
    Norm,
    Only,
    Padding,
    Pass,
    Saturation,
    SoftmaxTaylor,
    SumOverEmbedding,
    Turns,
    Uniform,
    ZPlus,
)

STRUCTURE: tuple[Entry, ...] = (
    (EMBEDDING, SumOverEmbedding()),
    (PADDING, Padding()),
    (ROUTING, Jacobian()),
    (STEP, Saturation()),
    (SOFTMAX, SoftmaxTaylor()),
    (ACTIVATION, Pass()),
    (SUM, Epsilon()),
    (POOLING, Norm()),
    (SCALE, Pass()),
    (NORMALIZATION, Epsilon(bias=False)),
    (LINEAR_MAP, Epsilon()),
    (PRODUCT, Gate()),
    (CONTRACTION, Gate()),
    (QUOTIENT, Only(0)),
    (LOOP, Turns()),
)
"""Rules for everything that has no kernel. They are tried after a composite's own entries."""

SUM_SHARES: dict[str, tuple[Entry, ...]] = {
    "proportional": (),
    "z_plus": ((SUM, ZPlus()),),
    "equal": ((SUM, Equal()),),
    "identity": ((SUM, IdentityBranch()),),
}
"""How the summands of a sum share relevance: in proportion to their values or to their positive parts, equally, or all
to the shortcut of a residual block. `STRUCTURE` has the rule for what is empty here."""

PRODUCT_SHARES: dict[str, tuple[Entry, ...]] = {
    "signal": (),
    "uniform": ((PRODUCT, Uniform()),),
}
"""How the factors of a product share relevance: all to the signal, none to its gates; or equally."""

ATTENTIONS: dict[str, tuple[Entry, ...]] = {
    "cp": (),
    "attnlrp": ((CONTRACTION, Uniform()),),
}
"""How products of matrices, such as those of attention, share relevance: all to the values, because the weights of the
attention count as constants; or half to the values and half to the weights, through the softmax to queries and keys."""

NORMALIZATIONS: dict[str, tuple[Entry, ...]] = {
    "constant_std": (),
    "identity": ((NORMALIZATION, Pass()),),
}
"""How relevance passes normalizations of a sample by its own statistics: by the linear map that they are if the
standard deviation counts as a constant; or unchanged."""


def merging(
    add: str = "proportional",
    gate: str = "signal",
    attention: str = "cp",
    normalization: str = "constant_std",
    epsilon: float = 1e-7,
) -> tuple[Entry, ...]:
    """Entries for sums and products of tensors, attention and normalization, to put before those of a composite.

    Args:
        add: How the summands of a sum share relevance: `"proportional"`, `"z_plus"`, `"equal"` or `"identity"`.
        gate: How the factors of a product share relevance: `"signal"` or `"uniform"`.
        attention: How attention shares relevance: `"cp"` or `"attnlrp"`.
        normalization: How relevance passes normalizations: `"constant_std"` or `"identity"`.
        epsilon: The stabiliser of the products of matrices in attention.

    Raises:
        ValueError: It is none of these.
    """
    for name, value, choices in (
        ("add", add, SUM_SHARES),
        ("gate", gate, PRODUCT_SHARES),
        ("attention", attention, ATTENTIONS),
        ("normalization", normalization, NORMALIZATIONS),
    ):
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}. Received: {value!r}.")
    products = ((match, dataclasses.replace(rule, epsilon=epsilon)) for match, rule in ATTENTIONS[attention])
    return (*SUM_SHARES[add], *PRODUCT_SHARES[gate], *products, *NORMALIZATIONS[normalization])
