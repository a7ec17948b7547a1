"""`report`: a few explanations as one page of HTML, which can be sent to a colleague. Needs matplotlib."""

import base64
import dataclasses
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from revgraph.analyzers import ANALYZERS, Analyzer
from revgraph.analyzers.analyzer import Unsupported
from revgraph.analyzers.inputs import flat_inputs
from revgraph.class_names import check_names, gives_logits, is_binary, predicted
from revgraph.graph.graph import holds_strings
from revgraph.graph.tables import Table, folding
from revgraph.graph.types import PathLike, Selection, Tensors
from revgraph.saving.provenance import provenance
from revgraph.visualize.captions import checked_labels, is_number, is_one_per_sample, own_graph
from revgraph.visualize.captions import titles as titles_of
from revgraph.visualize.figures import plot, plot_grid, unique_name

LARGEST = 5
"""How many of the outputs of a sample are listed."""

STYLE = """
:root {color-scheme: light dark}
body {font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem}
img {max-width: 100%; background: white; border-radius: 4px}
section {border-top: 1px solid; margin-top: 2rem}
figure {margin: 1rem 0}
table {border-collapse: collapse; font-size: 0.9rem}
th, td {padding: 0.1rem 0.6rem}
details {margin: 0.5rem 0; overflow-x: auto}
summary {cursor: pointer}
pre {overflow-x: auto; font-size: 0.8rem}
.for {color: #c0392b} .against {color: #2f6fb5}
"""


