"""The rules, and what a rule of your own is made of: `revgraph.rules.Epsilon(1e-3)`.

Each is explained in `revgraph/reverse_rules/rules.py`, and in pictures on the page *Rules* of the documentation.
"""

from revgraph.reverse_rules import *  # noqa: F403
from revgraph.reverse_rules import __all__ as __all__
