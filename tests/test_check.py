"""`revgraph.check`: what an analyzer would do with a model, without running it."""

import json
import warnings

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


class Products(layers.Layer):
    """What no rule of LRP knows."""

    def call(self, inputs):
        return keras.ops.cumprod(inputs, axis=-1)


def with_products():
    x = keras.Input((4,))
    h = layers.Dense(3, activation="tanh", name="one", bias_initializer="normal")(x)
    h = Products(name="products")(h)
    return keras.Model(x, layers.Dense(2, name="two")(h), name="model")


WARNING = "There is no rule of LRP for 'products/Cumprod': relevance passes there by the transposed Jacobian"


def test_what_has_no_rule_may_be_explained_by_its_gradient(float64):
    model = with_products()
    x = np.random.default_rng(0).normal(size=(3, 4))
    with pytest.raises(revgraph.NotAnalyzeableModelException, match='any method of LRP takes unsupported="gradient"'):
        revgraph.create_analyzer("lrp.epsilon", model)
    with pytest.warns(UserWarning, match=WARNING):
        analyzer = revgraph.create_analyzer("lrp.epsilon", model, unsupported="gradient", epsilon=1e-12)
    # By hand: epsilon on the layers around it, and between them the transposed Jacobian from a tape.
    a = tf.constant(np.tanh(x @ model.layers[1].kernel.numpy() + model.layers[1].bias.numpy()))
    with tf.GradientTape() as tape:
        tape.watch(a)
        p = tf.math.cumprod(a, axis=-1)
    jacobian = tape.batch_jacobian(p, a).numpy()
    at_products = p.numpy() * model.layers[3].kernel.numpy()[:, 1]
    at_one = np.einsum("bk,bkj->bj", at_products, jacobian)
    w, b = model.layers[1].kernel.numpy(), model.layers[1].bias.numpy()
    expected = np.einsum("bi,ij,bj->bi", x, w, at_one / (x @ w + b))
    np.testing.assert_allclose(analyzer.analyze(x, 1), expected, rtol=1e-8)
    report = analyzer.conservation(x, 1)
    (entry,) = [entry for entry in report.layers if entry.path == "products/Cumprod"]
    np.testing.assert_allclose(entry.rule, at_products.sum(axis=1) - at_one.sum(axis=1), rtol=1e-8)
    np.testing.assert_allclose(report.other, 0, atol=1e-9)
    assert np.abs(entry.rule).max() > 1e-3 and report.note is None
    (line,) = [line for line in str(analyzer.summary()).splitlines() if line.startswith("products/Cumprod")]
    assert "TransposedJacobian()" in line and 'unsupported="gradient"' in line


def test_it_changes_nothing_where_all_have_rules():
    model = cnn()
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = [
            revgraph.create_analyzer("lrp.epsilon_plus_flat", model, unsupported=word) for word in ("error", "gradient")
        ]
    assert [b.rule for b in made[0].bound] == [b.rule for b in made[1].bound]
    np.testing.assert_array_equal(made[0].analyze(x), made[1].analyze(x))


@pytest.mark.filterwarnings("ignore:There is no rule of LRP", "ignore:Relevance")
@pytest.mark.parametrize("name", ["lrp.alpha_2_beta_1", "lrp.epsilon_plus_flat", "deep_taylor"])
def test_every_method_of_lrp_takes_it(name, tmp_path):
    model = with_products()
    analyzer = revgraph.create_analyzer(name, model, unsupported="gradient")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    found = analyzer.analyze(x, 1)
    assert found.shape == x.shape and np.isfinite(found).all()
    analyzer.save(tmp_path / "a.revgraph")
    again = revgraph.load_analyzer(tmp_path / "a.revgraph", {"Products": Products})
    np.testing.assert_array_equal(again.analyze(x, 1), found)
    assert revgraph.check(model, name, unsupported="gradient").supported


@pytest.mark.filterwarnings("ignore:There is no rule of LRP")
def test_loops_without_a_rule_are_explained_as_a_whole():
    analyzer = revgraph.create_analyzer("lrp.epsilon", odd(), convention="innvestigate", unsupported="gradient")
    lines = [line for line in str(analyzer.summary()).splitlines() if "TransposedJacobian()" in line]
    assert [line.split()[0] for line in lines] == ["memory/while", "again/while"]
    assert np.abs(analyzer.analyze(np.random.default_rng(0).normal(size=(2, 5, 4)))).max() > 0


def test_words_for_what_is_unsupported():
    with pytest.raises(ValueError, match='unsupported is "error" or "gradient". Received: .ignore'):
        revgraph.create_analyzer("lrp.epsilon", cnn(), unsupported="ignore")
