"""`plot`, `plot_grid` and `compare`: inputs and their relevance side by side. Needs matplotlib."""

import dataclasses
import re
from collections.abc import Mapping

import keras
import numpy as np

from revgraph.analyzers import Analyzer, create_analyzer
from revgraph.class_names import check_names, gives_logits, has_logits, is_binary, predicted
from revgraph.reverse.pictures import Picture
from revgraph.visualize.kinds import KINDS, Colours
from revgraph.visualize.shapes import check_batch

COMPARED = ("input_t_gradient", "lrp.epsilon", "lrp.gamma", "lrp.alpha_2_beta_1", "lrp.epsilon_plus")
"""What `compare` compares where no analyzers are named; all in one unit, that of the output."""


def plot(
    x, relevance, outputs=None, class_names=None, neuron_selection=None, *, kind=None, titles=None, samples=8,
    scale="image", **options,
) -> Picture:  # fmt: skip
    """Draws samples with their relevance: images beside their heatmap and with it laid over them, time series as lines
    in the colours of their relevance, features as signed bars.

    Args:
        x: Images (batch, height, width, channels), series (batch, time, channels) or features (batch, features).
        relevance: Their relevance, of the same shape; that of images may lack the channel axis.
        outputs: The model's outputs (batch, classes); the title names the selected class and its output.
        class_names: Names of the classes.
        neuron_selection: The class explained, as given to `analyze`: an int, one per sample, or None for the largest.
        titles: Titles of the samples, in place of these.
        samples: How many samples to draw at most.
        scale: `"image"`: each sample has a colour scale of its own; `"batch"`: they share one.
        **options: Of `heatmap`: `cmap_type`, `absmax`, `percentile`, `gamma`. For images `reduce_op`, `reduce_axis` and
            `overlay`, the opacity of what is laid over them; for series `channel_names`; for features `feature_names`
            and `top`, how many of them are drawn.

    Returns:
        A `Picture`, a matplotlib figure, which notebooks show; `picture.savefig("x.png")` writes it.

    Raises:
        ValueError: Shapes do not fit, relevance is not finite, or an option is illegal.

    Example:

        revgraph.visualize.plot(x, analyzer.analyze(x), outputs=model.predict(x), class_names=["cat", "dog"])
    """
    x, drawn, colours = _drawing(x, kind, options, _is_batch(_sole(x), outputs, titles))
    titles = titles or _titles(outputs, class_names, neuron_selection, len(x))
    x, relevances = _matching(x, {"": relevance}, samples)
    return _grid(drawn, colours, x, relevances, titles, _scales_of_plot(scale), drawn.columns, {})


def plot_grid(x, relevances, *, kind=None, titles=None, samples=8, scale="all", **options) -> Picture:
    """Draws samples in rows, with what several analyzers say of them in columns.

    Args:
        x: See `plot`.
        relevances: Dict from name to relevance of x.
        titles: One per sample.
        samples: How many samples to draw at most.
        scale: What shares a colour scale: `"all"`, so that equal colours are equal relevance everywhere; `"column"`,
            those of one analyzer; `"row"`, those of one sample; `"image"`: nothing. Gradients and relevance are not
            in one unit: `"column"` shows the pattern of each.
        **options: See `plot`.

    Returns:
        A `Picture`, a matplotlib figure.

    Example:

        revgraph.visualize.plot_grid(x, {"epsilon": a.analyze(x), "flat": b.analyze(x)}, percentile=99)
    """
    if not isinstance(relevances, Mapping) or not relevances:
        raise TypeError(f"plot_grid takes a dict from names to relevance. Received: {type(relevances).__name__}.")
    return _side_by_side(x, relevances, titles, samples, scale, kind, options, _is_batch(_sole(x), None, titles))


def _side_by_side(x, relevances, titles, samples, scale, kind, options, has_batch):
    x, drawn, colours = _drawing(x, kind, options, has_batch)
    x, relevances = _matching(x, relevances, samples)
    first = ("input",) if "input" in drawn.columns else ()
    return _grid(drawn, colours, x, relevances, titles, scale, first, relevances)


def compare(
    model, x, names=COMPARED, neuron_selection=None, class_names=None, *, kind=None, titles=None, samples=8, scale="all",
    **options,
) -> Picture:  # fmt: skip
    """Explains samples with several analyzers and draws the results side by side.

    Args:
        model: A built Keras model.
        x: Samples; see `plot`.
        names: Analyzers: names, pairs of name and keyword arguments, or `Analyzer`s; or a dict from name to keyword
            arguments.
        neuron_selection: See `Analyzer.analyze`.
        class_names: Names of the classes, for the titles.
        titles, samples, scale: See `plot_grid`.
        **options: See `plot`.

    Returns:
        A `Picture`, a matplotlib figure.

    Example:

        revgraph.visualize.compare(model, x, ["gradient", "lrp.epsilon", "lrp.epsilon_plus_flat"], scale="column")
    """
    x = np.asarray(_sole(x))[:samples]
    analyzers = [_analyzer(entry, model) for entry in (names.items() if isinstance(names, Mapping) else names)]
    if not analyzers:
        raise ValueError("There is nothing to compare: name at least one analyzer.")
    if _is_one_per_sample(neuron_selection):
        neuron_selection = np.asarray(neuron_selection)[:samples]
    relevances = {_unique(a.name, i, analyzers): a.analyze(x, neuron_selection) for i, a in enumerate(analyzers)}
    titles = titles or _titles_of(analyzers[0].graph, x, class_names, neuron_selection)
    return _side_by_side(x, relevances, titles, samples, scale, kind, options, has_batch=True)


