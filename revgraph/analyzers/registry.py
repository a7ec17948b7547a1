"""`create_analyzer` and the table of its names."""

import dataclasses
import difflib
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, cast, overload

import keras

from revgraph import composites
from revgraph.analyzers import ablation, averages, cams, gradient, wrappers
from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.by_size import AnalyzerBySize
from revgraph.analyzers.deep_lift import DeepLIFT
from revgraph.analyzers.lrp import LRP, BoundedDeepTaylor, DeepTaylor
from revgraph.analyzers.patterns import PatternAttribution, PatternNet
from revgraph.analyzers.preprocessing import Preprocessing, has_preprocessor
from revgraph.analyzers.reference import FROM_ZERO
from revgraph.analyzers.tasks import for_task
from revgraph.graph import Graph
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import PathLike
from revgraph.read.files import check_not_given, load_model
from revgraph.read.keras.signature import SizesUnknown, has_any_size
from revgraph.reverse_rules import AlphaBeta, BRule, Epsilon, ERule, Flat, Gamma, Pass, WSquare, Z, ZPlus, ZPlusFast


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of `ANALYZERS`.

    Args:
        make: Function of the model and the method's arguments that returns an `Analyzer`.
        computes: What it computes, in a line.
        paper: Where it comes from.
        sets: Arguments of the class behind it that `make` sets itself.
        options: The class whose arguments `make` takes beside its own: by default its base, or for functions `LRP`.
    """

    make: Callable[..., Analyzer]
    computes: str
    paper: str
    sets: tuple[str, ...] = ("rule",)
    options: type[Analyzer] | None = None

    @property
    def kind(self) -> type[Analyzer]:
        """The class of the analyzer that it makes."""
        return self.make if isinstance(self.make, type) else LRP

    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments that it takes beside the model."""
        is_class = inspect.isclass(self.make)
        classes = (self.options or self.kind).__mro__
        makers = [cls.__dict__["__init__"] for cls in classes if "__init__" in cls.__dict__ and cls is not object]
        if self.options or not is_class:
            makers.insert(0, self.make.__init__ if is_class else self.make)
        names: list[str] = []
        for maker in makers:
            parameters = inspect.signature(maker).parameters.values()
            names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
        return tuple(name for name in dict.fromkeys(names) if name not in ("self", "model", "composite", *self.sets))


class Methods(Tabular, dict[str, Method]):
    """Name -> `Method`; prints as a table."""

    def table(self) -> Table:
        """What each computes, and the paper that it comes from."""
        rows = [(name, method.computes, method.paper) for name, method in self.items()]
        return Table(("name", "computes", "paper"), rows, title=f"{len(self)} analyzers")

    def __repr__(self) -> str:
        return f"<{len(self)} analyzers: {', '.join(self)}>"


def _lrp(rule):
    """A method that binds one rule everywhere."""

    def make(model, **options):
        return LRP(model, rule=rule, **options)

    return make


def _epsilon(model, epsilon=1e-7, bias=True, **options):
    return LRP(model, rule=Epsilon(epsilon, bias), **options)


def _epsilon_without_bias(model, epsilon=1e-7, **options):
    return LRP(model, rule=Epsilon(epsilon, False), **options)


def _alpha_beta(model, alpha=None, beta=None, bias=True, **options):
    return LRP(model, rule=AlphaBeta(alpha, beta, bias), **options)


def _gamma(model, gamma=0.25, generalized=True, bias=True, **options):
    return LRP(model, rule=Gamma(gamma, generalized, bias), **options)


def _e_rule(model, exponent=1, epsilon=1e-6, bn_layer_rule=None, **options):
    return LRP(model, rule=ERule(exponent, epsilon=epsilon), bn_layer_rule=bn_layer_rule or Pass(), **options)


def _b_rule(model, beta=0.5, epsilon=1e-6, rare_neurons=True, bn_layer_rule=None, **options):
    return LRP(model, rule=BRule(beta, rare_neurons, epsilon=epsilon), bn_layer_rule=bn_layer_rule or Pass(), **options)


