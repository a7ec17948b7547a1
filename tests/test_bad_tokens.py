"""Ids, sequences and masks that a model does not take, and caches: errors that name what is wrong, and the remedy."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import revgraph
from revgraph import NotAnalyzeableModelException, create_analyzer


def looked_up(change=lambda ids: ids, dtype="int32"):
    ids = keras.Input((None,), dtype=dtype, name="ids")
    h = layers.Embedding(10, 4, name="words")(change(ids))
    return keras.Model(ids, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))


@pytest.mark.parametrize("name", ["lrp.attnlrp", "gradient", "deep_lift"])
@pytest.mark.parametrize("wrong", [10, -1])
def test_ids_outside_of_the_table(name, wrong):
    analyzer = create_analyzer(name, looked_up())
    message = rf"Input 'ids' has the id {wrong} \(at \[1, 2\]\), .* table 'words'.* 10 rows, .* from 0 to 9"
    for explain in (analyzer.analyze, analyzer.conservation) if name == "lrp.attnlrp" else (analyzer.analyze,):
        with pytest.raises(ValueError, match=message):
            explain(np.array([[1, 2, 3], [4, 5, wrong]]))


@pytest.mark.parametrize(
    ("change", "dtype", "wrong"),
    [
        (lambda ids: ids[:, ::-1], "int32", 10),
        (lambda ids: ids + 1, "int32", 9),
        (lambda ids: ops.cast(ids, "int32"), "float32", 12),
        (lambda ids: ops.where(ids < 0, ids + 10, ids), "int32", -11),
    ],
    ids=["moved", "renumbered", "floating", "counted from the end"],
)
def test_ids_are_followed_to_the_table(change, dtype, wrong):
    analyzer = create_analyzer("lrp.attnlrp", looked_up(change, dtype))
    with pytest.raises(ValueError, match=f"Input 'ids' has the id {wrong} "):
        analyzer.record(np.array([[1, 2, wrong]], dtype))
    analyzer.record(np.array([[1, 2, 8]], dtype))


class Positions(layers.Layer):
    """Adds a table of five positions, in one of several ways."""

    def __init__(self, how, **options):
        super().__init__(**options)
        self.how = how

    def build(self, shape):
        self.table = self.add_weight(shape=(5, 4), name="table")

    def call(self, x):
        length = ops.shape(x)[1]
        if self.how == "slice":
            return x + ops.slice(ops.convert_to_tensor(self.table), (0, 0), (length, 4))
        if self.how == "take":
            return x + ops.take(self.table, ops.arange(length), axis=0)
        return x + self.table[:length]


def with_positions(how):
    x = keras.Input((None, 4), name="x")
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(Positions(how, name="positions")(x))))


@pytest.mark.parametrize("how", ["slice", "take", "cut"])
def test_a_sequence_that_is_longer_than_the_table_of_positions(how):
    analyzer = create_analyzer("lrp.epsilon", with_positions(how))
    message = r"does not take these inputs: x \(1, 7, 4\). It fails at 'positions/.*5.*longer than a table of positions"
    for explain in (lambda x: analyzer.analyze(x, 1), lambda x: analyzer.conservation(x, 1), analyzer.record):
        with pytest.raises(ValueError, match=message):
            explain(np.ones((1, 7, 4)))
    assert np.isfinite(analyzer.analyze(np.ones((1, 5, 4)), 1)).all()


def test_a_mask_that_is_not_as_long_as_what_it_masks():
    x, mask = keras.Input((None, 4), name="x"), keras.Input((None, None), dtype="bool", name="mask")
    y = layers.MultiHeadAttention(1, 4, name="attention")(x, x, attention_mask=mask)
    model = keras.Model([x, mask], layers.Dense(2)(layers.GlobalAveragePooling1D()(y)))
    analyzer = create_analyzer("lrp.attnlrp", model)
    message = r"x \(1, 3, 4\), mask \(1, 3, 5\). It fails at 'attention/.*\[1,1,3,3\] vs. \[1,1,3,5\]"
    with pytest.raises(ValueError, match=message):
        analyzer.record([np.ones((1, 3, 4)), np.ones((1, 3, 5), bool)])
    with pytest.raises(ValueError, match=r"Input 'mask' lacks an axis: expected shape \(batch, any, any\)"):
        analyzer.record([np.ones((1, 3, 4)), np.ones((1, 3), bool)])


class Cached(layers.Layer):
    """Attention of the last token to those in a cache of keys and values."""

    def __init__(self, grows, **options):
        super().__init__(**options)
        self.grows = grows
        self.q, self.k, self.v = (layers.Dense(4) for _ in range(3))

    def build(self, *shapes):
        for dense in (self.q, self.k, self.v):
            dense.build((None, None, 4))

    def call(self, x, cache):
        q, *new = self.q(x), self.k(x), self.v(x)
        old = cache[:, 0], cache[:, 1]
        pairs = zip(old, new, strict=True)
        if self.grows:
            k, v = (ops.concatenate(pair, axis=1) for pair in pairs)
        else:
            k, v = (ops.slice_update(before, [0, 3, 0], added) for before, added in pairs)
        return ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1)))), v), ops.stack([k, v], axis=1)


@pytest.mark.parametrize("grows", [False, True])
def test_a_cache_of_keys_and_values(grows):
    x, cache = keras.Input((1, 4), name="x"), keras.Input((2, 6, 4), name="cache")
    y, updated = Cached(grows, name="attention")(x, cache)
    model = keras.Model([x, cache], {"logits": layers.Dense(2)(layers.Flatten()(y)), "next": updated})
    with pytest.raises(
        NotAnalyzeableModelException, match="'cache' comes back in its output 'next'.*Explain the prefill"
    ):
        create_analyzer("lrp.attnlrp", model)
    revgraph.create_analyzer("gradient", model)


def test_an_input_that_is_an_output_is_no_cache():
    x = keras.Input((3, 4), name="x")
    y = layers.MultiHeadAttention(1, 4)(x, x)
    model = keras.Model(x, {"y": layers.Dense(2)(y), "both": layers.Concatenate()([x, y]), "x": x})
    create_analyzer("lrp.attnlrp", model)