def _is_one_per_sample(selection):
    """Whether a selection has one index per sample; a tuple has one index per axis."""
    return (
        not isinstance(selection, tuple | str)
        and np.ndim(selection) == 1
        and np.issubdtype(np.asarray(selection).dtype, np.integer)
    )


def _titles_of(graph, x, class_names, selection):
    outputs = keras.tree.flatten(graph(x))
    if len(outputs) != 1:
        return None
    y = np.asarray(outputs[0])
    logits = gives_logits(graph) if is_binary(class_names, y.shape[-1]) else False
    return _titles(y, class_names, selection, len(x), has_logits(y) if logits is None else logits)


def _analyzer(entry, model):
    if isinstance(entry, Analyzer):
        return entry
    name, arguments = (entry, {}) if isinstance(entry, str) else entry
    return create_analyzer(name, model, **arguments)


def _unique(name, position, analyzers):
    """A second analyzer of the same name is told from the first by a number."""
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
    x = np.asarray(_sole(x))
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {', '.join(map(repr, KINDS))} or None. Received: {kind!r}.")
    check_batch(x.shape, kind, has_batch)
    if kind is None:
        kind = next(name for name, made in KINDS.items() if made.rank == x.ndim)
    made = KINDS[kind]
    fields = {f.name for f in dataclasses.fields(made)}
    known = fields | {f.name for f in dataclasses.fields(Colours)}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{made.__name__} take the options {', '.join(sorted(known))}. Received: {unknown[0]}.")
    # Images and series that have no channel axis get one.
    x = x if x.ndim == made.rank else x[..., None]
    colours = Colours(**{k: v for k, v in options.items() if k not in fields})
    return x, made(**{k: v for k, v in options.items() if k in fields}), colours


def _is_batch(x, outputs, titles):
    """Whether there are outputs or titles for every entry of the first axis, so that this is the batch."""
    count = len(x) if np.ndim(x) else 0
    outputs = _sole(outputs)
    return (np.ndim(outputs) == 2 and len(outputs) == count) or (titles is not None and len(titles) == count)


def _check_titles(titles, count):
    if titles is not None and len(titles) < count:
        raise ValueError(f"There are {len(titles)} titles for {count} samples: pass one per sample.")


def _sole(value):
    """What is in a dict of one input; anything else as it is."""
    return next(iter(value.values())) if isinstance(value, Mapping) and len(value) == 1 else value


def _matching(x, relevances, samples):
    """The samples to draw, and their relevance."""
    x = np.asarray(_sole(x))
    relevances = {name: np.asarray(_sole(relevance)) for name, relevance in relevances.items()}
    for name, relevance in relevances.items():
        if len(relevance) != len(x) or relevance.ndim not in (x.ndim, x.ndim - 1):
            of = f" of {name!r}" if name else ""
            raise ValueError(f"The relevance{of} has shape {relevance.shape}, for inputs of shape {x.shape}.")
    return x[:samples], {name: relevance[:samples] for name, relevance in relevances.items()}


def _titles(outputs, class_names, selection, count, logits=None):
    """Name and output of the selected class of each sample; None where no class is selected."""
    outputs = _sole(outputs)
    if outputs is None or np.ndim(outputs) != 2:
        return None
    outputs = np.asarray(outputs)
    units = outputs.shape[1]
    check_names(class_names, units)
    if len(outputs) != count:
        raise ValueError(f"There are outputs of {len(outputs)} samples, and x has {count}. Pass the outputs of x.")
    if logits is None and is_binary(class_names, units) and has_logits(outputs):
        raise ValueError(
            f"Two class names for one output need the probability of the second class. Received values from "
            f"{outputs.min():.3g} to {outputs.max():.3g}. If they are logits, pass 1 / (1 + np.exp(-outputs))."
        )
    if selection is None or (isinstance(selection, str) and selection == "max_activation"):
        chosen, values = predicted(outputs, class_names, logits)
    elif np.ndim(selection) > 1 or not np.issubdtype(np.asarray(selection).dtype, np.integer):
        return None
    else:
        units_chosen = _one_per_sample(selection, count, units)
        values = outputs[np.arange(count), units_chosen]
        # The only unit of a binary classifier stands for the second class.
        chosen = units_chosen + 1 if is_binary(class_names, units) else units_chosen
    names = class_names if class_names is not None else [f"output {i}" for i in range(units)]
    return [f"{names[c]}: {value:.3g}" for c, value in zip(chosen, values, strict=True)]


