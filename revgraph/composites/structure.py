"""Rules for everything that has no kernel."""

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

STRUCTURE = (
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
"""Rules for everything that has no kernel, tried after a composite's own entries."""

SUM_SHARES = {
    "proportional": (),
    "z_plus": ((SUM, ZPlus()),),
    "equal": ((SUM, Equal()),),
    "identity": ((SUM, IdentityBranch()),),
}
"""How a sum shares relevance out: in proportion to its summands, to their positive parts, equally, to the shortcut."""

PRODUCT_SHARES = {
    "signal": (),
    "uniform": ((PRODUCT, Equal()), (CONTRACTION, Bilinear())),
}
"""How products share relevance out: all to the signal, or equally."""


def merging(add="proportional", gate="signal") -> tuple:
    """Entries for the operations that merge tensors, to be tried before a composite's own.

    Args:
        add: A key of `SUM_SHARES`.
        gate: A key of `PRODUCT_SHARES`.

    Raises:
        ValueError: It is none.
    """
    for name, value, choices in (("add", add, SUM_SHARES), ("gate", gate, PRODUCT_SHARES)):
        if value not in choices:
            raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}. Received: {value!r}.")
    return (*SUM_SHARES[add], *PRODUCT_SHARES[gate])
