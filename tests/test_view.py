"""`revgraph view`: what is shown of results, and the page that shows it."""

import html
import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.request

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from matplotlib.text import Text

import revgraph
from revgraph import concepts
from revgraph.analyzers.analyzer import Unsupported
from revgraph.cli import main
from revgraph.datasets import HDF5, NpyShards, Zarr
from revgraph.datasets.results import Results
from revgraph.reverse.ledger import FIELDS
from revgraph.viewer import Album, Look, Page
from revgraph.viewer.sheet import sheet, sources
from revgraph.visualize import plot_grid

COUNT = 20
NAMES = ("ant", "<bee>", "cow")


def network(shape, units=3, *body):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(shape), *body, layers.Flatten(), layers.Dense(units, name="out")], name="tiny")


@pytest.fixture(scope="module")
def model():
    return network((6, 6, 1), 3, layers.Conv2D(4, 3, activation="relu", name="conv"))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(COUNT, 6, 6, 1)).astype("float32")


@pytest.fixture(scope="module")
def y():
    return np.arange(COUNT) % 3


def explain(model, x, where, method="lrp.epsilon", **options):
    revgraph.explain_dataset(revgraph.create_analyzer(method, model), x, where, verbose=0, **options)
    return where.path if hasattr(where, "path") else where


@pytest.fixture(scope="module")
def files(model, x, y, tmp_path_factory):
    """Results that tests only read: an HDF5 file with everything, one of a gradient, and concepts."""
    folder = tmp_path_factory.mktemp("results")
    explain(model, x, HDF5(folder / "epsilon.h5", inputs=True, class_names=NAMES), labels=y, ledger=True)
    explain(model, x, folder / "gradient.h5", "gradient", labels=y)
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    concepts.collect(analyzer, x, "conv", folder / "concepts.h5", labels=y, verbose=0)
    np.save(folder / "x.npy", x)
    return folder


@pytest.fixture
def album(files):
    return Album([files / "epsilon.h5", files / "gradient.h5"], concepts=files / "concepts.h5")


# What is written and read.


@pytest.mark.parametrize("kind", ["h5", "zarr", "shards"])
@pytest.mark.parametrize("shape", [(4,), (9, 2), (6, 6, 1), (5, 4, 3, 2)])
def test_results_are_read_with_the_axes_of_the_inputs(kind, shape, tmp_path, rng):
    if kind == "zarr":
        pytest.importorskip("zarr")
    made = network(shape)
    x = rng.normal(size=(8, *shape)).astype("float32")
    sink = {"h5": HDF5, "zarr": Zarr, "shards": NpyShards}[kind](tmp_path / f"r.{kind}", inputs=True)
    path = explain(made, x, sink)
    rows = np.array([1, 4, 7])
    relevance = revgraph.create_analyzer("lrp.epsilon", made).analyze(x)
    found = Results(path)
    np.testing.assert_allclose(found.relevance(rows)[None], relevance[rows], atol=1e-6)
    np.testing.assert_array_equal(found.inputs(rows)[None], x[rows])
    assert found.relevance(np.zeros(0, int))[None].shape == (0, *shape)


def test_results_of_several_inputs_are_read_by_name(tmp_path, rng):
    parts = {"image": keras.Input((4, 4, 1), name="image"), "table": keras.Input((3,), name="table")}
    joined = layers.Concatenate()([layers.Flatten()(parts["image"]), parts["table"]])
    made = keras.Model(parts, layers.Dense(2)(joined))
    x = {"image": rng.normal(size=(7, 4, 4, 1)), "table": rng.normal(size=(7, 3))}
    for where in (HDF5(tmp_path / "r.h5", inputs=True), NpyShards(tmp_path / "r", inputs=True)):
        found = Results(explain(made, x, where))
        assert found.input_names == ("image", "table")
        relevance = revgraph.create_analyzer("lrp.epsilon", made).analyze(x)
        for name in x:
            np.testing.assert_allclose(found.relevance(np.array([2]))[name], relevance[name][[2]], atol=1e-6)
            np.testing.assert_allclose(found.inputs(np.array([2]))[name], x[name][[2]], rtol=1e-6)
        assert list(Album(found.path).pictures(2)) == ["image", "table"]
    written = Album(explain(made, x, tmp_path / "other.h5"), inputs=tmp_path / "r.input.h5")
    assert list(written.pictures(2)) == ["image", "table"] and not [n for n in written.notes if "inputs" in n]
    with pytest.raises(ValueError, match="'image', 'table': pass a dict with these names"):
        Album(tmp_path / "other.h5", inputs=x["image"])