def _one_per_sample(selection, count, units):
    """The selected unit of each sample."""
    chosen = np.atleast_1d(selection)
    if len(chosen) not in (1, count):
        raise ValueError(
            f"neuron_selection has {len(chosen)} entries for {count} samples: pass one index, or one per sample."
        )
    if chosen.min() < 0 or chosen.max() >= units:
        raise ValueError(
            f"neuron_selection is out of range: there are {units} outputs, 0 to {units - 1}. Received: {selection!r}."
        )
    return np.broadcast_to(chosen, count)


def _scales_of_plot(scale):
    if scale not in ("image", "batch"):
        raise ValueError(f'scale is "image" or "batch". Received: {scale!r}.')
    return "row" if scale == "image" else "all"


def _limits(colours, values, scale):
    """The largest value of every cell (columns, rows), from what shares a scale."""
    limits = np.array([colours.limits(v) for v in values])
    shared = {"all": (0, 1), "column": 1, "row": 0, "image": ()}
    if scale not in shared:
        raise ValueError(f"scale is {', '.join(map(repr, shared))}. Received: {scale!r}.")
    return np.broadcast_to(limits.max(axis=shared[scale], keepdims=True), limits.shape)


def _grid(kind, colours, x, relevances, titles, scale, own, named):
    """Rows of samples; columns that show the sample itself, then one per name.

    Args:
        kind, colours: How to draw.
        x: Samples.
        relevances: Dict of their relevance.
        titles: Titles of the rows, or None.
        scale: What shares a scale.
        own: Columns of `kind` drawn for the first relevance.
        named: Names of the columns that follow.
    """
    _check_titles(titles, len(x))
    inputs = kind.inputs(x)
    values = [kind.values(relevance) for relevance in relevances.values()]
    limits = _limits(colours, values, scale)
    positive = all(np.all(v >= 0) for v in values)
    cells = [(what, 0, what) for what in own] + [("relevance", i, name) for i, name in enumerate(named)]
    width, height = kind.size(inputs)
    room = 0.25 * len(x) if titles and len(cells) == 1 else 0
    picture = Picture(width * len(cells) + 1.0, height * len(x) + 0.6 + room)
    grid = picture.subplots(len(x), len(cells), squeeze=False)
    for row, axes in enumerate(grid):
        for cell, (what, column, _) in zip(axes, cells, strict=True):
            mapped = colours.scale(limits[column, row], positive)
            kind.draw(cell, what, inputs[row], values[column][row], mapped)
        if titles:
            _title(axes[0], titles[row], beside=len(cells) > 1)
    if len(cells) > 1:
        for cell, (_, _, name) in zip(grid[0], cells, strict=True):
            cell.set_title(broken(name, int(11 * width)), fontsize=9)
    if kind.has_bar:
        _bars(picture, grid, cells, limits, positive, colours, scale)
    return picture


def _title(axes, title, beside):
    if beside:
        axes.set_ylabel(str(title), fontsize=9)
    else:
        axes.set_title(str(title), fontsize=9, loc="left")


def _bars(picture, grid, cells, limits, positive, colours, scale):
    """A colour bar for everything that shares a scale; none where every cell has its own."""
    columns = [i for i, (what, _, _) in enumerate(cells) if what != "input"]
    if scale == "all":
        draw_bar(picture, colours.scale(limits[0, 0], positive), grid, positive)
    elif scale == "row":
        for row, axes in enumerate(grid):
            draw_bar(picture, colours.scale(limits[0, row], positive), axes, positive)
    elif scale == "column":
        for i in columns:
            mapped = colours.scale(limits[cells[i][1], 0], positive)
            draw_bar(picture, mapped, grid[:, i], positive, location="bottom")


def draw_bar(picture, mapped, axes, positive, location="right"):
    """Draws a colour bar for `mapped` beside axes; of positive values only their half of the colours."""
    low, high = mapped.norm.vmin, mapped.norm.vmax
    along = {"aspect": 14, "fraction": 0.1} if location == "bottom" else {"aspect": 22, "fraction": 0.04}
    bar = picture.colorbar(mapped, ax=axes, location=location, shrink=0.85, pad=0.02, **along)
    shown = 0.0 if positive else low
    ticks = [shown, high] if shown == 0 else [low, 0, high]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    if shown != low:
        (bar.ax.set_xlim if location == "bottom" else bar.ax.set_ylim)(shown, high)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def broken(name, width) -> str:
    """A name on short lines, broken behind dots and underscores."""
    lines = [""]
    for word in re.findall(r"[^._ ]+[._ ]?", str(name)):
        if lines[-1] and len(lines[-1] + word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)
