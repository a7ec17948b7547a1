"""What is public: names from the top, types of everything public, the class of every analyzer, and times in the log."""

import importlib
import inspect
import logging
import subprocess
import sys
import typing
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.analyzers import registry

ROOT = Path(__file__).parent.parent
MODULES = [
    "revgraph", "revgraph.analyzers", "revgraph.callbacks", "revgraph.canonize", "revgraph.composites",
    "revgraph.concepts", "revgraph.datasets", "revgraph.evaluate", "revgraph.evaluate.problems", "revgraph.graph",
    "revgraph.perturbation", "revgraph.read", "revgraph.rules", "revgraph.testing", "revgraph.visualize",
]  # fmt: skip
"""The modules that docs/public.md names, and what stands behind them."""


def public(module):
    """(name, value) of everything public in a module."""
    module = importlib.import_module(module)
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    ]
    return [(name, getattr(module, name)) for name in names if not name.startswith("_")]


def functions(name, value):
    """Functions of a value that users call: itself, or the methods of a class that revgraph defines."""
    if inspect.isfunction(value):
        yield name, value
    if inspect.isclass(value) and value.__module__.startswith("revgraph"):
        for member, attribute in vars(value).items():
            if member.startswith("_") and member not in ("__init__", "__call__"):
                continue
            attribute = attribute.fget if isinstance(attribute, property) else getattr(attribute, "__func__", attribute)
            if inspect.isfunction(attribute) and (attribute.__module__ or "").startswith("revgraph"):
                yield f"{name}.{member}", attribute


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_types(module):
    untyped = []
    for name, value in public(module):
        for path, function in functions(name, value):
            signature = inspect.signature(function)
            parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
            # The `__init__` that `dataclass` writes does not say that it returns None.
            returns = signature.return_annotation is not signature.empty or path.endswith(".__init__")
            if not returns or any(p.annotation is p.empty for p in parameters):
                untyped.append(path)
    assert not untyped


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module):
    values = [(name, value) for name, value in public(module) if inspect.isfunction(value) or inspect.isclass(value)]
    assert values
    assert not [name for name, value in values if not (value.__doc__ or "").strip()]


def test_daily_use_needs_one_import():
    code = (
        "import revgraph\n"
        "revgraph.rules.Epsilon(1e-3), revgraph.composites.FIRST\n"
        "revgraph.canonize.canonize, revgraph.visualize.heatmap\n"
        "assert {'rules', 'composites', 'canonize', 'visualize', 'create_analyzer'} <= set(revgraph.__all__)\n"
        "from revgraph import *\n"
        "Composite((composites.FIRST, rules.Flat())), create_analyzer, visualize, canonize\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_rules_holds_every_rule():
    from revgraph import reverse_rules, rules

    assert set(rules.__all__) == set(reverse_rules.__all__)
    assert all(getattr(rules, name) is getattr(reverse_rules, name) for name in rules.__all__)
    assert {"ReplacementLayer", "per_sample"}.isdisjoint(rules.__all__)


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, activation="relu")
        self.last = layers.Dense(2)

    def call(self, x):
        return self.last(self.dense(x))


@pytest.fixture(scope="module")
def models():
    subclassed = Own()
    subclassed(np.zeros((1, 4)))
    inputs = keras.Input((4,))
    x = layers.Dense(2)(layers.Dense(3, activation="relu")(inputs))
    image = keras.Input((4, 4, 1))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(image))
    return keras.Model(inputs, x), subclassed, keras.Model(image, pooled)


OPTIONS = {
    "lrp": {"rule": "Epsilon"},
    "lrp.sequential_preset_b_flat_until_idx": {"until_layer_idx": 0},
    "lrp.epsilon_gamma_box": {"low": -1, "high": 1},
    "deep_taylor.bounded": {"low": -1, "high": 1},
    "expected_gradients": {"background": np.zeros((2, 4))},
}


BY_SIZE = {
    "lrp",
    "lrp.epsilon_gamma_box",
    "deep_taylor",
    "gradient",
    "smoothgrad",
    "deep_lift",
    "pattern.net",
    "input",
    "occlusion",
}
"""One method of each kind, for the subclassed model, too."""


@pytest.mark.parametrize("name", revgraph.ANALYZERS)
def test_an_analyzer_has_the_class_of_its_name(name, models):
    kind = revgraph.ANALYZERS[name].kind
    declared = {
        registry.LRPName: revgraph.analyzers.LRP,
        registry.GradientName: revgraph.analyzers.Gradient,
        registry.MapName: revgraph.analyzers.GradCAM,
        registry.AblationName: (revgraph.analyzers.Occlusion, revgraph.analyzers.FeatureAblation),
        registry.AverageName: revgraph.analyzers.AugmentReduceBase,
        registry.PatternName: revgraph.analyzers.PatternNet,
    }
    # What the overloads of `create_analyzer` say.
    for names, of_names in declared.items():
        assert (name in typing.get_args(names)) == issubclass(kind, of_names)
    plain, subclassed, of_images = models
    of_vectors = [plain, subclassed] if name in BY_SIZE else [plain]
    for model in [of_images] if issubclass(kind, revgraph.analyzers.GradCAM) else of_vectors:
        analyzer = revgraph.create_analyzer(name, model, **OPTIONS.get(name, {}))
        assert isinstance(analyzer, kind) and isinstance(analyzer, revgraph.analyzers.Analyzer)
        assert analyzer.name == name and repr(analyzer).startswith(f"<{name} of")


