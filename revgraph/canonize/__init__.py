"""Canonization: rewrites a graph into sites on which LRP rules are defined.

`canonize` does all of it. It is a list of passes, functions from a graph to a graph, which can be used one by one.
"""

from revgraph.canonize.folding import fold_batchnorm, fold_padding
from revgraph.canonize.passes import (
    average_pooling_to_conv,
    canonize,
    hold_deviations,
    prune,
    split_activations,
    split_separable,
    strip_output_activation,
)
from revgraph.canonize.products import join_products

__all__ = [
    "average_pooling_to_conv",
    "canonize",
    "fold_batchnorm",
    "fold_padding",
    "hold_deviations",
    "join_products",
    "prune",
    "split_activations",
    "split_separable",
    "strip_output_activation",
]