def test_inputs_of_samples_that_failed_are_passed_over(model, x, tmp_path):
    x = x.copy()
    x[[0, 3]] = np.nan
    for sink in (HDF5(tmp_path / "r.h5", inputs=True), NpyShards(tmp_path / "r", inputs=True)):
        found = Results(explain(model, x, sink))
        assert found.index[:3].tolist() == [1, 2, 4]
        np.testing.assert_array_equal(found.inputs(np.array([0, 2]))[None], x[[1, 4]])


def test_inputs_of_another_run_are_not_taken_for_those_of_this(model, x, tmp_path):
    explain(model, x, HDF5(tmp_path / "r.h5", inputs=True))
    explain(model, x[::-1].copy(), tmp_path / "r.h5", overwrite=True)
    assert (tmp_path / "r.input.h5").exists()
    assert Results(tmp_path / "r.h5").inputs(np.array([0])) is None


@pytest.mark.parametrize("kind", ["h5", "zarr", "shards"])
def test_a_ledger_is_that_of_conservation(kind, model, x, tmp_path):
    if kind == "zarr":
        pytest.importorskip("zarr")
    path = explain(model, x, tmp_path / f"r.{kind}", "lrp.alpha_2_beta_1", ledger=True, batch_size=7)
    rows = np.array([0, 8, 19])
    found = Results(path).ledger(rows)
    report = revgraph.create_analyzer("lrp.alpha_2_beta_1", model).conservation(x[rows])
    assert tuple(found) == FIELDS
    for name in FIELDS:
        np.testing.assert_allclose(found[name], getattr(report, name), atol=1e-9)


def test_a_method_without_a_ledger_says_so(model, x, tmp_path):
    with pytest.raises(Unsupported, match="has no ledger"):
        explain(model, x, tmp_path / "r.h5", "random", ledger=True)
    assert not list(tmp_path.iterdir())
    assert Results(explain(model, x, tmp_path / "r.h5", "random")).ledger(np.array([0])) is None


def test_a_run_is_not_continued_with_another_ledger(model, x, tmp_path):
    explain(model, x, tmp_path / "r.h5")
    with pytest.raises(FileExistsError, match="another run"):
        explain(model, x, tmp_path / "r.h5", ledger=True, resume=True)


# Which samples there are.


def test_samples_are_found_by_class_and_by_wrong_predictions(album, model, x, y):
    predicted = model.predict(x, verbose=0).argmax(axis=1)
    assert 0 < (predicted != y).sum() < COUNT
    assert np.array_equal(album.find(), np.arange(COUNT))
    assert np.array_equal(album.find(label=1), np.flatnonzero(y == 1))
    assert np.array_equal(album.find(prediction=2), np.flatnonzero(predicted == 2))
    assert np.array_equal(album.find(wrong=True), np.flatnonzero(predicted != y))
    assert np.array_equal(album.find(0, 2, True), np.flatnonzero((y == 0) & (predicted == 2)))
    assert album.labels == (0, 1, 2) and album.predictions == tuple(np.unique(predicted).tolist())
    wrong = int(np.flatnonzero(predicted != y)[0])
    names = [f"{NAMES[c]} ({c})" for c in (y[wrong], predicted[wrong])]
    assert album.about(wrong) == f"Sample {wrong}, label {names[0]}, prediction {names[1]} (wrong)"
    with pytest.raises(ValueError, match="No sample has the label 7. There are: 0, 1, 2"):
        album.find(label=7)
    with pytest.raises(KeyError, match="no sample 99. There are 20, from 0 on"):
        album.about(99)


def test_a_sample_may_have_several_labels(model, x, tmp_path):
    labels = np.random.default_rng(1).random((COUNT, 3)) > 0.5
    shown = Album(explain(model, x, tmp_path / "r.h5", labels=labels))
    predicted = model.predict(x, verbose=0).argmax(axis=1)
    assert np.array_equal(shown.find(label=1), np.flatnonzero(labels[:, 1]))
    assert np.array_equal(shown.find(wrong=True), np.flatnonzero(~labels[np.arange(COUNT), predicted]))
    assert "label 1, 2" in shown.about(int(np.flatnonzero((labels == [0, 1, 1]).all(axis=1))[0]))


