"""Which layers and operations the random graphs draw, and why the others are not drawn."""

import keras
import pytest

from revgraph.read.keras import layers
from tests import random_graphs
from tests.models import precision
from tests.test_reading_operations import ACTIVATIONS, OPERATIONS

FLOAT64 = "TensorFlow has no kernel for float64 on CPUs"
BATCH = "mixes the samples of a batch, or fixes their number"

NOT_DRAWN = {
    "AveragePooling3D": FLOAT64,
    "MaxPooling3D": FLOAT64,
    "AdaptiveAveragePooling3D": FLOAT64,
    "AdaptiveMaxPooling3D": FLOAT64,
    "Diag": BATCH,
    "Diagflat": BATCH,
    "Flipud": BATCH,
    "Outer": BATCH,
    "Ravel": BATCH,
    "Slice": BATCH,
    "SliceUpdate": BATCH,
    "Vdot": BATCH,
    "Vsplit": BATCH,
    "Vstack": BATCH,
    "Exp2": "Keras 3.15 computes it in float32 in a graph, and fails on float64",
    "ConvTranspose": "Keras 3.15 calls it with padding and output padding exchanged",
    "RandomCrop": "Keras 3.15 does not crop in inference, whatever shape it announces",
    "Rearrange": "Keras 3.15 cannot trace it where the size of the batch is unknown",
}


def names():
    """Every layer with a view, and every operation that is read in `test_reading_operations`."""
    return {cls.__name__ for cls in layers.VIEWS} | {*OPERATIONS, *ACTIVATIONS}


@pytest.fixture(scope="module")
def drawn():
    """What the entries of the catalogue consist of; entry k stands in the graph of seed k."""
    found = set()
    with precision("float64"):
        for entry in random_graphs.CATALOGUE:
            found |= random_graphs.drawn(random_graphs.alone(entry))
    return found


def test_every_name_is_drawn_or_says_why_not(drawn):
    known = {name for name in names() if hasattr(keras.layers, name) or name in ops_of_keras()}
    missing = sorted(known - drawn - set(NOT_DRAWN))
    assert not missing, f"The random graphs never draw {missing}: add an entry to tests/random_graphs.py, or a reason."


def test_the_list_of_what_is_not_drawn_is_honest(drawn):
    assert not drawn & set(NOT_DRAWN)
    assert set(NOT_DRAWN) <= names()


def ops_of_keras():
    """Names of all classes of operations that this version of Keras has."""
    found, queue = set(), [keras.Operation]
    while queue:
        cls = queue.pop()
        found.add(cls.__name__)
        queue += cls.__subclasses__()
    return found
