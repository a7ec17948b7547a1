"""Canonization: rewrites a graph into sites on which LRP rules are defined.

The single passes are in `passes.py`, `folding.py` and `products.py`.
"""

from revgraph.canonize.passes import canonize, strip_output_activation

__all__ = ["canonize", "strip_output_activation"]
