"""`plot`, `plot_grid` and `compare`: inputs and their relevance side by side. Needs matplotlib."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from revgraph.analyzers import Analyzer, create_analyzer
from revgraph.graph.graph import holds_strings
from revgraph.graph.types import Relevance, Selection, Tensors
from revgraph.reverse.pictures import Picture
from revgraph.visualize.captions import check_titles, checked_labels, is_one_per_sample, sole, titled, titled_by_model
from revgraph.visualize.grids import grid_of, size_of
from revgraph.visualize.kinds import KINDS, Colours, Kind
from revgraph.visualize.paragraphs import are_tokens, paragraphs
from revgraph.visualize.shapes import check_batch
from revgraph.visualize.tokens import text
from revgraph.visualize.volumes import Volumes

COMPARED = ("input_t_gradient", "lrp.epsilon", "lrp.gamma", "lrp.alpha_2_beta_1", "lrp.epsilon_plus")
"""The analyzers that `compare` takes by default. Their relevance has the unit of the output."""

BY_RANK: dict[int, type[Kind]] = {**{made.rank: made for made in KINDS.values()}, Volumes.rank: Volumes}
"""The kinds of samples by the number of axes of a batch. Volumes need no name: nothing else has as many axes."""


def plot(
    x: Tensors,
    relevance: Relevance,
    outputs: Tensors | None = None,
    class_names: Sequence[str] | None = None,
    neuron_selection: Selection = None,
    *,
    kind: str | None = None,
    titles: Sequence[str] | None = None,
    labels: ArrayLike | None = None,
    unit: str | None = None,
    samples: int = 8,
    scale: str | None = None,
    **options: Any,
) -> Any:
    """Draws samples with their relevance.

    An image stands beside its heatmap, and beside a gray copy with the heatmap laid over it. A time series has a line
    for each channel, in the colours of its relevance. Features become signed bars. All samples have the same features
    in the same order, that of their mean absolute relevance over all that is drawn. Of a volume the slice with the
    largest mean absolute relevance is drawn like an image. Texts have coloured tokens.

    Args:
        x: Images (batch, height, width, channels), series (batch, time, channels), features (batch, features) or
            volumes (batch, depth, height, width, channels); for texts what `analyzer.tokens(texts)` returns, which is a
            dict where several inputs have tokens. A dict of several inputs is drawn as one figure, with one input below
            the other.
        relevance: Their relevance, of the same shape. That of images and series may lack the channel axis.
        outputs: The model's outputs (batch, classes). The title names the explained class and its output.
        class_names: Names of the classes, one for each output. A binary classifier whose only output (batch, 1) is the
            probability of the second class takes two names. Its title names the predicted class, with that class's
            probability. Relevance explains the output, so positive relevance speaks for the second class.
        neuron_selection: What was explained, as given to `analyze`, such as an int, one int per sample, `"positive"` or
            `"negative"` for a binary classifier, or a function; None stands for the largest output. The title names up
            to three classes with their signs, and has the sum of their outputs.
        kind: `"images"`, `"series"` or `"features"`. By default the number of axes decides. Images may lack the channel
            axis if the kind is named, and so may series.
        titles: Titles of the samples, in place of those from `outputs`.
        labels: The true class of each sample, (batch,), ints. With `outputs` they make the titles say the prediction,
            its output and the true class, and `wrong` if these differ. For a regression they are the true numbers.
        unit: The unit of the output of a regression, such as `"€"`, for the titles.
        samples: How many samples to draw at most.
        scale: `"image"`: each sample has a colour scale of its own; `"batch"`: they share one. By default features
            share one, so that bars of equal length are equal relevance, and others have their own.
        **options: Of `heatmap`: `cmap_type`, `absmax`, `percentile`, `gamma`. For images `reduce_op`, `reduce_axis`,
            `overlay`, the opacity of the heatmap over the image, and `overlay_on`, `"gray"` or `"colour"`; for volumes
            also `axis`, along which they are sliced; for series
            `channel_names`, and `lengths`, one int per sample or a mask (batch, time), which leave padding out; for
            features `feature_names` and `top`, how many of them are drawn.

    Returns:
        A `Picture`, a matplotlib figure, which notebooks show; `picture.savefig("x.png")` writes it. For texts a
        `Text`, which notebooks show, too, and which has `savefig("x.pdf")`.

    Raises:
        ValueError: Shapes or the number of names do not fit, relevance is not finite, or an option is illegal. An array
            that may be one sample without a batch axis, such as (8, 8, 1), is refused unless `kind`, `outputs`,
            `titles` or an option such as `channel_names` tell what it is.
        TypeError: There is no such option.

    Example:

        revgraph.visualize.plot(x, analyzer.analyze(x), outputs=model.predict(x), class_names=["cat", "dog"])
    """
    parts = list(x.values()) if isinstance(x, Mapping) else [x]
    if are_tokens(x):
        count = len(parts[0])
        titles = titled(titles, outputs, class_names, neuron_selection, count, unit=unit, labels=labels)
        check_titles(titles, count)
        return text(x, relevance, titles=titles, scale=scale or "image", **options).first(samples * len(parts))
    _refuse_texts(x, "plot")
    if isinstance(x, Mapping) and len(x) > 1:
        titles = titled(titles, outputs, class_names, neuron_selection, len(parts[0]), unit=unit, labels=labels)
        return _several(x, relevance, titles, samples, scale, options)
    x, drawn, colours = _drawing(x, kind, options, _is_batch(sole(x), outputs, titles))
    titles = titled(titles, outputs, class_names, neuron_selection, len(x), unit=unit, labels=labels)
    x, relevances = _matching(x, {"": relevance}, samples)
    return grid_of(drawn, colours, x, relevances, titles, _scale_of_plot(scale, drawn), drawn.columns, {})


def _several(x, relevance, titles, samples, scale, options):
    """One figure of several inputs, one below the other."""
    if not isinstance(relevance, Mapping) or set(relevance) != set(x):
        received = f"a dict of {', '.join(map(repr, relevance))}" if isinstance(relevance, Mapping) else "no dict"
        raise ValueError(
            f"x is a dict of {', '.join(map(repr, x))}, so relevance is a dict of the same, as analyze returns it. "
            f"Received: {received}."
        )
    parts = {}
    for name, value in x.items():
        of_kind = {o: v for o, v in options.items() if o in _options_of(Colours) | _options_of(_usual(np.ndim(value)))}
        value, drawn, colours = _drawing(value, None, of_kind, True)
        parts[name] = (drawn, colours, *_matching(value, {"": relevance[name]}, samples))
    known = {o for drawn, *_ in parts.values() for o in _options_of(type(drawn))} | _options_of(Colours)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise TypeError(f"These inputs take the options {', '.join(sorted(known))}. Received: {unknown[0]}.")
    sizes = [size_of(drawn, drawn.inputs(x), len(drawn.columns), titles) for drawn, _, x, _ in parts.values()]
    heights = [height + 0.3 for _, height in sizes]
    picture = Picture(max(width for width, _ in sizes), sum(heights))
    below = picture.subfigures(len(parts), 1, height_ratios=heights)
    for part, (name, (drawn, colours, x, relevances)) in zip(
        np.ravel(np.asarray(below, object)), parts.items(), strict=True
    ):
        part.suptitle(name, fontsize=10, x=0.01, ha="left", weight="bold")
        grid_of(drawn, colours, x, relevances, titles, _scale_of_plot(scale, drawn), drawn.columns, {}, part)
    return picture


def _usual(rank):
    """The kind of samples of a rank, or one without options."""
    return BY_RANK.get(rank, Colours)


def plot_grid(
    x: Any,
    relevances: Mapping[str, Relevance],
    *,
    kind: str | None = None,
    titles: Sequence[str] | None = None,
    samples: int = 8,
    scale: str = "all",
    **options: Any,
) -> Any:
    """Draws samples in rows and the relevance from several analyzers in columns.

    Texts have one paragraph below the other in place of columns.

    Args:
        x: Samples; see `plot`. None where they are not known: relevance is drawn alone, and its axes say what it is of.
        relevances: Relevance of x by the name of its column.
        kind: See `plot`.
        titles: One per sample.
        samples: How many samples to draw at most.
        scale: Which pictures share a colour scale. `"all"`: all of them, so that equal colours are equal relevance
            everywhere. `"column"`: those of one analyzer. `"row"`: those of one sample. `"image"`: none. Gradients and
            relevance have different units, so use `"column"` to compare their patterns.
        **options: See `plot`.

    Returns:
        A `Picture`, a matplotlib figure; for texts a `Text`.

    Raises:
        ValueError: See `plot`.
        TypeError: `relevances` is no dict, or there is no such option.

    Example:

        revgraph.visualize.plot_grid(x, {"epsilon": a.analyze(x), "flat": b.analyze(x)}, percentile=99)
    """
    if not isinstance(relevances, Mapping) or not relevances:
        raise TypeError(f"plot_grid takes a dict from names to relevance. Received: {type(relevances).__name__}.")
    if are_tokens(x):
        return paragraphs(x, relevances, titles, samples, scale, **options)
    _refuse_texts(x, "plot_grid")
    _refuse_several(x, "plot_grid")
    shape = sole(next(iter(relevances.values())) if x is None else x)
    return _side_by_side(x, relevances, titles, samples, scale, kind, options, _is_batch(shape, None, titles))


def _side_by_side(x, relevances, titles, samples, scale, kind, options, has_batch):
    known = x is not None
    x = x if known else np.zeros(np.shape(sole(next(iter(relevances.values())))))
    x, drawn, colours = _drawing(x, kind, options, has_batch)
    x, relevances = _matching(x, relevances, samples)
    first = ("input",) if known and "input" in drawn.columns else ()
    return grid_of(drawn, colours, x, relevances, titles, scale, first, relevances, known=known)


def compare(
    model: Any,
    x: Tensors,
    names: Iterable[str | tuple[str, Mapping[str, Any]] | Analyzer] | Mapping[str, Mapping[str, Any]] = COMPARED,
    neuron_selection: Selection = None,
    class_names: Sequence[str] | None = None,
    *,
    kind: str | None = None,
    titles: Sequence[str] | None = None,
    labels: ArrayLike | None = None,
    unit: str | None = None,
    samples: int = 8,
    scale: str = "all",
    **options: Any,
) -> Any:
    """Explains samples with several analyzers and draws the results side by side.

    Args:
        model: A built Keras model.
        x: Samples; see `plot`. Of a model that takes texts, the texts.
        names: Analyzers: names, pairs of name and keyword arguments, or `Analyzer`s; or a dict from name to keyword
            arguments.
        neuron_selection: See `Analyzer.analyze`.
        class_names: Names of the classes, for the titles. The number beside a name is the model's output, such as the
            probability; see `plot` for binary classifiers.
        kind, labels, unit: See `plot`. Predictions are those of the model.
        titles, samples, scale: See `plot_grid`.
        **options: See `plot`.

    Returns:
        A `Picture`, a matplotlib figure; for texts a `Text`.

    Raises:
        ValueError: No analyzer is named; see `plot` for other reasons.

    Example:

        revgraph.visualize.compare(model, x, ["gradient", "lrp.epsilon", "lrp.epsilon_plus_flat"], scale="column")
    """
    _refuse_several(x, "compare")
    x = np.asarray(sole(x))
    labels = None if labels is None else checked_labels(labels, len(x), class_names, None)[:samples]
    x = x[:samples]
    analyzers = [_analyzer(entry, model) for entry in (names.items() if isinstance(names, Mapping) else names)]
    if not analyzers:
        raise ValueError("There is nothing to compare: name at least one analyzer.")
    if is_one_per_sample(neuron_selection):
        neuron_selection = np.asarray(neuron_selection)[:samples]
    relevances = {unique_name(a.name, i, analyzers): a.analyze(x, neuron_selection) for i, a in enumerate(analyzers)}
    titles = titled_by_model(titles, analyzers[0], x, neuron_selection, class_names, unit, labels)
    if holds_strings(x):
        return paragraphs(analyzers[0].tokens(x), relevances, titles, samples, scale, **options)
    if hasattr(analyzers[0], "preprocess"):
        # What the model's own preprocessor makes of images is what has relevance.
        x = sole(analyzers[0].preprocess(x))
    return _side_by_side(x, relevances, titles, samples, scale, kind, options, has_batch=True)


def _analyzer(entry, model):
    if isinstance(entry, Analyzer):
        return entry
    name, arguments = (entry, {}) if isinstance(entry, str) else entry
    return create_analyzer(name, model, **arguments)


def _refuse_several(x, function):
    if isinstance(x, Mapping) and len(x) > 1:
        raise ValueError(
            f"{function} draws one input, and x has {len(x)}: {', '.join(map(repr, x))}. `plot` draws several inputs "
            f"with the relevance of one analyzer. To compare analyzers, draw one input: "
            f"plot_grid(x[{next(iter(x))!r}], {{name: analyzer.analyze(x)[{next(iter(x))!r}]}})."
        )


def _refuse_texts(x, function):
    if holds_strings(x):
        raise ValueError(
            "Relevance belongs to the tokens of texts, and texts as they are do not say what their tokens are. Pass "
            f"analyzer.tokens(texts): {function}(analyzer.tokens(texts), relevance). Tokens of your own are drawn by "
            "revgraph.visualize.text."
        )


def unique_name(name: str, position: int, analyzers: Sequence[Analyzer]) -> str:
    """The name of an analyzer, with a number if another of the same name comes before it."""
    before = sum(a.name == name for a in analyzers[:position])
    return f"{name} ({before + 1})" if before else name


def _drawing(x, kind, options, has_batch):
    """The samples as they are drawn, how that is done, and their colours.

    Args:
        x: Samples; see `plot`.
        kind: See `plot`.
        options: Options of a function for its kind of samples, and for the colours.
        has_batch: Whether the first axis is known to be the batch.
    """
    x = np.asarray(sole(x))
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {', '.join(map(repr, KINDS))} or None. Received: {kind!r}.")
    usual = {made.rank: name for name, made in KINDS.items()}
    # An option such as channel_names says what x is.
    if kind is None and x.ndim in usual and _options_of(KINDS[usual[x.ndim]]).intersection(options):
        kind = usual[x.ndim]
    check_batch(x.shape, kind, has_batch)
    made = BY_RANK[x.ndim] if kind is None else KINDS[kind]
    fields = _options_of(made)
    known = fields | _options_of(Colours)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{made.__name__} take the options {', '.join(sorted(known))}. Received: {unknown[0]}.")
    # Images and series that have no channel axis get one.
    x = x if x.ndim == made.rank else x[..., None]
    colours = Colours(**{k: v for k, v in options.items() if k not in fields})
    return x, made(**{k: v for k, v in options.items() if k in fields}), colours


def _options_of(kind):
    return {field.name for field in dataclasses.fields(kind)}


def _is_batch(x, outputs, titles):
    """Whether there are outputs or titles for every entry of the first axis, so that this is the batch."""
    count = len(x) if np.ndim(x) else 0
    outputs = sole(outputs)
    return (np.ndim(outputs) == 2 and len(outputs) == count) or (titles is not None and len(titles) == count)


def _matching(x, relevances, samples):
    """The samples to draw, and their relevance."""
    x = np.asarray(sole(x))
    relevances = {name: np.asarray(sole(relevance)) for name, relevance in relevances.items()}
    for name, relevance in relevances.items():
        if not _fits(relevance.shape, x.shape):
            of = f" of {name!r}" if name else ""
            raise ValueError(f"The relevance{of} has shape {relevance.shape}, for inputs of shape {x.shape}.")
    return x[:samples], {name: relevance[:samples] for name, relevance in relevances.items()}


def _fits(shape, of_inputs):
    """Whether relevance has the shape of inputs; the axis of channels may be missing, or have length 1."""
    shorter = [tuple(n for i, n in enumerate(of_inputs) if i != axis) for axis in range(1, len(of_inputs))]
    summed = [tuple(1 if i == axis else n for i, n in enumerate(of_inputs)) for axis in range(1, len(of_inputs))]
    return shape in (of_inputs, *(shorter + summed if len(of_inputs) > 2 else ()))


def _scale_of_plot(scale, drawn):
    """The word of `plot_grid` for a scale of `plot`."""
    scale = scale or ("image" if drawn.has_bar else "batch")
    if scale not in ("image", "batch"):
        raise ValueError(f'scale is "image" or "batch". Received: {scale!r}.')
    return "row" if scale == "image" else "all"