def _preset(alpha, beta, first=None):
    def make(model, epsilon=0.1, **options):
        return LRP(model, rule=composites.sequential_preset(alpha, beta, epsilon, first), **options)

    return make


def _preset_b_flat_until(model, until_layer_idx=None, epsilon=0.1, **options):
    if until_layer_idx is None:
        raise TypeError(
            'The analyzer "lrp.sequential_preset_b_flat_until_idx" needs until_layer_idx, the position in '
            "model.layers of the last layer with the flat rule."
        )
    preset = composites.sequential_preset(2, 1, epsilon, Flat())
    return LRP(model, rule=preset, until_layer_idx=until_layer_idx, until_layer_rule=Flat(), **options)


def _composite(composite):
    def make(model, epsilon=1e-6, **options):
        return LRP(model, rule=composite(epsilon), **options)

    return make


def _epsilon_gamma_box(model, low=None, high=None, gamma=0.25, epsilon=1e-6, **options):
    return LRP(model, rule=composites.epsilon_gamma_box(low, high, gamma, epsilon), **options)


def _cp(model, epsilon=1e-6, **options):
    return LRP(model, rule=Epsilon(epsilon), **{"attention": "cp", **options})


def _attnlrp(model, epsilon=1e-6, **options):
    return LRP(model, rule=Epsilon(epsilon), **{"attention": "attnlrp", "gate": "uniform", **options})


def _vit(model, epsilon=1e-6, gamma=0.05, patch_gamma=0.25, **options):
    return LRP(model, rule=composites.vit(epsilon, gamma, patch_gamma), **options)


def _excitation_backprop(model, **options):
    return LRP(model, rule=composites.excitation_backprop(), **options)


BACH, MONTAVON, SIMONYAN = "Bach et al., 2015", "Montavon et al., 2017", "Simonyan et al., 2014"
LAPUSCHKIN, OVERVIEW, ZHANG = "Lapuschkin et al., 2019", "Montavon et al., 2019", "Zhang et al., 2018"
KINDERMANS, ALI, ACHTIBAT = "Kindermans et al., 2018", "Ali et al., 2022", "Achtibat et al., 2024"
CHATTOPADHAY = "Chattopadhay et al., 2018"

