"""Occlusion and feature ablation, against loops in float64 and against Captum."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph import create_analyzer
from tests import captum
from tests.models import inputs_of, make, randomized
from tests.test_precision import same, under

MASK = (np.arange(7)[:, None] // 3 * 3 + np.arange(7) // 3)[..., None]


def value(model, x, index):
    return np.asarray(model(x))[np.arange(len(x)), index]


def occluded(model, x, index, patch, stride, reference):
    """Every window in turn, as the definition says: the mean change over the windows that cover an entry."""
    total, times = np.zeros(x.shape), np.zeros(x.shape)
    firsts = [range(0, n - p + s if n > p else 1, s) for n, p, s in zip(x.shape[1:], patch, stride, strict=True)]
    for first in itertools.product(*firsts):
        window = (slice(None), *(slice(f, f + p) for f, p in zip(first, patch, strict=True)))
        changed = x.copy()
        changed[window] = np.broadcast_to(reference, x.shape)[window]
        change = value(model, x, index) - value(model, changed, index)
        total[window] += change.reshape(-1, *(1,) * (x.ndim - 1))
        times[window] += 1
    return total / times


@pytest.mark.parametrize(
    ("options", "patch", "stride"),
    [
        ({"patch": 3, "stride": 2}, (3, 3, 2), (2, 2, 2)),
        ({"patch": (4, 3), "stride": (3, 1)}, (4, 3, 2), (3, 1, 2)),
        ({"patch": (4, 3, 1), "stride": (3, 2, 1)}, (4, 3, 1), (3, 2, 1)),
        ({"patch": 7}, (7, 7, 2), (7, 7, 2)),
        ({}, (1, 1, 2), (1, 1, 2)),
    ],
)
def test_occlusion_is_the_mean_change_over_windows(options, patch, stride):
    model = captum.model()
    for reference in (0.0, 0.25, captum.REFERENCES[0], captum.REFERENCES[:2]):
        analyzer = create_analyzer("occlusion", model, reference_inputs=reference, **options)
        expected = occluded(model, captum.X, captum.TARGETS, patch, stride, reference)
        np.testing.assert_allclose(analyzer.analyze(captum.X, captum.TARGETS), expected, atol=1e-12)


def test_occlusion_is_that_of_captum():
    # Captum counts how often an entry is covered in float32, so its means have six digits.
    model, x, targets = captum.model(), captum.X, captum.TARGETS
    found = create_analyzer("occlusion", model, patch=3, stride=2, reference_inputs=0.25).analyze(x, targets)
    row = [0.62136602] * 4 + [0.36760998] * 2 + [0.11385391] * 2 + [0.41970471] * 2 + [0.72555554] * 4
    captum.check(found, [-35.35952875, -2.21098505], row, rtol=1e-5)
    found = create_analyzer("occlusion", model, patch=(4, 3, 1), stride=(3, 2, 1)).analyze(x, targets)
    row = [
        0.4222343, 0.47509906, 0.4222343, 0.47509906, 0.22958356, 0.23752838, 0.03693284, -4.229e-05, -0.08448508,
        0.01771104, -0.20590299, 0.03546437, -0.20590299, 0.03546437,
    ]  # fmt: skip
    captum.check(found, [-19.72432313, 13.23712516], row, rtol=1e-5)


def test_feature_ablation_is_that_of_captum():
    analyzer = create_analyzer("feature_ablation", captum.model(), feature_mask=MASK, reference_inputs=-0.1)
    row = [1.06237246] * 6 + [-0.17213885] * 6 + [0, 0]
    for batch_size in (None, 1, 5):
        found = analyzer.analyze(captum.X, captum.TARGETS, batch_size=batch_size)
        captum.check(found, [-12.21629711, 15.25896696], row)


def test_every_feature_of_a_table_is_a_group_by_default(float64):
    model = make("mlp")
    x = inputs_of(model)
    mean = x.mean(axis=0)
    expected = occluded(model, x, 1, (1,), (1,), mean)
    for name in ("feature_ablation", "occlusion"):
        np.testing.assert_allclose(create_analyzer(name, model, reference_inputs=mean).analyze(x, 1), expected)
    grouped = create_analyzer("feature_ablation", model, feature_mask=[0, 0, 0, 1, 2, 3]).analyze(x, 1)
    alone = create_analyzer("feature_ablation", model).analyze(x, 1)
    np.testing.assert_allclose(grouped[:, 3:], alone[:, 3:])
    changed = x.copy()
    changed[:, :3] = 0
    change = value(model, x, 1) - value(model, changed, 1)
    np.testing.assert_allclose(grouped[:, :3], np.repeat(change[:, None], 3, axis=1))


def test_what_a_linear_model_needs_no_method_for(float64):
    """Without a feature the output loses weight times difference, whatever the rest is."""
    model = randomized(keras.Sequential([keras.Input((5,)), layers.Dense(2)]))
    x, r = inputs_of(model), np.arange(5.0)
    found = create_analyzer("feature_ablation", model, reference_inputs=r).analyze(x, 1)
    np.testing.assert_allclose(found, (x - r) * model.get_weights()[0][:, 1], atol=1e-12)


@pytest.mark.parametrize(("shape", "first"), [((9, 2), layers.Conv1D), ((6, 5, 4, 2), layers.Conv3D)])
def test_series_and_volumes(shape, first, float64):
    x = keras.Input(shape)
    model = randomized(keras.Model(x, layers.Dense(2)(layers.Flatten()(first(2, 2, activation="relu")(x)))))
    data = inputs_of(model)
    patch = (3,) * (len(shape) - 1) + shape[-1:]
    found = create_analyzer("occlusion", model, patch=3, reference_inputs=0.5).analyze(data, 1)
    np.testing.assert_allclose(found, occluded(model, data, 1, patch, patch, 0.5), atol=1e-12)


def test_the_patch_is_an_eighth_by_default():
    x = keras.Input((20, 8, 3))
    model = randomized(keras.Model(x, layers.Dense(2)(layers.Flatten()(x))))
    found = create_analyzer("occlusion", model).analyze(inputs_of(model), 1)
    np.testing.assert_array_equal(found[:, 0], found[:, 2])
    np.testing.assert_array_equal(found[:, :, :, :1], found[:, :, :, 1:2])
    assert not np.allclose(found[:, 2], found[:, 3]) and not np.allclose(found[:, :, 0], found[:, :, 1])


def test_inputs_are_occluded_in_turn(float64):
    model = make("two_inputs")
    x = inputs_of(model)
    analyzer = create_analyzer("occlusion", model, patch={"image": 3}, reference_inputs={"image": 0, "table": 1})
    found = analyzer.analyze(x, 1)
    for j in range(4):
        changed = {**x, "table": np.where(np.arange(4) == j, 1, x["table"])}
        np.testing.assert_allclose(found["table"][:, j], (model(x) - model(changed)).numpy()[:, 1], atol=1e-12)
    changed = {**x, "image": x["image"].copy()}
    changed["image"][:, 3:, :3] = 0
    change = (model(x) - model(changed)).numpy()[:, 1]
    np.testing.assert_allclose(found["image"][:, 4, 1, 0], change, atol=1e-12)
    # A group may have entries of several inputs.
    masks = {"image": np.zeros((6, 6, 1), int), "table": [0, 1, 1, 2]}
    groups = create_analyzer("feature_ablation", model, feature_mask=masks).analyze(x, 1)
    changed = {"image": 0 * x["image"], "table": x["table"] * [0, 1, 1, 1]}
    change = (model(x) - model(changed)).numpy()[:, 1]
    np.testing.assert_allclose(groups["image"][:, 2, 2, 0], change, atol=1e-12)
    np.testing.assert_allclose(groups["table"][:, 0], change, atol=1e-12)


def test_the_largest_output_is_that_of_the_input_itself():
    """Without the first feature the second output is the larger one."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, use_bias=False)])
    model.set_weights([np.array([[3.0, 0], [0, 1]])])
    x = np.array([[1.0, 2.0], [0.1, 2.0]])
    np.testing.assert_allclose(create_analyzer("feature_ablation", model).analyze(x), [[3, 0], [0, 2]], atol=1e-6)