def test_one_output_tells_two_classes_apart_if_they_have_names(x, tmp_path):
    made = network((6, 6, 1), 1)
    made.add(layers.Activation("sigmoid"))
    y = np.arange(COUNT) % 2
    path = explain(made, x, tmp_path / "r.h5", labels=y)
    plain, named = Album(path), Album(path, class_names=["no", "yes"])
    assert plain.predictions == () and not plain.knows_wrong and "name both" in plain.notes[0]
    with pytest.raises(ValueError, match="cannot be compared"):
        plain.find(wrong=True)
    predicted = (made.predict(x, verbose=0)[:, 0] > 0.5).astype(int)
    assert np.array_equal(named.find(prediction=1), np.flatnonzero(predicted == 1))
    assert np.array_equal(named.find(wrong=True), np.flatnonzero(predicted != y))
    assert "yes (1)" in named.about(int(np.flatnonzero(predicted == 1)[0]))


def test_numbers_as_labels_are_no_classes(x, tmp_path):
    shown = Album(explain(network((6, 6, 1), 1), x, tmp_path / "r.h5", labels=np.linspace(0.5, 2, COUNT)))
    assert shown.labels == () and not shown.knows_wrong
    assert shown.about(0) == "Sample 0, label 0.5"
    assert "output" in shown.table(0) and "predicted" not in shown.table(0)


def test_a_dataset_without_labels_is_not_said_to_have_no_mistakes(model, x, tmp_path):
    shown = Album(explain(model, x, tmp_path / "r.h5"))
    assert not shown.find(wrong=True).size
    assert any("or the dataset has no labels" in note for note in shown.notes)


def test_samples_that_failed_in_one_of_the_results_are_left_out(files, model, x, y, tmp_path):
    broken = x.copy()
    broken[3] = np.nan
    path = explain(model, broken, tmp_path / "r.h5", "lrp.gamma", labels=y)
    shown = Album([files / "epsilon.h5", path])
    assert np.array_equal(shown.index, np.delete(np.arange(COUNT), 3))
    assert shown.notes[0] == "Left out are 1 samples that some of the results do not have."
    gamma = revgraph.create_analyzer("lrp.gamma", model).analyze(x[4:5])
    assert f"{gamma.sum(dtype=float):.4g}" in shown.table(4)


# What is shown of a sample.


def test_the_table_has_outputs_and_sums_and_the_ledger(album, model, x):
    output = model.predict(x[5:6], verbose=0)[0]
    table = album.table(5)
    for method in ("lrp.epsilon", "gradient"):
        total = revgraph.create_analyzer(method, model).analyze(x[5:6]).sum(dtype=float)
        line = next(line for line in table.splitlines() if line.startswith(method))
        assert f"{NAMES[output.argmax()]} ({output.argmax()})" in line and f"{output.max():.4g}" in line
        assert line.split()[-1] == f"{total:.4g}"
    report = revgraph.create_analyzer("lrp.epsilon", model).conservation(x[5:6])
    assert f"{report.bias[0]:.4g}" in album.ledger(5) and "softmax" not in album.ledger(5)


def test_methods_of_the_same_name_are_told_apart(files, tmp_path):
    shutil.copy(files / "gradient.h5", tmp_path / "other.h5")
    (tmp_path / "more").mkdir()
    shutil.copy(files / "gradient.h5", tmp_path / "more" / "other.h5")
    assert Album([files / "gradient.h5", tmp_path / "other.h5"]).methods == (
        "gradient (gradient.h5)", "gradient (other.h5)",
    )  # fmt: skip
    assert len(set(Album([tmp_path / "other.h5", tmp_path / "more" / "other.h5"]).methods)) == 2


def bars(picture):
    """How many axes are colour bars."""
    return sum(axes.get_label() == "<colorbar>" for axes in picture.axes)


def test_colours_share_a_scale_or_have_their_own(album):
    shared, own = (album.pictures(2, Look(own_scales=own))[None] for own in (False, True))
    assert (bars(shared), bars(own)) == (1, 2)
    assert [axes.get_title() for axes in own.axes[:3]] == ["input", "lrp.epsilon", "gradient"]
    one = album.pictures(2, methods=["gradient"])[None]
    assert [axes.get_title() for axes in one.axes[:3]] == ["input", "relevance", "overlay"]


def pixels(picture, column):
    return np.asarray(picture.axes[column].images[0].get_array())


