"""Paths and names of files: what every system allows, and nothing that is open is replaced."""

import os
import shutil
import urllib.parse

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.datasets import staging
from revgraph.saving.names import file_name
from tests.models import mlp, randomized

X = np.random.default_rng(0).normal(size=(6, 6)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return randomized(mlp())


@pytest.fixture(scope="module")
def analyzer(model):
    return revgraph.create_analyzer("gradient", model)


def explained(analyzer, sink, **options):
    return revgraph.explain_dataset(analyzer, X, sink, batch_size=2, verbose=0, **options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("image", "image"),
        ("größe 2", "größe 2"),
        ("a:b", "a%3Ab"),
        ('<>"|?*\\/', "%3C%3E%22%7C%3F%2A%5C%2F"),
        ("50%", "50%25"),
        ("end.", "end%2E"),
        ("end ", "end%20"),
        ("CON", "%43ON"),
        ("nul.txt", "%6Eul.txt"),
        ("COM1", "%43OM1"),
        ("console", "console"),
        ("a\nb", "a%0Ab"),
        ("..", ".%2E"),
    ],
)
def test_names_in_the_names_of_files(name, expected):
    assert file_name(name) == expected
    assert urllib.parse.unquote(expected) == name


ODD = ["a:b", "CON", "x<1>", "dot.", "deep/one"]


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@pytest.mark.parametrize("where", ["out", "out.zarr", "out.h5"])
def test_names_of_inputs_that_windows_does_not_allow(where, tmp_path):
    if where == "out.zarr":
        pytest.importorskip("zarr")
    inputs = {name: keras.Input((2,), name=f"i{i}") for i, name in enumerate(ODD)}
    model = randomized(keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(list(inputs.values())))))
    analyzer = revgraph.create_analyzer("gradient", model)
    x = {name: X[:, i : i + 2] for i, name in enumerate(ODD)}
    revgraph.explain_dataset(analyzer, x, tmp_path / where, verbose=0)
    expected = analyzer.analyze(x)
    assert expected.keys() == set(ODD)
    for path in tmp_path.rglob("*"):
        assert file_name(path.name.replace("%", "")) == path.name.replace("%", "")
    for name in ODD:
        if where == "out.h5":
            import h5py

            with h5py.File(tmp_path / where) as file:
                found = file[f"attribution/{name}"][:].reshape(X.shape[0], 2)
        elif where == "out.zarr":
            import zarr

            found = zarr.open_group(tmp_path / where, mode="r")[f"attribution/{file_name(name)}"][:]
        else:
            found = np.load(tmp_path / where / f"attribution.{file_name(name)}-00000.npy")
        np.testing.assert_allclose(found, expected[name], rtol=1e-6)


class Place(os.PathLike):
    """A path that is no `Path`."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.mark.parametrize("kind", [str, Place])
def test_spaces_and_letters_of_other_alphabets(kind, analyzer, model, tmp_path):
    folder = tmp_path / "Größe 1 & ~ 結果"
    folder.mkdir()
    expected = analyzer.analyze(X, 1)
    analyzer.save(kind(folder / "änalyzer one.revgraph"))
    again = revgraph.load_analyzer(kind(folder / "änalyzer one.revgraph"))
    np.testing.assert_array_equal(again.analyze(X, 1), expected)
    model.save(folder / "mödel one.keras")
    loaded = revgraph.load_model(kind(folder / "mödel one.keras"))
    np.testing.assert_allclose(loaded(X), model(X), rtol=1e-6)
    analyzer.export(kind(folder / "expört one"))
    assert revgraph.load_model(kind(folder / "expört one"), signature="serving_default").sites
    for name in ("öut one", "öut one.h5"):
        assert explained(analyzer, kind(folder / name), neuron_selection=1).explained == len(X)


def open_paths():
    """What this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            # The listing itself.
            continue
    return found


@pytest.fixture
def like_windows(monkeypatch, tmp_path):
    """A system on which files that are open can be neither replaced nor removed, and which has no locks."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("there is no /proc that says which files are open")

    def refusing(function):
        def careful(*paths, **kwargs):
            places = [os.path.realpath(path) for path in paths if isinstance(path, str | os.PathLike)]
            for opened in open_paths():
                if any(opened == place or opened.startswith(place + os.sep) for place in places):
                    raise PermissionError(13, "The file is in use by this process", opened)
            return function(*paths, **kwargs)

        return careful

    for name in ("replace", "rename", "unlink", "remove", "rmdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    # Otherwise files are removed by their names in directories that are open.
    monkeypatch.setattr(shutil, "_use_fd_functions", False)
    monkeypatch.setattr(staging, "fcntl", None)
    yield
    assert not [path for path in open_paths() if path.startswith(os.path.realpath(tmp_path))]


def test_such_a_system_refuses(like_windows, tmp_path):
    with open(tmp_path / "a", "w"), pytest.raises(PermissionError):
        os.replace(tmp_path / "a", tmp_path / "b")


def test_saving_and_exporting_replace_nothing_that_is_open(like_windows, analyzer, tmp_path):
    for overwrite in (False, True):
        analyzer.save(tmp_path / "a.revgraph", overwrite=overwrite)
        revgraph.load_analyzer(tmp_path / "a.revgraph")
        analyzer.export(tmp_path / "e", overwrite=overwrite)
        revgraph.load_model(tmp_path / "e")
    assert {path.name for path in tmp_path.iterdir()} == {"a.revgraph", "e"}


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_model_that_was_read_is_not_open(ending, like_windows, model, tmp_path):
    path = tmp_path / f"m{ending}"
    model.save(path)
    loaded = revgraph.load_model(path)
    os.replace(path, tmp_path / "other")
    (tmp_path / "bad.h5").write_bytes((tmp_path / "other").read_bytes()[:3000])
    with pytest.raises(ValueError):
        revgraph.load_model(tmp_path / "bad.h5")
    os.unlink(tmp_path / "bad.h5")
    assert loaded.layers


@pytest.mark.parametrize("where", ["out", "out.h5", "out.zarr"])
def test_datasets_replace_nothing_that_is_open(where, like_windows, analyzer, tmp_path):
    if where == "out.zarr":
        pytest.importorskip("zarr")
    out = tmp_path / where
    for options in ({}, {"resume": True}, {"overwrite": True}):
        assert explained(analyzer, out, **options).explained == len(X)
        assert [path.name for path in tmp_path.iterdir()] == [where]

    def broken():
        yield X[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        revgraph.explain_dataset(analyzer, broken(), out, verbose=0, overwrite=True)
    report = revgraph.explain_dataset(analyzer, iter([X[:2], X[2:]]), out, verbose=0)
    assert report.resumed == 2 and [path.name for path in tmp_path.iterdir()] == [where]


def test_a_run_that_was_interrupted_when_it_tidied_up(like_windows, analyzer, tmp_path, monkeypatch):
    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(staging.Staging, "remove", killed)
        explained(analyzer, tmp_path / "out")
    assert explained(analyzer, tmp_path / "out", resume=True).resumed == len(X)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