def test_an_analyzer_by_size_stands_for_the_one_inside(models):
    _, subclassed, _ = models
    analyzer = revgraph.create_analyzer("lrp.epsilon", subclassed, epsilon=1e-3)
    assert analyzer.composite.name == "Epsilon" and analyzer.convention == "paper"
    assert "Epsilon(epsilon=0.001)" in str(analyzer.summary()) and "Epsilon" in analyzer._repr_html_()
    assert not hasattr(analyzer, "no_such_thing")
    with pytest.raises(TypeError, match=r"cannot be pickled.*analyzer.save\(path\)"):
        analyzer.__reduce_ex__(4)


class Pooled(keras.Model):
    """Takes images of every size."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv, self.dense = layers.Conv2D(2, 3, activation="relu"), layers.Dense(2)

    def call(self, x):
        return self.dense(keras.ops.mean(self.conv(x), axis=(1, 2)))


def test_an_analyzer_by_size_answers_for_the_sizes_of_the_model(tmp_path):
    """Whatever sizes it was asked about in between."""
    model, small, large = Pooled(), np.ones((2, 5, 5, 1), "float32"), np.ones((1, 7, 7, 1), "float32")
    model(small)
    analyzer = revgraph.create_analyzer("gradient", model)
    assert analyzer.analyze(large).shape == large.shape
    smooth = revgraph.analyzers.GaussianSmoother(analyzer, augment_by_n=2, seed=0)
    assert smooth.analyze(small).shape == small.shape
    for each in (analyzer, smooth):
        each.save(tmp_path / "a.revgraph", overwrite=True)
        again = revgraph.load_analyzer(tmp_path / "a.revgraph", {"Pooled": Pooled})
        np.testing.assert_allclose(again.analyze(small), each.analyze(small), rtol=1e-6)
    assert {"graph", "composite", "traced", "analyze", "save"} <= set(dir(analyzer))


def test_relevance_that_is_kept_is_that_of_the_last_question():
    model, small, large = Pooled(), np.ones((2, 5, 5, 1), "float32"), np.ones((1, 7, 7, 1), "float32")
    model(small)
    analyzer = revgraph.create_analyzer("gradient", model, reverse_keep_tensors=True)
    for x, asked in ((large, large), (small, iter([small])), (large, large)):
        analyzer.analyze(asked)
        assert any(tensor.shape == x.shape for tensor in analyzer.reversed_tensors.values())


def test_options_that_an_analyzer_does_not_take(models):
    model, *_ = models
    for name in ("input", "random"):
        with pytest.raises(TypeError, match=f"analyze of '{name}' does not take 'layer'"):
            revgraph.create_analyzer(name, model).analyze(np.zeros((1, 4)), layer="dense")


def test_the_log_says_how_long_the_slow_steps_take(models, caplog):
    model, *_ = models
    with caplog.at_level(logging.INFO, logger="revgraph"):
        revgraph.create_analyzer("lrp.z", model).analyze(np.ones((1, 4)))
    steps = [record.getMessage().split()[0] for record in caplog.records if record.name == "revgraph"]
    assert set(steps) == {"trace", "canonize", "compile"}
    assert all(model.name in record.getMessage() for record in caplog.records if record.name == "revgraph")


USE = """
import numpy as np
import revgraph
from revgraph.analyzers import LRP, DeepLIFT, PatternNet
from revgraph.rules import Epsilon

def use(model: object, x: np.ndarray, name: str) -> None:
    lrp: LRP = revgraph.create_analyzer("lrp.epsilon", "model.keras", epsilon=1e-3)
    relevance, layers = lrp.analyze(x, return_layers=["conv"])
    print(relevance.shape, lrp.composite, lrp.conservation(x).other)
    patterns: PatternNet = revgraph.create_analyzer("pattern.net", "model.keras").fit(x)
    deep: DeepLIFT = revgraph.create_analyzer("deep_lift", "model.keras")
    revgraph.create_analyzer(name, "model.keras").analyze(x, layer="conv", initial_relevance=1.0)
    revgraph.Composite((revgraph.composites.FIRST, revgraph.rules.Flat()), ("conv", Epsilon(1e-3)))
    wrong: int = revgraph.create_analyzer("lrp.z", "model.keras")  # error
    lrp.analyze(x, no_such_option=1)  # error
    Epsilon(no_such_option=1)  # error
    revgraph.visualize.plot(x)  # error
    revgraph.create_analyser("lrp.z", "model.keras")  # error
"""


@pytest.mark.slow
def test_type_checkers_know_what_users_write(tmp_path):
    (tmp_path / "use.py").write_text(USE)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-incremental"]
    answer = subprocess.run([*command, str(tmp_path / "use.py")], cwd=ROOT, capture_output=True, text=True)
    lines = {int(line.split(":")[1]) for line in answer.stdout.splitlines() if ": error:" in line}
    assert lines == {i for i, line in enumerate(USE.splitlines(), 1) if line.endswith("# error")}, answer.stdout