def test_the_threshold_hides_what_is_below_a_share_of_the_largest(album, model, x):
    relevance = revgraph.create_analyzer("gradient", model).analyze(x[2:3])[0, ..., 0]
    small = np.abs(relevance) < 0.4 * np.abs(relevance).max()
    plain, cut = (pixels(album.pictures(2, Look(threshold=t))[None], 2) for t in (0, 0.4))
    assert small.any() and not small.all()
    assert np.array_equal(plain[~small], cut[~small])
    assert len(np.unique(cut[small], axis=0)) == 1 and len(np.unique(plain[small], axis=0)) > 1


def test_the_percentile_makes_colours_stronger(album, model, x):
    relevance = revgraph.create_analyzer("gradient", model).analyze(x[2:3])[0, ..., 0]
    look = Look(percentile=60, own_scales=True)
    limit = np.percentile(np.abs(relevance), 60)
    saturated = np.abs(relevance) >= limit
    shown = pixels(album.pictures(2, look)[None], 2)
    assert len(np.unique(shown[saturated], axis=0)) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"percentile": 0}, "percentile is a number above 0"),
        ({"percentile": 101}, "percentile is a number above 0"),
        ({"threshold": 1}, "threshold is a share from 0"),
    ],
)
def test_looks_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        Look(**options)


@pytest.mark.parametrize("inputs", [True, False])
@pytest.mark.parametrize("shape", [(4,), (9, 2), (6, 6, 3), (9, 4, 3, 2)])
def test_series_tables_and_volumes_are_drawn(shape, inputs, tmp_path, rng):
    made, x = network(shape), rng.normal(size=(4, *shape)).astype("float32")
    paths = [explain(made, x, HDF5(tmp_path / f"{m}.h5", inputs=inputs), m) for m in ("gradient", "lrp.epsilon")]
    shown = Album(paths)
    picture = shown.pictures(1)[None]
    titles = [axes.get_title() for axes in picture.axes]
    assert [t for t in titles if t] == (["input"] if inputs and len(shape) > 2 else []) + ["gradient", "lrp.epsilon"]
    if len(shape) == 4:
        assert sum(bool(axes.get_ylabel().startswith("slice")) for axes in picture.axes) == 8
    if len(shape) == 1:
        labels = [label.get_text() for label in picture.axes[0].get_yticklabels()]
        values = {f"feature {i} = {v:.3g}" if inputs else f"feature {i}" for i, v in enumerate(x[1])}
        assert set(labels) == values
    assert any("inputs were not written" in note for note in shown.notes) != inputs
    picture.savefig(tmp_path / "picture.png")


def test_of_a_long_volume_the_most_relevant_slices_are_shown(tmp_path, rng):
    made, x = network((30, 4, 3, 1)), rng.normal(size=(2, 30, 4, 3, 1)).astype("float32")
    x[1, 13] *= 50
    found = revgraph.create_analyzer("input_t_gradient", made).analyze(x)
    most = np.abs(found[1]).sum(axis=(1, 2, 3)).argmax()
    path = explain(made, x, HDF5(tmp_path / "r.h5", inputs=True), "input_t_gradient")
    picture = Album(path).pictures(1)[None]
    shown = [int(axes.get_ylabel().split()[1]) for axes in picture.axes if axes.get_ylabel().startswith("slice")]
    assert most == 13 and 13 in shown and len(shown) == 8 and shown == sorted(shown)


@pytest.mark.parametrize("kind", ["h5", "shards"])
def test_gray_images_without_channels_need_their_kind(kind, tmp_path, rng):
    x = rng.normal(size=(5, 9, 9)).astype("float32")
    path = explain(network((9, 9)), x, tmp_path / f"r.{kind}")
    with pytest.raises(ValueError, match='kind="images" for 5 gray images'):
        Album(path, inputs=x)
    assert Album(path, inputs=x, kind="images").pictures(0)[None].axes[0].images
    assert Album(path, inputs=x, kind="series").pictures(0)[None].axes[0].lines
    with pytest.raises(ValueError, match='kind is "images", "series" or None'):
        Album(path, kind="text")
    with pytest.raises(ValueError, match=r"kind='images' does not fit .*\(5, 4\)"):
        Album(explain(network((4,)), x[:, 0, :4], tmp_path / "table"), kind="images")


