"""Says at which site a model fails on inputs that it does not take, such as a sequence that is too long."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Inert

ADVICE = (
    "A sequence that is longer than a table of positions fails like this, and so do ids outside of a table and a mask "
    "that is not as long as what it masks. Cut or pad the inputs to sizes that the model takes."
)

OUTSIDE = re.compile(r"\[0, (\d+)[\])]")
"""How TensorFlow says how many rows there are, where more are asked for."""


class RefusedInputError(ValueError):
    """The model does not take what a sample holds, such as an id outside of its table. Other samples may be fine."""


@contextlib.contextmanager
def failing_site_named(graph: Graph, inputs: Callable[[], Sequence[tf.Tensor]]) -> Iterator[None]:
    """Raises an error that names the failing site where TensorFlow says that an argument is invalid.

    Args:
        graph: The graph that runs.
        inputs: Gives its inputs, in flat order. It is called only after something failed.

    Raises:
        RefusedInputError: A site fails on what it gets from the inputs.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError:
        found = _failure(graph, inputs())
        if found is None:
            raise
        raise found from None


def _failure(graph, inputs):
    """The error for the first site that fails, when all run one after the other; None where none fails."""
    current: list[Site] = []

    def weights(i, site, arguments):
        current[:] = [site]
        return site.operation.weights(graph.dtype, arguments)

    values = {slot: graph.cast(slot, x) for slot, x in zip(graph.input_slots, inputs, strict=True)}
    try:
        graph.compute(values, weights)
    except tf.errors.InvalidArgumentError as error:
        (site,) = current
        sizes = ", ".join(f"{name} {_shape(values[s])}" for name, s in zip(graph.input_names, values, strict=True))
        reason, layer = _reason(error), site.path.rpartition("/")[0] or site.path
        rows = OUTSIDE.search(reason)
        why = f"It fails at {site.path!r} ({site.operation.label}): {reason}. {ADVICE}"
        if rows and isinstance(site.operation, Inert):
            # Only sizes decide which rows of a constant it takes.
            why = (
                f"They are longer than a table of positions: that of {layer!r} has {rows[1]} rows. Cut them to that "
                f"length. A task of KerasHub cuts texts if you set model.preprocessor.sequence_length = {rows[1]}."
            )
        return RefusedInputError(f"The model {graph.name!r} does not take these inputs: {sizes}. {why}")
    return None


def _shape(x):
    return tuple(x.shape)


def _reason(error):
    """What TensorFlow says, without the names of its functions and nodes."""
    text = str(error.message).partition(" [Op:")[0].strip()
    text = text.partition("}} ")[2] if text.startswith("{{") else text
    return " ".join(text.split()).rstrip(".")