@dataclasses.dataclass(frozen=True)
class Report:
    """A page of HTML. It has its pictures within it, and needs nothing from elsewhere.

    Args:
        page: The page.
    """

    page: str = dataclasses.field(repr=False)

    def save(self, path: PathLike, overwrite: bool = False) -> Path:
        """Writes the page to a file.

        Args:
            path: Such as `"report.html"`.
            overwrite: Replace a file that exists.

        Returns:
            The path.

        Raises:
            FileExistsError: There is a file, and `overwrite` is False.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{str(path)!r} exists. Pass overwrite=True to replace it, or another path.")
        path.write_text(self.page, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        # The page keeps its style to itself.
        return f'<iframe srcdoc="{html.escape(self.page)}" style="width:100%;height:40rem;border:0"></iframe>'


def report(
    analyzers: Analyzer | Sequence[Analyzer],
    x: Tensors,
    neuron_selection: Selection = None,
    class_names: Sequence[str] | None = None,
    *,
    titles: Sequence[str] | None = None,
    labels: ArrayLike | None = None,
    samples: int = 8,
    **options: Any,
) -> Report:
    """Explains a few samples, and makes a page about them: pictures, outputs, and where relevance went.

    Args:
        analyzers: An analyzer; or several of the same model, whose pictures stand side by side.
        x: The samples, as `analyze` takes them.
        neuron_selection: What is explained; see `Analyzer.analyze`.
        class_names: Names of the classes; see `plot`.
        titles: One per sample, such as file names.
        labels: The true class of each sample, (batch,), ints; for a regression the true numbers.
        samples: How many samples are explained at most.
        **options: See `plot`.

    Returns:
        A `Report`, which notebooks show, and whose `save` writes it.

    Raises:
        TypeError: These are no analyzers.
        ValueError: The analyzers are of several models, or samples, titles, names or labels do not fit.

    Example:

        revgraph.visualize.report(analyzer, x, class_names=["cat", "dog"]).save("report.html")
    """
    analyzers = list(analyzers) if isinstance(analyzers, Sequence) else [analyzers]
    wrong = [a for a in analyzers if not isinstance(a, Analyzer)]
    if wrong or not analyzers:
        received = type(wrong[0]).__name__ if wrong else "none"
        raise TypeError(f"report takes analyzers, which create_analyzer makes. Received: {received}.")
    if len({id(a.model) for a in analyzers}) > 1:
        raise ValueError("A report is about one model. Received analyzers of several: make a report of each.")
    first = analyzers[0]
    x = [x] if isinstance(x, str) else x
    if _are_texts(x) and not hasattr(first, "preprocess"):
        x = np.array(x)
    count = len(x) if _are_texts(x) else len(keras.tree.flatten(x)[0])
    if titles is not None and len(titles) != count:
        raise ValueError(f"There are {len(titles)} titles for {count} samples: pass one per sample.")
    labels = None if labels is None else checked_labels(labels, count, class_names, None)
    named = {unique_name(a.name, i, analyzers): a for i, a in enumerate(analyzers)}
    sections = []
    for i in range(min(count, samples)):
        one = x[i : i + 1] if _are_texts(x) else keras.tree.map_structure(lambda a, i=i: a[i : i + 1], x)
        selection = np.asarray(neuron_selection)[i : i + 1] if is_one_per_sample(neuron_selection) else neuron_selection
        read = first.preprocess(one) if hasattr(first, "preprocess") else one
        explained = titles_of(first, one, selection, class_names)
        sections += [
            f"<section><h2>{html.escape(str(titles[i]) if titles is not None else f'Sample {i}')}</h2>",
            f"<p>Explained: <b>{html.escape(explained[0])}</b></p>" if explained else "",
            _outputs(own_graph(first, read), read, class_names, None if labels is None else labels[i]),
            *_pictures(named, one, read, selection, options),
            *_ledgers(named, one, selection),
            "</section>",
        ]
    return Report(_page(first.graph.name, named, sections))


def _are_texts(x):
    return isinstance(x, list | tuple) and bool(x) and isinstance(x[0], str)


def _outputs(graph, x, class_names, label):
    """A table of the largest outputs, and the true class."""
    flat = [np.asarray(y) for y in keras.tree.flatten(graph(x))]
    if len(flat) != 1 or flat[0].ndim != 2:
        if label is not None:
            shapes = ", ".join(str(y.shape) for y in flat)
            raise ValueError(f"Labels need one output (batch, classes). The model has {shapes}. Leave out labels.")
        return ""
    values = flat[0][0]
    check_names(class_names, len(values))
    binary = is_binary(class_names, len(values))
    named = class_names if class_names is not None and not binary else [f"output {i}" for i in range(len(values))]
    true = "" if label is None else _truth(graph, values, class_names, named, label)
    rows = [(str(named[k]), float(values[k])) for k in np.argsort(-values, kind="stable")[:LARGEST]]
    header = ("class", "output of the model")
    title = "largest outputs" if len(values) > LARGEST else "outputs"
    if binary:
        title = f"the output, which speaks for {class_names[1]} and against {class_names[0]}"
    return f"{true}{Table(header, rows, title)._repr_html_()}"


def _truth(graph, values, class_names, named, label):
    """A paragraph with the true class of a sample, and whether the model predicts another one."""
    (label,) = checked_labels([label], 1, class_names, len(values))
    if is_number(class_names, len(values)):
        return f"<p>True value: <b>{label:.4g}</b></p>"
    known = class_names if class_names is not None else named
    ((chosen,), _) = predicted(
        values[None], class_names, gives_logits(graph) if is_binary(class_names, len(values)) else None
    )
    wrong = "" if chosen == label else f". The model is <b>wrong</b>: it predicts {html.escape(str(known[chosen]))}."
    return f"<p>True class: <b>{html.escape(str(known[label]))}</b>{wrong}</p>"


def _pictures(named, one, read, selection, options):
    """The pictures of a sample: one of all methods where they can stand side by side, or else one of each."""
    first = next(iter(named.values()))
    found = {name: analyzer.analyze(one, selection) for name, analyzer in named.items()}
    if holds_strings(one) or _are_texts(one):
        tokens = first.tokens(one)
        for name, relevance in found.items():
            yield _figure(name, plot(tokens, relevance, **options).to_html())
        return
    inputs = dict(zip(first.graph.input_names, flat_inputs(read, first.graph), strict=True))
    if len(inputs) == 1 and len(named) > 1:
        (x,) = inputs.values()
        yield _png(", ".join(named), plot_grid(x, found, titles=[""], **{"scale": "image", **options}))
        return
    for name, relevance in found.items():
        parts = dict(zip(inputs, keras.tree.flatten(relevance), strict=True))
        yield _figure(name, _png(name, plot(inputs, parts, titles=[""], **options)))


def _figure(caption, content):
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{content}</figure>"


def _png(methods, picture):
    content = base64.b64encode(picture._repr_png_()).decode()
    return f'<img alt="{html.escape(f"Relevance by {methods}")}" src="data:image/png;base64,{content}">'


def _ledgers(named, one, selection):
    for name, analyzer in named.items():
        try:
            ledger = analyzer.conservation(one, selection)
        except Unsupported:
            continue
        yield folding(f"{name}: where relevance went", f"<pre>{html.escape(str(ledger))}</pre>")


def _page(model, named, sections):
    origins = [provenance(analyzer) for analyzer in named.values()]
    methods = "".join(f"<li><b>{html.escape(name)}</b>{_described(a)}</li>" for name, a in named.items())
    title = f"Why {model} decides as it does"
    made = folding("how this page was made", f"<pre>{html.escape(json.dumps(origins, indent=1))}</pre>")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{STYLE}</style></head>
<body><h1>{html.escape(title)}</h1>
<p>The pictures show what each entry of the input contributed to the output that is explained. What is
<b class="for">red</b> spoke for it, what is <b class="against">blue</b> against it, and what is white did not
matter. They explain the model, and not the world: if the model has learned a shortcut, they show the shortcut.</p>
<ul>{methods}</ul>
{"".join(sections)}
<section>{made}</section></body></html>
"""


def _described(analyzer):
    entry = ANALYZERS.get(analyzer.name)
    return f": {html.escape(entry.computes)} [{html.escape(entry.paper)}]" if entry is not None else ""
