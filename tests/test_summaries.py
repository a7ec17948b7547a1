"""`datasets.summarize` and `to_dataframe`: mean relevance over many samples."""

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.datasets import HDF5, summarize, to_dataframe

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(7, 3))
CLASSES = np.array([0, 2, 2, 0, 2, 2, 2])


def test_the_mean_of_all_samples():
    found = summarize(TABLE, feature_names=["a", "b", "c"])
    assert found.classes == ("all",) and found.counts.tolist() == [7] and found.is_tabular
    np.testing.assert_allclose(found.absolute, [np.abs(TABLE).mean(axis=0)])
    np.testing.assert_allclose(found.signed, [TABLE.mean(axis=0)])
    largest = "abc"[np.abs(TABLE).mean(axis=0).argmax()]
    assert str(found).splitlines()[3].startswith(largest)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_classes_that_occur(batch_size):
    found = summarize(TABLE, CLASSES, class_names=["cat", "dog", "fish"], batch_size=batch_size)
    assert found.classes == ("cat", "fish") and found.counts.tolist() == [2, 5]
    np.testing.assert_allclose(
        found.absolute, [np.abs(TABLE[kept]).mean(axis=0) for kept in (CLASSES == 0, CLASSES == 2)]
    )
    np.testing.assert_allclose(found.overall, np.abs(TABLE).mean(axis=0))


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """Files of tables and of images, their relevance, labels and predictions."""
    keras.utils.set_random_seed(0)
    folder, found = tmp_path_factory.mktemp("explained"), {}
    for name, shape in (("table", (3,)), ("image", (4, 5, 2))):
        model = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(3)])
        x = RANDOM.normal(size=(7, *shape)).astype("float32")
        analyzer = revgraph.create_analyzer("lrp.epsilon", model)
        for output in (HDF5(folder / f"{name}.h5"), folder / name, folder / f"{name}.zarr"):
            if not str(output).endswith(".zarr") or pytest.importorskip("zarr"):
                revgraph.explain_dataset(analyzer, (x, CLASSES), output)
        found[name] = analyzer.analyze(x), model.predict(x, verbose=0).argmax(axis=1)
    return folder, found


@pytest.mark.parametrize("ending", [".h5", "", ".zarr"])
@pytest.mark.parametrize("name", ["table", "image"])
def test_files_say_the_same_as_arrays(explained, name, ending):
    folder, found = explained
    relevance, predictions = found[name]
    for by, classes in ((None, None), ("label", CLASSES), ("prediction", predictions)):
        ours, expected = summarize(folder / f"{name}{ending}", by), summarize(relevance, classes)
        assert ours.classes == expected.classes and ours.counts.tolist() == expected.counts.tolist()
        np.testing.assert_allclose(ours.absolute, expected.absolute, rtol=1e-5)
        np.testing.assert_allclose(ours.signed, expected.signed, rtol=1e-4, atol=1e-6)
    if name == "image":
        np.testing.assert_allclose(expected.overall, np.moveaxis(np.abs(relevance).mean(axis=0), -1, 0), rtol=1e-5)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_predictions_of_one_unit_need_two_names(activation, tmp_path):
    """A logit of 0.3 is the second class, and so is a probability of 0.6."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, activation=activation, kernel_initializer="ones")])
    x = np.array([[-1.0], [0.3], [0.4], [2.0]], "float32")
    revgraph.explain_dataset(revgraph.create_analyzer("gradient", model), x, tmp_path / "r.h5")
    found = summarize(tmp_path / "r.h5", "prediction", class_names=["no", "yes"])
    assert found.classes == ("no", "yes") and found.counts.tolist() == [1, 3]
    with pytest.raises(ValueError, match="one output.*class_names"):
        summarize(tmp_path / "r.h5", "prediction")


def test_names_of_directories_are_no_names_of_other_outputs(tmp_path):
    for i, name in enumerate(("ape", "bee")):
        (tmp_path / "images" / name).mkdir(parents=True)
        keras.utils.save_img(tmp_path / "images" / name / "1.png", np.full((4, 4, 3), 200.0 * i))
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(3)])
    revgraph.explain_dataset(revgraph.create_analyzer("gradient", model), tmp_path / "images", tmp_path / "r.h5")
    assert summarize(tmp_path / "r.h5", "label").classes == ("ape", "bee")
    assert all(name.startswith("class ") for name in summarize(tmp_path / "r.h5", "prediction").classes)
    with pytest.raises(ValueError, match="2 class names for 3 outputs"):
        summarize(tmp_path / "r.h5", "prediction", class_names=["ape", "bee"])


def test_classes_of_images_print_their_sums(explained):
    relevance, _ = explained[1]["image"]
    found = summarize(relevance, CLASSES)
    expected = np.abs(relevance[CLASSES == 2]).sum(axis=(1, 2, 3)).mean()
    assert f"{expected:.4g}" in str(found) and "class 2" in str(found)


def test_pictures_show_the_means(explained):
    bars = summarize(TABLE).plot().axes[0]
    np.testing.assert_allclose(sorted(p.get_width() for p in bars.patches), sorted(np.abs(TABLE).mean(axis=0)))
    matrix = summarize(TABLE, CLASSES).plot(top=2).axes[0]
    assert matrix.images[0].get_array().shape == (2, 2)
    relevance, _ = explained[1]["image"]
    maps = summarize(relevance, CLASSES).plot().axes[0]
    expected = np.abs(relevance[CLASSES == 0]).mean(axis=0).sum(axis=-1)
    np.testing.assert_allclose(maps.images[0].get_array(), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="plot_volume"):
        summarize(np.ones((2, 3, 3, 3, 1))).plot()


def test_tables_of_pandas():
    pytest.importorskip("pandas")
    frame = to_dataframe(TABLE, ["a", "b", "c"], list("tuvwxyz"))
    assert list(frame.columns) == ["a", "b", "c"] and frame.loc["u", "b"] == TABLE[1, 1]
    means = summarize(TABLE, CLASSES, feature_names=["a", "b", "c"]).to_dataframe()
    np.testing.assert_allclose(means.loc["b", "class 2"], np.abs(TABLE[CLASSES == 2, 1]).mean())
    with pytest.raises(ValueError, match="absolute"):
        summarize(np.ones((2, 3, 3, 1))).to_dataframe()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3),), "nothing to summarize"),
        ((np.ones((0, 3)),), "nothing to summarize"),
        ((TABLE, "label"), "class of each sample"),
        ((TABLE, "colour"), '"label", "prediction"'),
        ((TABLE, CLASSES[:3]), r"\(7,\)"),
        ((TABLE, CLASSES * 0.5), "whole number"),
        ((np.where(TABLE > 0, np.nan, TABLE),), "not finite"),
    ],
)
def test_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        summarize(*arguments)


def test_names_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="2 feature names"):
        summarize(TABLE, feature_names=["a", "b"])
    with pytest.raises(ValueError, match="2 class names"):
        summarize(TABLE, CLASSES, class_names=["a", "b"])
    with pytest.raises(FileNotFoundError):
        summarize(tmp_path / "no.h5")
    with pytest.raises(ValueError, match=r"\(samples, features\)"):
        to_dataframe(np.ones((2, 3, 1)))
    with pytest.raises(ValueError, match="index has 2 entries for 7"):
        to_dataframe(TABLE, index=[0, 1])
