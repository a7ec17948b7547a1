"""Rules for everything that has no kernel: activations, sums, products, moves, normalizations."""

from revgraph.composites.matchers import (
    ACTIVATION,
    CONTRACTION,
    EMBEDDING,
    LINEAR_MAP,
    NORMALIZATION,
    PADDING,
    POOLING,
    PRODUCT,
    QUOTIENT,
    ROUTING,
    SCALE,
    STEP,
    SUM,
    Entry,
)
from revgraph.reverse_rules import (
    Bilinear,
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
    SumOverEmbedding,
    ZPlus,
)

STRUCTURE: tuple[Entry, ...] = (
    (EMBEDDING, SumOverEmbedding()),
    (PADDING, Padding()),
    (ROUTING, Jacobian()),
    (STEP, Saturation()),
    (ACTIVATION, Pass()),
    (SUM, Epsilon()),
    (POOLING, Norm()),
    (SCALE, Pass()),
    (NORMALIZATION, Epsilon(bias=False)),
    (LINEAR_MAP, Epsilon()),
    (PRODUCT, Gate()),
    (CONTRACTION, Gate()),
    (QUOTIENT, Only(0)),
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
    "uniform": ((PRODUCT, Equal()), (CONTRACTION, Bilinear())),
}
"""How the factors of a product share relevance: all to the signal, none to its gates; or equally."""


def merging(add: str = "proportional", gate: str = "signal") -> tuple[Entry, ...]:
    """Entries for sums and products of tensors. Put them before the other entries of a composite.

    Args:
        add: How the summands of a sum share relevance: `"proportional"`, `"z_plus"`, `"equal"` or `"identity"`.
        gate: How the factors of a product share relevance: `"signal"` or `"uniform"`.

    Raises:
        ValueError: It is none of these.
    """
    for name, value, choices in (("add", add, SUM_SHARES), ("gate", gate, PRODUCT_SHARES)):
        if value not in choices:
            raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}. Received: {value!r}.")
    return (*SUM_SHARES[add], *PRODUCT_SHARES[gate])