ANALYZERS = Methods(
    {
        "input": Method(gradient.Input, "the input itself, as a control", ""),
        "random": Method(gradient.Random, "Gaussian noise, as a control", ""),
        "gradient": Method(gradient.Gradient, "gradient of the selected neuron", SIMONYAN),
        "gradient.baseline": Method(gradient.Gradient, "the same gradient, iNNvestigate's second name", SIMONYAN),
        "input_t_gradient": Method(gradient.InputTimesGradient, "input times gradient", "Shrikumar et al., 2017"),
        "deconvnet": Method(gradient.Deconvnet, "ReLUs pass positive gradients", "Zeiler and Fergus, 2014"),
        "guided_backprop": Method(
            gradient.GuidedBackprop, "active ReLUs pass positive gradients", "Springenberg et al., 2015"
        ),
        "integrated_gradients": Method(
            averages.IntegratedGradients,
            "gradient along a path from a reference, times the difference: steps=64, reference_inputs, background",
            "Sundararajan et al., 2017",
            options=gradient.Gradient,
        ),
        "smoothgrad": Method(
            averages.SmoothGrad,
            "mean gradient of noisy inputs: augment_by_n=64, noise_scale=1, seed, statistic",
            "Smilkov et al., 2017",
            options=gradient.Gradient,
        ),
        "expected_gradients": Method(
            averages.ExpectedGradients,
            "integrated gradients, averaged over references: background, augment_by_n=64, seed",
            "Erion et al., 2021",
            options=gradient.Gradient,
        ),
        "beta_smooth": Method(gradient.BetaSmooth, "gradient with smoothed ReLUs: beta=10", "Dombrowski et al., 2019"),
        "deep_lift": Method(
            DeepLIFT,
            "contributions to the difference from a reference: reference_inputs, background",
            "Shrikumar et al., 2017",
        ),
        "grad_cam": Method(
            cams.GradCAM, "channels of a feature map by their mean gradient: layer", "Selvaraju et al., 2017"
        ),
        "grad_cam_plus_plus": Method(cams.GradCAMPlusPlus, "the same, for several objects of a class", CHATTOPADHAY),
        "grad_cam++": Method(cams.GradCAMPlusPlus, "its name in the paper", CHATTOPADHAY),
        "layer_cam": Method(cams.LayerCAM, "a feature map by its gradient at each place: layer", "Jiang et al., 2021"),
        "occlusion": Method(
            ablation.Occlusion,
            "how much the output changes when a patch is covered: patch, stride, reference_inputs",
            "Zeiler and Fergus, 2014",
        ),
        "feature_ablation": Method(
            ablation.FeatureAblation,
            "how much the output changes without each group of entries: feature_mask, reference_inputs",
            "Kokhlikyan et al., 2020",
        ),
        "pattern.net": Method(PatternNet, "the signal behind the output, by patterns: fit(x) first", KINDERMANS),
        "pattern.attribution": Method(PatternAttribution, "what the signal contributes: fit(x) first", KINDERMANS),
        "lrp": Method(LRP, "any rules: rule=...", BACH, sets=()),
        "lrp.z": Method(_lrp(Z()), "LRP-0", BACH),
        "lrp.z_IB": Method(_lrp(Z(bias=False)), "LRP-0, bias ignored", BACH),
        "lrp.epsilon": Method(_epsilon, "LRP-epsilon: epsilon=1e-7, bias=True", BACH),
        "lrp.epsilon_IB": Method(_epsilon_without_bias, "LRP-epsilon, bias ignored", BACH),
        "lrp.gamma": Method(_gamma, "LRP-gamma: gamma=0.25", OVERVIEW),
        "lrp.e_rule": Method(_e_rule, "TensorWatch's e-rule: exponent=1, epsilon=1e-6", BACH),
        "lrp.b_rule": Method(_b_rule, "TensorWatch's b-rule: beta=0.5, epsilon=1e-6, rare_neurons=True", BACH),
        "lrp.w_square": Method(_lrp(WSquare()), "shares by squared weights", MONTAVON),
        "lrp.flat": Method(_lrp(Flat()), "equal shares", LAPUSCHKIN),
        "lrp.alpha_beta": Method(_alpha_beta, "LRP-alpha-beta: alpha, beta, bias=True", BACH),
        "lrp.alpha_2_beta_1": Method(_lrp(AlphaBeta(2, 1)), "LRP-alpha 2, beta 1", BACH),
        "lrp.alpha_2_beta_1_IB": Method(_lrp(AlphaBeta(2, 1, bias=False)), "the same, bias ignored", BACH),
        "lrp.alpha_1_beta_0": Method(_lrp(AlphaBeta(1, 0)), "LRP-alpha 1, beta 0", BACH),
        "lrp.alpha_1_beta_0_IB": Method(_lrp(AlphaBeta(1, 0, bias=False)), "the same, bias ignored", BACH),
        "lrp.z_plus": Method(_lrp(ZPlus(bias=False)), "z+, bias ignored", MONTAVON),
        "lrp.z_plus_fast": Method(_lrp(ZPlusFast()), "z+ for inputs that are not negative", MONTAVON),
        "lrp.sequential_preset_a": Method(
            _preset(1, 0), "convolutions alpha 1 beta 0, dense layers epsilon 0.1", OVERVIEW
        ),
        "lrp.sequential_preset_b": Method(
            _preset(2, 1), "convolutions alpha 2 beta 1, dense layers epsilon 0.1", OVERVIEW
        ),
        "lrp.sequential_preset_a_flat": Method(_preset(1, 0, Flat()), "preset a, flat on the first layer", LAPUSCHKIN),
        "lrp.sequential_preset_b_flat": Method(_preset(2, 1, Flat()), "preset b, flat on the first layer", LAPUSCHKIN),
        "lrp.sequential_preset_b_flat_until_idx": Method(
            _preset_b_flat_until,
            "preset b, flat up to model.layers[until_layer_idx]",
            LAPUSCHKIN,
            sets=("rule", "until_layer_rule"),
        ),
        "lrp.epsilon_plus": Method(_composite(composites.epsilon_plus), "convolutions z+, dense epsilon", OVERVIEW),
        "lrp.epsilon_plus_flat": Method(
            _composite(composites.epsilon_plus_flat), "the same, flat on the first layer", OVERVIEW
        ),
        "lrp.epsilon_alpha2_beta1": Method(
            _composite(composites.epsilon_alpha2_beta1), "convolutions alpha 2 beta 1, dense epsilon", OVERVIEW
        ),
        "lrp.epsilon_alpha2_beta1_flat": Method(
            _composite(composites.epsilon_alpha2_beta1_flat), "the same, flat on the first layer", OVERVIEW
        ),
        "lrp.epsilon_gamma_box": Method(
            _epsilon_gamma_box, "convolutions gamma, dense epsilon, box on the first: low, high", OVERVIEW
        ),
        "lrp.cp": Method(_cp, "epsilon, and attention hands all to its values: epsilon=1e-6", ALI),
        "lrp.attnlrp": Method(
            _attnlrp, "epsilon, and attention and gates share equally: epsilon=1e-6, for language models", ACHTIBAT
        ),
        "lrp.vit": Method(
            _vit, "gamma for patches, feed-forward layers and head, epsilon for attention: gamma=0.05", ACHTIBAT
        ),
        "excitation_backprop": Method(_excitation_backprop, "z+ without bias on every linear layer", ZHANG),
        "deep_taylor": Method(DeepTaylor, "deep Taylor decomposition", MONTAVON),
        "deep_taylor.bounded": Method(
            BoundedDeepTaylor,
            "deep Taylor, box on the first: low, high",
            MONTAVON,
            sets=("rule", "input_layer_rule"),
        ),
    }
)
"""Every analyzer: name -> what it is. Print it to see the table."""


