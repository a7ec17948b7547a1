"""Analyzers as files."""

import dataclasses
import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import analyzers, composites
from revgraph.analyzers import LRP
from revgraph.reverse_rules import AlphaBeta, Epsilon, Flat, Gamma, Part, Rule, Term, ZBox, ZPlus, on


@pytest.fixture
def model():
    x = keras.Input((6, 6, 2))
    h = layers.Conv2D(3, 3, activation="relu", name="conv", bias_initializer="normal")(x)
    h = layers.BatchNormalization(name="bn")(h)
    h = layers.Flatten()(layers.AveragePooling2D(2)(h))
    return keras.Model(x, layers.Dense(4, name="out")(h))


ARGUMENTS = {
    "lrp": {"rule": [AlphaBeta(2, 1), Epsilon(0.01)]},
    "lrp.sequential_preset_b_flat_until_idx": {"until_layer_idx": 1},
    "lrp.epsilon_gamma_box": {"low": np.array([-3.0, -2.0]), "high": 3.0, "gamma": 0.1},
    "deep_taylor.bounded": {"input_bounds": (-4, 4)},
    "lrp.epsilon": {"epsilon": 0.3, "bias": False, "neuron_selection_mode": "all", "convention": "innvestigate"},
    "gradient": {"postprocess": "square"},
    "random": {"seed": 3},
    "smoothgrad": {"augment_by_n": 3, "seed": 1},
    "integrated_gradients": {"steps": 5, "reference_inputs": np.full((6, 6, 2), 0.1)},
    "deep_lift": {"reference_inputs": 0.5},
    "expected_gradients": {"background": np.full((2, 6, 6, 2), 0.1), "augment_by_n": 3, "seed": 1},
    "grad_cam": {"relu": False, "layer": "conv"},
    "occlusion": {"patch": (3, 2), "stride": 2, "reference_inputs": 0.5},
    "feature_ablation": {"feature_mask": np.arange(36).reshape(6, 6, 1) // 8},
}


@pytest.mark.parametrize("name", [n for n in revgraph.ANALYZERS if not n.startswith("pattern")])
def test_relevance_is_the_same_bit_for_bit(name, model, rng, tmp_path):
    analyzer = revgraph.create_analyzer(name, model, **ARGUMENTS.get(name, {}))
    analyzer.save(tmp_path / "a.revgraph")
    again = revgraph.load_analyzer(tmp_path / "a.revgraph")
    x = rng.normal(size=(3, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(again.analyze(x), analyzer.analyze(x))
    assert again.name == name and type(again) is type(analyzer)


def test_fitted_patterns_are_kept(model, rng, tmp_path):
    x = rng.normal(size=(50, 6, 6, 2)).astype("float32")
    analyzer = revgraph.create_analyzer("pattern.attribution", model).fit(x)
    analyzer.save(tmp_path / "a.revgraph")
    again = revgraph.load_analyzer(tmp_path / "a.revgraph")
    np.testing.assert_array_equal(again.analyze(x[:3]), analyzer.analyze(x[:3]))


def test_composites_of_every_kind_of_matcher(model, rng, tmp_path):
    composite = revgraph.Composite(
        (composites.FIRST & composites.CONVOLUTION, ZBox(-1.0, 1.0)),
        (layers.Conv2D, Gamma(0.5)),
        ((layers.Conv1D, layers.Conv3D), ZPlus(bias=False)),
        ("ou*", Epsilon(0.25)),
        (composites.position(-1), Flat()),
        (composites.keras_op("relu"), revgraph.rules.Pass()),
        name="mine",
    )
    analyzer = LRP(model, composite, max_growth=7.0)
    analyzer.save(tmp_path / "a.revgraph")
    again = revgraph.load_analyzer(tmp_path / "a.revgraph")
    x = rng.normal(size=(3, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(again.analyze(x), analyzer.analyze(x))
    assert str(again.composite) == str(analyzer.composite)
    assert again.max_growth == 7.0


@dataclasses.dataclass(frozen=True)
class Half(Rule):
    share: float = 0.5

    def parts(self):
        return (Part((Term(weights=on(bias=False)),), self.share),)


def test_own_rules_are_found_among_the_custom_objects(model, rng, tmp_path):
    analyzer = revgraph.create_analyzer("lrp", model, rule=Half(0.25))
    analyzer.save(tmp_path / "a.revgraph")
    with pytest.raises(ValueError, match="uses the rule 'Half'.*custom_objects"):
        revgraph.load_analyzer(tmp_path / "a.revgraph")
    again = revgraph.load_analyzer(tmp_path / "a.revgraph", custom_objects={"Half": Half})
    x = rng.normal(size=(2, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(again.analyze(x), analyzer.analyze(x))


def test_functions_cannot_be_saved(model, tmp_path):
    analyzer = revgraph.create_analyzer("lrp", model, rule=[(lambda layer: True, Epsilon())])
    with pytest.raises(TypeError, match="cannot be saved"):
        analyzer.save(tmp_path / "a.revgraph")
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept(model, tmp_path):
    file = tmp_path / "a.revgraph"
    file.write_text("precious")
    analyzer = revgraph.create_analyzer("lrp.z", model)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        analyzer.save(file)
    assert file.read_text() == "precious"
    analyzer.save(file, overwrite=True)
    revgraph.load_analyzer(file)


def test_there_is_no_pickle_in_the_file(model, tmp_path):
    revgraph.create_analyzer("lrp.z", model).save(tmp_path / "a.revgraph")
    with zipfile.ZipFile(tmp_path / "a.revgraph") as archive:
        assert set(archive.namelist()) == {"analyzer.json", "model.keras", "arrays.npz"}
        json.loads(archive.read("analyzer.json"))


def damaged(path, model):
    revgraph.create_analyzer("lrp.z", model).save(path)
    path.write_bytes(path.read_bytes()[:1000])


def foreign_zip(path, model):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def a_keras_file(path, model):
    model.save(path.with_suffix(".keras"))
    path.with_suffix(".keras").rename(path)


@pytest.mark.parametrize("write", [damaged, foreign_zip, a_keras_file, lambda path, model: path.write_text("text")])
def test_foreign_and_damaged_files(write, model, tmp_path):
    write(tmp_path / "a.revgraph", model)
    with pytest.raises(ValueError, match=r"a\.revgraph' is not a file of an analyzer, or it is damaged"):
        revgraph.load_analyzer(tmp_path / "a.revgraph")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        revgraph.load_analyzer(tmp_path / "a.revgraph")


def test_signatures_are_those_of_the_constructors():
    import inspect

    assert "input_layer_rule" in inspect.signature(LRP).parameters


def rewritten(path, change):
    """The file with `change(description)` in place of its description."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    description = change(json.loads(parts["analyzer.json"]))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**parts, "analyzer.json": json.dumps(description)}.items():
            archive.writestr(name, content)


def without_modules(code):
    """A description as format 1 has it."""
    if isinstance(code, dict):
        return {key: without_modules(value) for key, value in code.items() if key != "module"}
    return [without_modules(item) for item in code] if isinstance(code, list) else code


def test_files_of_format_1_are_read(model, rng, tmp_path):
    composite = revgraph.Composite((composites.FIRST, Flat()), (layers.Conv2D, Half()), ("out", Epsilon(0.5)))
    analyzer = revgraph.create_analyzer("lrp", model, rule=composite)
    analyzer.save(tmp_path / "a.revgraph")
    rewritten(tmp_path / "a.revgraph", lambda code: {**without_modules(code), "format": 1})
    again = revgraph.load_analyzer(tmp_path / "a.revgraph", custom_objects={"Half": Half})
    x = rng.normal(size=(2, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(again.analyze(x), analyzer.analyze(x))


def test_a_class_that_stood_in_another_module_of_revgraph(model, tmp_path):
    """Files outlive the places of classes."""

    def elsewhere(code):
        if isinstance(code, dict):
            moved = {key: elsewhere(value) for key, value in code.items()}
            ours = str(code.get("module")).startswith("revgraph.")
            return {**moved, "module": "revgraph.of.old"} if ours else moved
        return [elsewhere(item) for item in code] if isinstance(code, list) else code

    analyzer = revgraph.create_analyzer("lrp", model, rule=revgraph.Composite((composites.LINEAR, Epsilon(0.5))))
    analyzer.save(tmp_path / "a.revgraph")
    rewritten(tmp_path / "a.revgraph", elsewhere)
    again = revgraph.load_analyzer(tmp_path / "a.revgraph")
    assert type(again) is LRP and [b.rule for b in again.bound] == [b.rule for b in analyzer.bound]


class Gradient(analyzers.InputTimesGradient):
    """A class of the user's own, which has the name of one of revgraph's."""


def test_a_class_is_known_by_its_module_and_name(model, tmp_path):
    revgraph.create_analyzer("gradient", model).save(tmp_path / "ours.revgraph")
    assert type(revgraph.load_analyzer(tmp_path / "ours.revgraph")) is analyzers.Gradient
    assert type(revgraph.load_analyzer(tmp_path / "ours.revgraph", {"Gradient": Gradient})) is analyzers.Gradient
    Gradient(model).save(tmp_path / "own.revgraph")
    with pytest.raises(ValueError, match="uses the analyzer 'Gradient'.*custom_objects"):
        revgraph.load_analyzer(tmp_path / "own.revgraph")
    assert type(revgraph.load_analyzer(tmp_path / "own.revgraph", {"Gradient": Gradient})) is Gradient
    with pytest.raises(ValueError, match="for the analyzer 'Gradient', which is no analyzer"):
        revgraph.load_analyzer(tmp_path / "own.revgraph", {"Gradient": layers.Dense})


LRP_OF = {"class": "LRP", "module": "revgraph.analyzers.lrp", "name": "lrp"}


def with_rule(rule):
    return {**LRP_OF, "arguments": {"dict": [["model", {"model": None}], ["rule", rule]]}}


@pytest.mark.parametrize(
    "code",
    [
        {},
        [],
        None,
        {"named": "LRP"},
        {"value": 1},
        {"class": 3},
        {"class": "LRP"},
        {"class": "object", "module": "builtins", "name": "x", "arguments": {"dict": []}},
        {"class": "Part", "module": "revgraph.reverse_rules.terms", "name": "x", "arguments": {"dict": []}},
        {**LRP_OF, "arguments": {"dict": [[1]]}},
        {**LRP_OF, "arguments": {"dict": 7}},
        {**LRP_OF, "arguments": {"dict": [["nothing", 1]]}},
        with_rule({"rule": "ReplacementLayer", "fields": {"dict": []}}),
        with_rule({"rule": "dataclasses", "module": "revgraph.reverse_rules", "fields": {"dict": []}}),
        with_rule({"array": "a9"}),
        with_rule({"tuple": None}),
        with_rule(
            {"composite": "c", "entries": [[[{"matcher": "inspect"}, {"rule": "Flat", "fields": {"dict": []}}]]]}
        ),
        with_rule({"composite": "c", "entries": [{"matcher": "Composite", "of": []}, []]}),
        with_rule({"composite": "c", "entries": [{"matcher": "name", "of": [1, 2, 3]}, []]}),
        with_rule({"matcher": ["a"]}),
        with_rule({"type": "activation"}),
        with_rule({"unknown": 1}),
    ],
)
def test_crafted_descriptions_are_refused(code, model, tmp_path):
    revgraph.create_analyzer("lrp.z", model).save(tmp_path / "a.revgraph")
    rewritten(tmp_path / "a.revgraph", lambda description: {**description, "analyzer": code})
    with pytest.raises(ValueError, match=r"a\.revgraph'"):
        revgraph.load_analyzer(tmp_path / "a.revgraph")


@pytest.mark.parametrize("description", [[], 3, {}, {"format": "1"}, {"format": 1}, {"format": 99, "analyzer": None}])
def test_descriptions_of_another_form_are_refused(description, model, tmp_path):
    revgraph.create_analyzer("lrp.z", model).save(tmp_path / "a.revgraph")
    rewritten(tmp_path / "a.revgraph", lambda _: description)
    with pytest.raises(ValueError, match=r"a\.revgraph'"):
        revgraph.load_analyzer(tmp_path / "a.revgraph")
