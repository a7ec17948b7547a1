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
    known = "They are longer than a table of positions: that of 'positions' has 5 rows. Cut them"
    why = known if how != "cut" else "It fails at 'positions/.*5.*longer than a table of positions"
    message = rf"does not take these inputs: x \(1, 7, 4\). {why}"
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


def scattered(before, added):
    """The third row of every sample, scattered."""
    before, added = (ops.transpose(x, (1, 0, 2)) for x in (before, added))
    return ops.transpose(ops.scatter_update(before, [[3]], added), (1, 0, 2))


JOINED = {
    "a part, replaced": lambda before, added: ops.slice_update(before, [0, 3, 0], added),
    "rows, replaced": scattered,
    "a choice": lambda before, added: ops.where(ops.arange(6)[None, :, None] == 3, added, before),
    "cut and joined": lambda before, added: ops.concatenate([before[:, :3], added, before[:, 4:]], axis=1),
    "longer": lambda before, added: ops.concatenate([before, added], axis=1),
}


class Cached(layers.Layer):
    """Attention of the last token to those in a cache of keys and values."""

    def __init__(self, how, **options):
        super().__init__(**options)
        self.join = JOINED[how]
        self.q, self.k, self.v = (layers.Dense(4) for _ in range(3))

    def build(self, *shapes):
        for dense in (self.q, self.k, self.v):
            dense.build((None, None, 4))

    def call(self, x, cache):
        q, *new = self.q(x), self.k(x), self.v(x)
        k, v = (self.join(cache[:, i], new[i]) for i in (0, 1))
        return ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1)))), v), ops.stack([k, v], axis=1)


@pytest.mark.parametrize("is_returned", [False, True])
@pytest.mark.parametrize("how", JOINED)
def test_a_cache_of_keys_and_values(how, is_returned):
    x, cache = keras.Input((1, 4), name="x"), keras.Input((2, 6, 4), name="cache")
    y, updated = Cached(how, name="attention")(x, cache)
    outputs = {"logits": layers.Dense(2)(layers.Flatten()(y)), **({"next": updated} if is_returned else {})}
    model = keras.Model([x, cache], outputs)
    how_known = "input 'cache' comes back in its output 'next'" if is_returned else "attention reads its input 'cache'"
    with pytest.raises(NotAnalyzeableModelException, match=f"{how_known}.*Explain the prefill"):
        create_analyzer("lrp.attnlrp", model)
    revgraph.create_analyzer("gradient", model)


def test_keys_and_values_of_several_layers_in_inputs_of_their_own():
    x = keras.Input((1, 4), name="x")
    caches = {name: keras.Input((2, 6, 4), name=name) for name in ("first", "second")}
    y = x
    for cache in caches.values():
        h, _ = Cached("a part, replaced")(y, cache)
        y = layers.LayerNormalization()(layers.Add()([y, h]))
    model = keras.Model({"x": x, **caches}, layers.Dense(2)(layers.Flatten()(y)))
    with pytest.raises(NotAnalyzeableModelException, match="input 'first'.*, and attention reads its input 'second'"):
        create_analyzer("lrp.attnlrp", model)


def tokens_beside_others(x, memory):
    """Attention without layers for keys and values, to tokens of both inputs."""
    both = layers.Concatenate(axis=1)([memory, layers.Dense(4)(x)])
    return layers.Attention()([x, both])


def projected_beside_others(x, memory):
    both = layers.Concatenate(axis=1)([memory, layers.Dense(4)(x)])
    return layers.MultiHeadAttention(1, 4)(x, both)


def filled_in(x, memory):
    """What is missing in an input is computed from the other one."""
    return layers.MultiHeadAttention(1, 4)(x, ops.where(ops.isnan(memory), layers.Dense(4)(x), memory))


def two_towers(x, memory):
    """The product of two vectors, each of what is known and what is computed."""
    towers = [layers.Concatenate()([one, layers.Dense(4)(other)]) for one, other in ((x, memory), (memory, x))]
    return ops.matmul(*(ops.transpose(tower, axes) for tower, axes in zip(towers, [(0, 1, 2), (0, 2, 1)], strict=True)))


@pytest.mark.parametrize("read", [tokens_beside_others, projected_beside_others, filled_in, two_towers])
def test_inputs_beside_computed_tokens_are_no_cache(read):
    x, memory = keras.Input((3, 4), name="x"), keras.Input((3, 4), name="memory")
    model = keras.Model([x, memory], layers.Dense(2)(layers.Flatten()(read(x, memory))))
    create_analyzer("lrp.attnlrp", model)


def test_an_input_that_is_an_output_is_no_cache():
    x = keras.Input((3, 4), name="x")
    y = layers.MultiHeadAttention(1, 4)(x, x)
    model = keras.Model(x, {"y": layers.Dense(2)(y), "both": layers.Concatenate()([x, y]), "x": x})
    create_analyzer("lrp.attnlrp", model)
