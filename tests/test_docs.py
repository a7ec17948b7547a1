"""Every Python block of the documentation runs: page by page, from the first to the last, in one namespace.

A new page is found by itself. It may use the names and the files that `names` and `files` provide.
"""

import functools
import re
import shutil
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import demo

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

# What the code of a page has to lead to, checked in its namespace and its folder after the last block.
CLAIMS = {
    "docs/beam-and-serving.md": "assert not failures; np.testing.assert_allclose(np.sort(relevance.sum((1, 2, 3)))"
    ", np.sort(analyzer.analyze(x).sum((1, 2, 3))), 1e-4)",
    "docs/binary-and-regression.md": "import numpy as np; np.testing.assert_allclose(for_zero, -for_one)"
    "; assert agreement['deep_lift, mean'] > 0.9 > 0.7 > agreement['lrp.epsilon']",
    "docs/custom-rules.md": "assert isinstance(halved, revgraph.Composite) and len(report) == 1",
    "docs/datasets.md": "import pathlib; assert pathlib.Path('digits/project.yaml').is_file()",
    "docs/evaluation.md": "assert result.ranks['random']['relevance_mass'] == 3 and table.correlation(relevance) > 0.9",
    "docs/recurrent.md": "assert agreement > 0.95 and np.all(relevance[~there] == 0)",
    "docs/text.md": "assert table.relevance.shape == (4, 8) and np.abs(gap).max() < 1e-3 and contrast.shape == (1, 8)",
    "docs/transformers.md": "assert (relevance[x == 0] == 0).all() and relevance.shape == answer.shape == x.shape",
    "docs/savedmodels.md": "import numpy as np; np.testing.assert_allclose(answer['relevance'], relevance, 1e-4, 1e-6)",
}


def name(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a small classifier of digits as `model.keras`, and as the SavedModel `exported`."""
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    model.save(folder / "model.keras")
    model.export(folder / "exported")
    return folder


@pytest.fixture(scope="module")
def train():
    """`demo.train`, which trains once for all pages; each gets a network of its own."""
    once = functools.cache(functools.partial(demo.train, demo.digits(), verbose=0))

    def train(data, epochs=demo.EPOCHS, verbose=1):
        network = keras.models.clone_model(once(epochs=epochs))
        network.set_weights(once(epochs=epochs).get_weights())
        return network

    return train


@pytest.fixture
def names(files, train, tmp_path, monkeypatch):
    """What pages take for granted: these names, and a folder of their own with the files."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "train", train)
    random = np.random.default_rng(0)
    model = keras.models.load_model("model.keras")
    model.compile("adam", "sparse_categorical_crossentropy")
    x_train = random.random((40, 8, 8, 1)).astype("float32")
    return {
        "revgraph": revgraph,
        "model": model,
        "x_train": x_train,
        "y_train": np.arange(40) % 10,
        "x": x_train[:12],
        "y": np.arange(12) % 10,
        "features": random.normal(size=(3, 6)).astype("float32"),
    }


@pytest.mark.filterwarnings("ignore:The output of", "ignore:Relevance")
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_page_runs(page, names):
    text = page.read_text()
    extras = {
        "keras_hub": "import keras_hub", "quantus": "import quantus", "panel": "revgraph.view(",
        "apache_beam": "import apache_beam", "tensorflow_serving": "from tensorflow_serving",
        "ray": "import ray",
    }  # fmt: skip
    for extra, use in extras.items():
        if use in text:
            pytest.importorskip(extra)
    for block in re.finditer(r"^( *)```python\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE):
        # Errors name the line of the page.
        above = "\n" * (text.count("\n", 0, block.start()) + 1)
        exec(compile(above + textwrap.dedent(block[2]), str(page), "exec"), names)
    exec(CLAIMS.get(name(page), ""), names)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_its_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_site_has_every_page():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation, page
