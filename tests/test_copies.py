"""Tables, matchers and composites can be copied and pickled."""

import copy
import pickle

import pytest
from keras import layers

import revgraph
from revgraph import composites
from revgraph.graph.tables import Table
from revgraph.reverse_rules import Flat

COPIED = [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]


@pytest.mark.parametrize("copied", COPIED)
def test_tables(copied):
    table = Table(("a", "b"), [(1, "x"), (2.5, "")], title="T", footer="F")
    again = copied(table)
    assert type(again) is Table and again == table and again._repr_html_() == table._repr_html_()


@pytest.mark.parametrize("copied", COPIED)
def test_matchers_and_composites(copied):
    for match in (v for v in vars(composites).values() if isinstance(v, composites.Matcher)):
        assert copied(match) is match
    both = composites.FIRST & composites.CONVOLUTION
    for match in composites.name("a*"), composites.position(-1), composites.keras_op("relu"), both:
        assert str(copied(match)) == str(match)
    composite = revgraph.Composite(("ou*", Flat()), (layers.Dense, Flat()))
    assert str(copied(composite)) == str(composite)


def test_a_matcher_that_is_a_function_says_what_to_do():
    composite = revgraph.Composite((lambda layer: True, Flat()))
    assert str(copy.deepcopy(composite)) == str(composite)
    with pytest.raises(TypeError, match="matches by a function. Match by class, name, position or kind"):
        pickle.dumps(composite)
