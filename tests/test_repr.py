"""How analyzers, composites, graphs, ledgers and the registry show themselves, in consoles and in notebooks."""

import html.parser
import io

import keras
import numpy as np
import pytest
from keras import layers
from rich.console import Console

import revgraph
from revgraph.canonize import canonize
from revgraph.graph.tables import Table, folding
from revgraph.reverse_rules import Epsilon, Flat


class Page(html.parser.HTMLParser):
    """Checks that every tag is closed, and collects the tags and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def model():
    x = keras.Input((6, 6, 1), name="image")
    y = layers.Conv2D(2, 3, activation="relu", name="conv")(x)
    return keras.Model(x, layers.Dense(3, name="<b>logits")(layers.Flatten()(y)), name="net")


@pytest.fixture(scope="module")
def shown(model):
    analyzer = revgraph.create_analyzer("lrp.epsilon_plus_flat", model)
    return {
        "analyzer": analyzer,
        "control": revgraph.create_analyzer("random", model),
        "composite": analyzer.composite,
        "graph": canonize(model),
        "ledger": analyzer.conservation(np.ones((2, 6, 6, 1))),
        "registry": revgraph.ANALYZERS,
        "summary": analyzer.summary(),
    }


NAMES = ["analyzer", "control", "composite", "graph", "ledger", "registry", "summary"]


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_show_a_table_that_folds(shown, name):
    text = shown[name]._repr_html_()
    page = Page(text)
    assert {"details", "summary", "table", "td"} <= set(page.tags)
    assert "script" not in page.tags and "http" not in text
    if name in ("analyzer", "graph", "summary", "control"):
        assert any("<b>logits" in data for data in page.text) and "b" not in page.tags


@pytest.mark.parametrize("name", NAMES)
def test_rich_and_print_show_the_same_cells(shown, name):
    thing = shown[name]
    output = io.StringIO()
    Console(file=output, width=500).print(thing)
    for word in str(thing).split():
        if set(word) != {"-"}:
            assert word in output.getvalue()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "summary"])
def test_the_plain_repr_is_one_line(shown, name):
    text = repr(shown[name])
    assert text.startswith("<") and text.endswith(">") and "\n" not in text
    assert " object at " not in text
    assert len(text) < 200 or name == "registry"


def test_reprs_say_what_it_is(shown):
    assert repr(shown["analyzer"]) == "<lrp.epsilon_plus_flat of 'net': 4 sites>"
    assert repr(shown["graph"]) == "<Graph 'net': 4 sites, float32>"
    assert repr(shown["composite"]) == "<Composite 'epsilon_plus_flat': 3 entries>"
    assert repr(shown["ledger"]).startswith("<Conservation of 2 samples: start ")
    assert repr(shown["ledger"][0]).startswith("<Conservation of 1 sample: start ")
    assert "lrp.z" in repr(shown["registry"])


def test_the_summary_says_which_rule_and_why(shown):
    summary = shown["analyzer"].summary()
    assert isinstance(summary, str)
    line = next(line for line in summary.splitlines() if line.startswith("conv "))
    assert "Flat()" in line and "first linear layer" in line
    assert repr(summary) == summary == str(shown["analyzer"])


def test_composites_print_in_the_order_of_matching():
    composite = revgraph.Composite((layers.Conv2D, Flat()), ("predictions*", Epsilon(0.5)), name="mine")
    lines = str(composite).splitlines()
    assert lines[0] == "Composite 'mine': 2 entries"
    assert lines[3].split() == ["Conv2D", "Flat()"]
    assert lines[4].split() == ["'predictions*'", "Epsilon(epsilon=0.5)"]


def test_tables_are_text():
    table = Table(("name", "empty", "value"), [("a[b]", "", 1.23456), (":smile:", "", 20.0)], title="T", footer="F")
    assert table.splitlines() == [
        "T",
        "name      value",
        "---------------",
        "a[b]      1.235",
        ":smile:      20",
        "F",
    ]
    assert "a[b]" in table and repr(table) == str(table)
    assert Table(("a", "b"), []).splitlines() == ["a   b", "-----"]


def test_long_tables_start_folded():
    assert Table(("a",), [("x",)] * 3)._repr_html_().startswith("<details open>")
    assert Table(("a",), [("x",)] * 300)._repr_html_().startswith("<details>")
    assert folding("<i>", "<p>x</p>") == "<details><summary>&lt;i&gt;</summary><p>x</p></details>"


def test_nothing_prints_by_itself(model, capsys):
    analyzer = revgraph.create_analyzer("lrp.z", model)
    analyzer.analyze(np.ones((2, 6, 6, 1)))
    analyzer.conservation(np.ones((2, 6, 6, 1)))
    repr(analyzer), str(analyzer), analyzer._repr_html_()
    assert capsys.readouterr() == ("", "")


def test_a_progress_bar_shows_batches(model, capsys):
    revgraph.create_analyzer("lrp.z", model).analyze(np.ones((6, 6, 6, 1)), batch_size=2, verbose=1)
    assert "3/3" in capsys.readouterr().out


def test_tab_completion_finds_modules_methods_and_analyzers():
    assert {"create_analyzer", "ANALYZERS", "callbacks", "canonize", "reverse_rules", "visualize"} <= set(dir(revgraph))
    assert {"analyze", "conservation", "summary"} <= set(dir(revgraph.analyzers.LRP))