LRPName = Literal[
    "lrp", "lrp.z", "lrp.z_IB", "lrp.epsilon", "lrp.epsilon_IB", "lrp.gamma", "lrp.e_rule", "lrp.b_rule",
    "lrp.w_square", "lrp.flat", "lrp.alpha_beta", "lrp.alpha_2_beta_1", "lrp.alpha_2_beta_1_IB", "lrp.alpha_1_beta_0",
    "lrp.alpha_1_beta_0_IB", "lrp.z_plus", "lrp.z_plus_fast", "lrp.sequential_preset_a", "lrp.sequential_preset_b",
    "lrp.sequential_preset_a_flat", "lrp.sequential_preset_b_flat", "lrp.sequential_preset_b_flat_until_idx",
    "lrp.epsilon_plus", "lrp.epsilon_plus_flat", "lrp.epsilon_alpha2_beta1", "lrp.epsilon_alpha2_beta1_flat",
    "lrp.epsilon_gamma_box", "lrp.cp", "lrp.attnlrp", "lrp.vit", "excitation_backprop", "deep_taylor",
    "deep_taylor.bounded",
]  # fmt: skip
GradientName = Literal[
    "gradient", "gradient.baseline", "input_t_gradient", "deconvnet", "guided_backprop", "beta_smooth"
]
MapName = Literal["grad_cam", "grad_cam_plus_plus", "grad_cam++", "layer_cam"]
AblationName = Literal["occlusion", "feature_ablation"]
AverageName = Literal["integrated_gradients", "smoothgrad", "expected_gradients"]
PatternName = Literal["pattern.net", "pattern.attribution"]

Model: TypeAlias = keras.Model | Graph | PathLike
"""What `create_analyzer` takes as the model."""


