"""`WordTable`: an operation of a SavedModel that looks up the numbers of words."""

import dataclasses

import tensorflow as tf

from revgraph.read.savedmodel.nodes import TensorFlowOperation
from revgraph.read.savedmodel.weights import Weight


@dataclasses.dataclass(frozen=True, eq=False)
class WordTable(TensorFlowOperation):
    """Looks up the number of each word.

    Args:
        table: The handle of the table.
        unknown: The number of words that it does not have.
    """

    table: Weight = dataclasses.field(kw_only=True)
    unknown: Weight = dataclasses.field(kw_only=True)

    def words(self) -> dict[str, int]:
        """The words of the table and their numbers."""
        keys, values = tf.raw_ops.LookupTableExportV2(
            table_handle=self.table.read("float32"), Tkeys=tf.string, Tvalues=self.unknown.read("float32").dtype
        )
        texts = (key.decode("utf-8", "replace") for key in keys.numpy())
        return dict(zip(texts, map(int, values.numpy()), strict=True))

    def number_of_others(self) -> int:
        """The number of the words that the table does not have."""
        return int(self.unknown.read("float32"))