def test_selections(float64):
    model, x = captum.model(), captum.X
    analyzer = create_analyzer("occlusion", model, patch=4)
    each = [analyzer.analyze(x, i) for i in range(3)]
    both = analyzer.analyze(x, np.array([[0, 1], [2, 1]]))
    np.testing.assert_allclose(both, np.stack([np.stack([each[0][0], each[1][0]]), np.stack([each[2][1], each[1][1]])]))
    np.testing.assert_allclose(analyzer.analyze(x, lambda y: y[:, 2] - y[:, 1]), each[2] - each[1], atol=1e-12)
    np.testing.assert_allclose(analyzer.analyze(x, "all"), sum(each), atol=1e-12)
    np.testing.assert_allclose(analyzer.analyze(x, 1, batch_size=1), each[1], atol=1e-12)
    # At a layer the change of that layer counts.
    inner = keras.Model(model.inputs, model.get_layer("flat").output)
    expected = occluded(inner, x, 5, (4, 4, 2), (4, 4, 2), 0)
    np.testing.assert_allclose(analyzer.analyze(x, 5, layer="flat"), expected, atol=1e-12)
    data = tf.data.Dataset.from_tensor_slices(x).batch(1)
    np.testing.assert_allclose(analyzer.analyze(data, 1), each[1], atol=1e-12)