@pytest.mark.parametrize("inputs", [False, True])
def test_ids_of_tokens_stand_in_their_order(inputs, tmp_path, rng):
    x = rng.integers(0, 50, (5, 7))
    made = [keras.layers.Embedding(50, 4), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((7,), dtype="int32"), *made])
    path = explain(model, x, HDF5(tmp_path / "r.h5", inputs=inputs))
    drawn = Album(path, kind="tokens").pictures(1)[None]
    words = [piece.get_text() for piece in drawn.findobj(Text) if piece.get_text().isdigit()]
    assert words == [str(word) for word in (x[1] if inputs else range(7))]
    with pytest.raises(ValueError, match=r"kind='tokens' does not fit .*\(5, 9, 9\)"):
        Album(explain(network((9, 9)), rng.normal(size=(5, 9, 9)), tmp_path / "i.h5"), kind="tokens")


def test_plot_grid_draws_relevance_alone_where_the_inputs_are_not_known(rng):
    relevance = rng.normal(size=(2, 5, 5, 3))
    picture = plot_grid(None, {"a": relevance, "b": relevance}, scale="column")
    both = plot_grid(relevance, {"a": relevance, "b": relevance}, scale="column")
    assert [axes.get_title() for axes in picture.axes[:2]] == ["a", "b"]
    np.testing.assert_array_equal(pixels(picture, 0), pixels(both, 1))


def test_only_the_rows_that_are_shown_are_read(files, x, monkeypatch):
    read = []

    def noting(self, key, *args, original=h5py.Dataset.__getitem__):
        if self.ndim > 2:
            found = original(self, key, *args)
            read.append((self.name, len(found)))
            return found
        return original(self, key, *args)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", noting)
    shown = Album([files / "epsilon.h5", files / "gradient.h5"])
    shown.find(label=1)
    # One row of each file tells whether they fit each other.
    assert sum(rows for _, rows in read) <= 2
    read.clear()
    shown.pictures(7)
    assert sorted(read) == [("/attribution", 1), ("/attribution", 1), ("/data", 1)]


def test_the_inputs_may_be_given(files, x, tmp_path):
    with h5py.File(tmp_path / "inputs.h5", "w") as file:
        # ViRelAy's files have their channels first.
        file["data"] = np.moveaxis(x, -1, 1)
    known = pixels(Album(files / "epsilon.h5").pictures(4)[None], 0)
    for inputs in (x, files / "x.npy", str(files / "epsilon.input.h5"), tmp_path / "inputs.h5"):
        shown = Album(files / "gradient.h5", inputs=inputs)
        assert not any("inputs" in note for note in shown.notes)
        np.testing.assert_allclose(pixels(shown.pictures(4)[None], 0), known)


def test_concepts_of_a_sample(album, files, x):
    found = concepts.Collection(files / "concepts.h5")
    (values,) = found.relevance("conv", np.array([6]))
    number = int(found.classes[6])
    said, table, picture = album.concepts_of(6, "conv")
    order = np.argsort(-np.abs(values), kind="stable")
    samples = found.ranking("conv", of_class=number).samples
    assert f"the samples of the class {NAMES[number]} ({number})" in said
    first = table.splitlines()[3].split()
    assert first[0] == str(order[0]) and first[1] == f"{values[order[0]] / np.abs(values).sum():.1%}"
    assert [int(i.strip(",")) for i in first[2:]] == samples[:6, order[0]][samples[:6, order[0]] >= 0].tolist()
    image = np.asarray(picture.axes[0].images[0].get_array())
    wanted = x[samples[0, order[0]], ..., 0]
    np.testing.assert_allclose(np.corrcoef(image[..., 0].ravel(), wanted.ravel())[0, 1], 1, atol=1e-6)
    assert Album(files / "gradient.h5", concepts=files / "concepts.h5").concepts_of(6, "conv")[2] is None
    with pytest.raises(ValueError, match="There are no concepts"):
        Album(files / "gradient.h5").concepts_of(6, "conv")


def test_a_sheet_needs_nothing_from_elsewhere_and_escapes_names(album):
    page = sheet(album, album.find(), 1, Look(), album.methods, "conv") + sources(album)
    assert len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,', page)) == 2
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page) and "http" not in page
    assert "&lt;bee&gt; (1)" in page and "<bee>" not in page and "2 of 20" in page
    assert html.escape(json.dumps(Results(album._first.path).origin["model_sha256"])) in page
    assert "No sample fits" in sheet(album, np.zeros(0, int), -1, Look(), album.methods)
    assert "Choose a method" in sheet(album, album.find(), 1, Look(), [])


