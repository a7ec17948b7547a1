"""Rules of embeddings: what a token gets of the relevance, or of the gradient, of its row in the table.

References:
    [LI2016] Li et al.: Visualizing and Understanding Neural Models in NLP. NAACL 2016.
"""

import dataclasses
from typing import Any

import tensorflow as tf

from revgraph.reverse_rules.engine import OutputsAndPullback, Pullback, Rule, SiteCall


@dataclasses.dataclass(frozen=True)
class SumOverEmbedding(Rule):
    """The relevance of a token is the sum over its embedding: R_j = sum_d R_jd.

    Args:
        times_row: Whether to multiply by the embedding first, R_j = sum_d e_jd R_jd: input times gradient of a token.
    """

    times_row: bool = False

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        return True

    def record(self, call: SiteCall) -> OutputsAndPullback:
        (row,) = call.outputs

        def pull(r):
            return _of_ids(tf.reduce_sum(row * r if self.times_row else r, axis=-1), call)

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class NormOverEmbedding(Rule):
    """The gradient of a token is the length of the gradient of its embedding: R_j = sqrt(sum_d R_jd^2).  [LI2016]

    It says how sensitive the output is to the token. The sum over the embedding does not say it: behind a normalization
    the sum is zero but for rounding. A token that is looked up several times gets the sum of the lengths.
    """

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        return True

    def record(self, call: SiteCall) -> OutputsAndPullback:
        return call.outputs, Pullback(lambda r: _of_ids(tf.norm(r, axis=-1), call))


@dataclasses.dataclass(frozen=True)
class TimesRowDifference(Rule):
    """What a token contributes at a point of the path from a reference row: R_j = sum_d (e_jd - e_ref,jd) R_jd.

    The mean over the path is the integrated gradient of the token.
    """

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        return index == 0

    def record(self, call: SiteCall) -> OutputsAndPullback:
        # A `RowsOnPath` of revgraph.graph.
        on_path: Any = call.operation
        rows, reference = on_path.ends(call.inputs, call.weights)
        return call.outputs, Pullback(lambda r: _of_ids(tf.reduce_sum((rows - reference) * r, axis=-1), call))


def _of_ids(relevance, call):
    """The relevance of the ids, which come first, and None for all that a lookup reads besides."""
    return (relevance, *(None for _ in call.inputs[1:]))