def test_ids_are_replaced_by_an_id():
    ids = keras.Input((4,), dtype="int32")
    y = layers.Flatten()(layers.Embedding(6, 3)(ids))
    model = randomized(keras.Model(ids, layers.Dense(2)(y)))
    x = np.array([[1, 2, 3, 4], [5, 1, 1, 2]])
    with pytest.raises(ValueError, match=r"puts ids in the place of ids.*reference_inputs=0"):
        create_analyzer("occlusion", model)
    found = create_analyzer("occlusion", model, reference_inputs=0).analyze(x, 1)
    for j in range(4):
        changed = np.where(np.arange(4) == j, 0, x)
        np.testing.assert_allclose(found[:, j], (model(x) - model(changed)).numpy()[:, 1], atol=1e-5)


@pytest.mark.filterwarnings("ignore:The output of")
def test_savedmodels_and_mixed_precision(tmp_path):
    model, x = captum.model("float32"), captum.X.astype("float32")
    expected = create_analyzer("occlusion", model, patch=3).analyze(x, captum.TARGETS)
    model.export(tmp_path / "model", verbose=False)
    same(create_analyzer("occlusion", str(tmp_path / "model"), patch=3).analyze(x, captum.TARGETS), expected, 1e-4)
    x = inputs_of(make("cnn"))
    mixed, plain = (create_analyzer("occlusion", under(p, "cnn")).analyze(x, 1) for p in ("mixed_float16", "float32"))
    same(mixed, plain, 1e-3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patch": 0}, ValueError, "patch must be a positive int. Received: 0"),
        ({"patch": "3"}, ValueError, "patch must be a positive int. Received: '3'"),
        ({"stride": (1, 0.5)}, ValueError, "stride must be a positive int. Received: 0.5"),
        ({"patch": {"picture": 3}}, ValueError, r"patch is by the names of the inputs, \['image'\].*'picture'"),
        ({"patch": 8}, ValueError, r"an int, or one int for each of the axes \(7, 7\).*Received: 8"),
        ({"patch": (1, 2, 3, 4)}, ValueError, r"one int for each of the axes \(7, 7\), or of \(7, 7, 2\)"),
        ({"patch": 2, "stride": 3}, ValueError, "stride .* larger than the patch.*Make it as large as the patch"),
        ({"patch": True}, ValueError, "patch must be a positive int. Received: True"),
        ({"reference_inputs": "same"}, ValueError, "they stay as they are. Pass what they are replaced by"),
        ({"reference_inputs": "black"}, TypeError, "reference_inputs must be numbers"),
        ({"reference_inputs": np.zeros(3)}, ValueError, "reference_inputs of 'image' must be a number, an array"),
    ],
)
def test_illegal_patches(options, error, message):
    with pytest.raises(error, match=message):
        create_analyzer("occlusion", captum.model(), **options).analyze(captum.X)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            np.zeros((7, 7, 1)),
            ValueError,
            "feature_mask of 'image' holds the number of the group.*as ints",
        ),
        (-np.ones((7, 7, 1), int), ValueError, "as ints from 0 on. Received: array"),
        (np.zeros((7, 6, 1), int), ValueError, r"needs the shape \(7, 7, 2\) of a sample.*Received shape \(7, 6, 1\)"),
        ({"table": [0, 1]}, ValueError, "feature_mask is by the names of the inputs"),
    ],
)
def test_illegal_masks(mask, error, message):
    with pytest.raises(error, match=message):
        create_analyzer("feature_ablation", captum.model(), feature_mask=mask).analyze(captum.X)


def test_what_ablation_does_not_take():
    analyzer = create_analyzer("occlusion", captum.model())
    with pytest.raises(TypeError, match="analyze of 'occlusion' does not take 'return_layers'"):
        analyzer.analyze(captum.X, return_layers="all")
    with pytest.raises(revgraph.analyzers.analyzer.Unsupported, match="'occlusion' has no ledger"):
        analyzer.conservation(captum.X)
    index = create_analyzer("occlusion", captum.model(), neuron_selection_mode="index")
    with pytest.raises(ValueError, match="pass neuron_selection to analyze"):
        index.analyze(captum.X)