# Which class `create_analyzer` returns for which name, so that editors and type checkers know its methods.
@overload
def create_analyzer(name: LRPName, model: Model, **kwargs: Any) -> LRP: ...
@overload
def create_analyzer(name: GradientName, model: Model, **kwargs: Any) -> gradient.Gradient: ...
@overload
def create_analyzer(name: MapName, model: Model, **kwargs: Any) -> cams.GradCAM: ...
@overload
def create_analyzer(name: AblationName, model: Model, **kwargs: Any) -> ablation.Ablation: ...
@overload
def create_analyzer(name: AverageName, model: Model, **kwargs: Any) -> wrappers.AugmentReduceBase: ...
@overload
def create_analyzer(name: PatternName, model: Model, **kwargs: Any) -> PatternNet: ...
@overload
def create_analyzer(name: Literal["deep_lift"], model: Model, **kwargs: Any) -> DeepLIFT: ...
@overload
def create_analyzer(name: str, model: Model, **kwargs: Any) -> Analyzer: ...
def create_analyzer(
    name: str,
    model: Model,
    signature: str | None = None,
    safe_mode: bool = True,
    custom_objects: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Analyzer:
    """Makes the analyzer of that name.

    Args:
        name: A key of `ANALYZERS`.
        model: A built Keras model, a task of KerasHub, a `Graph`, or the path of a model; see `revgraph.load_model`.
        signature: For the path of a SavedModel, the name of the signature to explain.
        safe_mode: For the path of a model, False runs the Python code of its Lambda layers.
        custom_objects: For the path of a model, dict from name to the model's own classes and functions.
        **kwargs: Arguments of the analyzer: `ANALYZERS[name].arguments()`.

    Returns:
        An `Analyzer` of the class that `ANALYZERS[name].kind` says: an `LRP` for the names that begin with `lrp`. That
        of a task takes texts and images as they are, see `TaskAnalyzer`.

    Raises:
        KeyError: No analyzer has that name; the nearest and all names are listed.
        TypeError: The model is not a Keras model, or the analyzer does not take an argument.
        ValueError: The model is not built or cannot be read, or a parameter is illegal.
        FileNotFoundError: There is no such path.
        NotAnalyzeableModelException: The model has a layer without a rule.

    Example:

        analyzer = revgraph.create_analyzer("lrp.alpha_1_beta_0", model)
        relevance = analyzer.analyze(x)
    """
    if not isinstance(name, str) and isinstance(model, str):
        raise TypeError(
            f"create_analyzer takes the name first and the model second: create_analyzer({model!r}, model). "
            f"Received a {type(name).__name__} first."
        )
    if not isinstance(name, str) or name not in ANALYZERS:
        near = difflib.get_close_matches(str(name), ANALYZERS, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise KeyError(f"No analyzer is named {name!r}.{hint} The analyzers are: {', '.join(ANALYZERS)}.")
    method = ANALYZERS[name]
    accepted = method.arguments()
    _check_arguments(name, accepted, kwargs)
    path: str | None = None
    if isinstance(model, str | os.PathLike):
        path, model = str(os.fspath(model)), load_model(model, signature, safe_mode, custom_objects)
    else:
        check_not_given(signature, custom_objects)
    if has_preprocessor(model):
        if kwargs.get("background") is not None:
            kwargs["background"] = Preprocessing(model)(kwargs["background"])
        elif "reference_inputs" in accepted:
            kwargs["reference_inputs"] = Preprocessing(model).references(kwargs.get("reference_inputs", FROM_ZERO))
    make = functools.partial(method.make, **kwargs)
    try:
        usual = analyzer = make(model)
    except SizesUnknown:
        usual = None
    if usual is None or has_any_size(model):
        # It stands for analyzers of this class.
        analyzer = cast(Analyzer, AnalyzerBySize(make, method.kind, model, usual))
    for each in (analyzer, usual or analyzer):
        each.name, each.model_path, each.model_signature = name, path, signature
    return for_task(analyzer)


def _check_arguments(name, accepted, kwargs):
    unknown = [key for key in kwargs if key not in accepted]
    if unknown:
        near = difflib.get_close_matches(unknown[0], accepted, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TypeError(
            f"The analyzer {name!r} does not take {unknown[0]!r}.{hint} It takes: {', '.join(accepted) or 'nothing'}."
        )
