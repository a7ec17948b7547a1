"""`revgraph.check`: what an analyzer would do with a model, without running it."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.read.savedmodel.reader import read_function
from tests.models import ZOO, cnn


def odd():
    inputs = keras.Input((5, 4), name="series")
    x = layers.LSTM(3, name="memory", return_sequences=True)(inputs)
    x = layers.GRU(3, name="again")(x)
    return keras.Model(inputs, layers.Dense(2, name="last")(x), name="odd")


def test_every_site_with_its_rule_and_what_was_folded():
    report = revgraph.check(cnn(), "lrp.epsilon_plus_flat")
    analyzer = revgraph.create_analyzer("lrp.epsilon_plus_flat", cnn())
    assert report.supported and not report.unsupported and not report.problems
    assert [(s.path, s.rule) for s in report.sites] == [(b.site.path, str(b.rule)) for b in analyzer.bound]
    first = report.sites[0]
    assert (first.path, first.rule, first.merged) == ("conv1", "Flat()", ("bn",))
    assert first.reason == "first linear layer"


def test_all_sites_without_a_rule_are_listed_with_a_remedy():
    report = revgraph.check(odd(), "lrp.epsilon", convention="innvestigate")
    assert not report.supported
    assert [s.path for s in report.unsupported] == ["memory/while", "again/while"]
    assert all(s.rule is None and "use a gradient method" in s.remedy for s in report.unsupported)
    assert "not supported" in str(report) and "): It is a loop, such as a recurrent layer has" in str(report)


def test_the_remedy_of_a_tensorflow_operation_works():
    function = tf.function(lambda x: tf.math.erfinv(tf.tanh(x)) * 2.0)
    graph = read_function(function.get_concrete_function(tf.TensorSpec((None, 3), name="x")))
    (site,) = revgraph.check(graph, "lrp.epsilon").unsupported
    assert (site.path, site.operation) == ("erfinv/Erfinv", "Erfinv")
    assert f"({site.path!r}, revgraph.rules.Jacobian())" in site.remedy
    rule = revgraph.Composite((site.path, revgraph.rules.Jacobian()))
    assert revgraph.check(graph, "lrp", rule=rule).supported


def test_the_remedy_for_what_only_moves_entries_gives_the_right_numbers():
    """Half of the entries in the other order, by an operation that revgraph does not know."""
    x = keras.Input((4,))
    turned = layers.Lambda(lambda t: tf.reverse_sequence(t, tf.fill([tf.shape(t)[0]], 3), seq_axis=1), name="turned")
    model = keras.Model(x, layers.Dense(2, use_bias=False)(turned(x)))
    with pytest.raises(revgraph.NotAnalyzeableModelException) as error:
        revgraph.create_analyzer("lrp.epsilon", model)
    (line,) = [text.strip() for text in str(error.value).splitlines() if "create_analyzer" in text]
    line = line.replace("...", "(revgraph.composites.LINEAR, revgraph.rules.Epsilon())")
    analyzer = eval(line, {"revgraph": revgraph, "model": model})
    data = np.float32([[1.0, 2.0, -3.0, 4.0]])
    kernel = model.layers[-1].kernel.numpy()[:, 1]
    expected = (data[:, [2, 1, 0, 3]] * kernel)[:, [2, 1, 0, 3]]
    np.testing.assert_allclose(analyzer.analyze(data, 1), expected, rtol=1e-5)


def test_all_operations_without_a_rule_are_listed_by_node(tmp_path):
    module = tf.Module()
    module.serve = tf.function(
        lambda x: tf.math.floordiv(tf.math.erfinv(tf.tanh(x)), 0.5),
        input_signature=[tf.TensorSpec((None, 3), name="x")],
    )
    tf.saved_model.save(module, tmp_path / "odd", signatures=module.serve)
    report = revgraph.check(tmp_path / "odd", "lrp.epsilon")
    assert [(s.path.split("/")[-1], s.operation) for s in report.unsupported] == [
        ("Erfinv", "Erfinv"), ("floordiv", "FloorDiv"),
    ]  # fmt: skip
    assert all(
        f"{s.path} ({s.operation}): revgraph knows no rule of LRP for what it computes" in str(report)
        for s in report.unsupported
    )


def test_models_that_cannot_be_traced_are_reported():
    report = revgraph.check(keras.Sequential([layers.Dense(2)]), "lrp.z")
    assert not report.supported and report.sites == ()
    assert "is not built" in report.problems[0] and "is not built" in str(report)


def test_gradients_support_what_rules_do_not():
    assert revgraph.check(odd(), "gradient").supported
    assert revgraph.check(odd(), "smoothgrad").supported
    assert [s.path for s in revgraph.check(cnn(), "random").sites][0] == "conv1"


@pytest.mark.parametrize("name", sorted(ZOO))
def test_nothing_is_run_and_the_zoo_is_supported_or_reported(name):
    report = revgraph.check(ZOO[name](), "lrp.alpha_1_beta_0")
    assert json.loads(json.dumps(report.to_dict()))["supported"] == report.supported
    assert str(report).startswith("lrp.alpha_1_beta_0 of ")


def test_warnings_become_notes(recwarn):
    report = revgraph.check(cnn(last="softmax"), "lrp.z")
    assert any("probability" in note for note in report.notes) and "probability" in str(report)
    assert not [w for w in recwarn if "probability" in str(w.message)]


def test_paths_and_signatures(tmp_path):
    cnn().save(tmp_path / "m.keras")
    assert revgraph.check(tmp_path / "m.keras", "lrp.z").supported
    with pytest.raises(FileNotFoundError, match="There is no file"):
        revgraph.check(tmp_path / "other", "lrp.z")
    with pytest.raises(TypeError, match="signature= goes with"):
        revgraph.check(cnn(), "lrp.z", signature="serve")


def test_wrong_use_is_an_error():
    with pytest.raises(KeyError, match=r"No analyzer is named 'lrp\.zz'"):
        revgraph.check(cnn(), "lrp.zz")
    with pytest.raises(TypeError, match="does not take 'epsilom'"):
        revgraph.check(cnn(), "lrp.epsilon", epsilom=1)
    with pytest.raises(ValueError, match="gamma must be"):
        revgraph.check(cnn(), "lrp.gamma", gamma=-1)