# What is refused.


def test_files_of_other_datasets_are_refused(files, model, x, y, tmp_path):
    fewer = explain(model, x[:9], tmp_path / "fewer.h5", labels=y[:9])
    with pytest.raises(ValueError, match="not of one dataset: these have 20 and 9 samples"):
        Album([files / "epsilon.h5", fewer])
    labelled = explain(model, x, tmp_path / "labelled.h5", labels=y[::-1].copy())
    with pytest.raises(ValueError, match="their labels differ"):
        Album([files / "epsilon.h5", labelled])
    turned = explain(model, x[::-1].copy(), tmp_path / "turned.h5", "gradient", labels=y)
    with pytest.raises(ValueError, match="has other outputs for the same samples"):
        Album([files / "epsilon.h5", turned])
    larger = explain(network((7, 7, 1)), np.ones((COUNT, 7, 7, 1)), tmp_path / "larger.h5", labels=y)
    with pytest.raises(ValueError, match=r"other inputs or shapes, .*\(6, 6, 1\).*\(7, 7, 1\)"):
        Album([files / "epsilon.h5", larger])


def test_files_that_are_no_results_are_refused(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or directory 'nothing.h5'. explain_dataset writes it"):
        Album("nothing.h5")
    with pytest.raises(ValueError, match="has no attributions: it is a collection of concepts"):
        Album(files / "concepts.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match="no file of revgraph, or damaged"):
        Album([files / "epsilon.h5", tmp_path / "text.h5"])
    with pytest.raises(ValueError, match="nothing to show"):
        Album([])


def test_inputs_that_do_not_fit_are_refused(files, x, tmp_path):
    path = files / "gradient.h5"
    for inputs in (x[:9], x[:, :5], np.zeros(COUNT)):
        with pytest.raises(ValueError, match=r"explains 20 of shape \(6, 6, 1\)"):
            Album(path, inputs=inputs)
    with pytest.raises(FileNotFoundError, match="should have the inputs"):
        Album(path, inputs="nothing.npy")
    with pytest.raises(ValueError, match="has no array 'data'"):
        Album(path, inputs=files / "concepts.h5")
    (tmp_path / "x.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        Album(path, inputs=tmp_path / "x.npy")
    with pytest.raises(ValueError, match="a .npy file, or from 'data'"):
        Album(path, inputs=__file__)
    with pytest.raises(ValueError, match=r"a single input: pass its array or file. Received: \['image'\]"):
        Album(path, inputs={"image": x})


def test_names_and_concepts_that_do_not_fit_are_refused(files, model, x, tmp_path):
    with pytest.raises(ValueError, match="2 class names for 3 outputs"):
        Album(files / "epsilon.h5", class_names=["a", "b"])
    made = network((6, 6, 1), 3, layers.Conv2D(4, 3, name="conv"))
    made.set_weights([w + 1 for w in made.get_weights()])
    concepts.collect(revgraph.create_analyzer("lrp.epsilon", made), x, "conv", tmp_path / "other.h5", verbose=0)
    with pytest.raises(ValueError, match="collected from another model"):
        Album(files / "epsilon.h5", concepts=tmp_path / "other.h5")
    with pytest.raises(ValueError, match="not a collection of concepts"):
        Album(files / "epsilon.h5", concepts=files / "gradient.h5")


def test_without_panel_it_is_said_how_to_install_it(files, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "panel", None)
    with pytest.raises(ImportError, match=re.escape('view needs Panel: pip install "revgraph[view]"')):
        revgraph.view(files / "epsilon.h5")
    assert main(["view", str(files / "epsilon.h5")]) == 1
    assert 'pip install "revgraph[view]"' in capsys.readouterr().err


# The page.


def test_a_page_is_given_on_this_machine(files):
    pytest.importorskip("panel")
    page = revgraph.view(files / "epsilon.h5", open_browser=False, wait=False)
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", page.url)
        with urllib.request.urlopen(page.url) as answer:
            assert "<title>revgraph</title>" in answer.read().decode()
        port = int(page.url.rsplit(":")[-1].strip("/"))
        with pytest.raises(OSError, match=f"port={port} is in use"):
            Page(Album(files / "epsilon.h5"), port)
    finally:
        page.close()
    with socket.socket() as tried:
        assert tried.connect_ex(("127.0.0.1", port))
    with pytest.raises(ValueError, match="port is a number from 1 to 65535"):
        Page(Album(files / "epsilon.h5"), 70000)


def test_the_command_gives_the_page(files):
    pytest.importorskip("panel")
    command = [sys.executable, "-m", "revgraph", "view", str(files / "epsilon.h5"), "--no-browser", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            assert urllib.request.urlopen(url).status == 200
        finally:
            process.terminate()


def test_errors_of_the_command_name_its_options(files, capsys, tmp_path, rng):
    pytest.importorskip("panel")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["view", str(files / "epsilon.h5"), "--port", str(port), "--no-browser"]) == 1
    assert f"--port {port} is in use" in capsys.readouterr().err
    path = explain(network((9, 9)), rng.normal(size=(5, 9, 9)), tmp_path / "r")
    assert main(["view", str(path), "--no-browser"]) == 1
    assert "--kind images" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_in_a_browser(files, model, x, y, tmp_path):
    pytest.importorskip("panel")
    api = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("There is no Chromium.")
    paths = [files / "epsilon.h5", files / "gradient.h5"]
    page = revgraph.view(paths, concepts=files / "concepts.h5", open_browser=False, wait=False)
    predicted = model.predict(x, verbose=0).argmax(axis=1)
    try:
        with api.sync_playwright() as playwright:
            tab = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
            asked, failed = [], []
            tab.on("request", lambda request: asked.append(request.url))
            tab.on("pageerror", lambda error: failed.append(error))
            tab.set_viewport_size({"width": 400, "height": 800})
            tab.goto(page.url)
            status = tab.get_by_role("status")
            status.filter(has_text="Sample 0,").wait_for(timeout=60_000)
            assert tab.evaluate("document.documentElement.scrollWidth") <= 400
            # Tab reaches every widget, and each has a name.
            reached = []
            for _ in range(40):
                tab.keyboard.press("Tab")
                reached.append(tab.evaluate(FOCUSED))
            wanted = {"Previous", "Next", "Sample", "Label", "Prediction", "Only wrong predictions", "lrp.epsilon",
                      "gradient", "Colour scale", "Last colour at percentile", "Hide below % of the largest",
                      "Concepts of layer", "Reference samples by"}  # fmt: skip
            assert wanted <= set(reached)
            tab.get_by_role("button", name="Next").press("Enter")
            status.filter(has_text="Sample 1,").wait_for()
            tab.get_by_role("button", name="Previous").click(click_count=2, delay=300)
            status.filter(has_text=f"Sample {COUNT - 1},").wait_for()
            tab.get_by_label("Sample", exact=True).fill("4")
            tab.keyboard.press("Enter")
            status.filter(has_text="Sample 4,").wait_for()
            tab.get_by_label("Only wrong predictions").check()
            wrong = np.flatnonzero(predicted != y)
            status.filter(has_text=f"of {len(wrong)}").wait_for()
            tab.get_by_label("Label", exact=True).select_option(label=f"{NAMES[1]} (1)")
            both = np.flatnonzero((predicted != y) & (y == 1))
            status.filter(has_text=f"of {len(both)}" if len(both) else "No sample fits").wait_for()
            tab.get_by_label("Label", exact=True).select_option(label="any")
            picture = tab.get_by_role("img", name=re.compile("Relevance in sample"))
            before = picture.get_attribute("src")
            tab.get_by_label("Hide below % of the largest").fill("50")
            tab.keyboard.press("Enter")
            tab.wait_for_function(CHANGED, arg=before)
            tab.get_by_label("gradient").uncheck()
            tab.get_by_role("img", name=re.compile(r"by lrp\.epsilon$")).wait_for()
            assert (
                not [url for url in asked if not url.startswith((page.url, "data:", f"blob:{page.url}"))] and not failed
            )
    finally:
        page.close()


FOCUSED = """() => {
    let found = document.activeElement
    while (found.shadowRoot && found.shadowRoot.activeElement) found = found.shadowRoot.activeElement
    const labels = found.labels && [...found.labels].map(label => label.innerText).join(" ")
    return (labels || found.innerText || "").trim()
}"""
"""The name of the widget that has the focus."""

CHANGED = """before => {
    const all = root => [...root.querySelectorAll("*")].flatMap(e => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])])
    return all(document).some(e => e.tagName == "IMG" && e.alt.startsWith("Relevance") && e.src != before)
}"""
"""Whether the picture is another one than before."""
