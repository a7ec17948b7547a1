"""`concepts.clusters`: the spectral embedding against dense linear algebra, files that ViRelAy reads, bad input."""

import json
import re

import h5py
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import revgraph
from revgraph import concepts
from revgraph.concepts.spectral import affinity, prepared, spectral_embedding
from revgraph.datasets.results import Results
from tests.models import make, precision


def clusters(*arguments, **options):
    """Without t-SNE, which takes seconds on a busy machine."""
    return concepts.clusters(*arguments, **{"picture": None, **options})


def groups(rng, sizes=(20, 25, 15), entries=12, apart=8):
    """Points in groups far from each other, and the group of each."""
    centres = rng.normal(size=(len(sizes), entries)) * apart
    labels = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(labels))
    return (centres[labels] + rng.normal(size=(len(labels), entries)))[order], labels[order]


def dense_affinity(points, neighbors):
    """By loops, and with Python's sort."""
    count = len(points)
    directed = np.zeros((count, count))
    for i in range(count):
        far = {j: np.sqrt(np.sum((points[i] - points[j]) ** 2)) for j in range(count) if j != i}
        for j in sorted(far, key=far.get)[:neighbors]:
            directed[i, j] = 1
    return 0.5 * (directed + directed.T)


@pytest.mark.parametrize("neighbors", [1, 3, 10, 200])
def test_affinity(rng, neighbors):
    points = rng.normal(size=(30, 5))
    np.testing.assert_array_equal(affinity(points, neighbors).toarray(), dense_affinity(points, neighbors))


def test_affinity_in_blocks(rng, monkeypatch):
    points = rng.normal(size=(30, 5))
    monkeypatch.setattr("revgraph.concepts.spectral.BLOCK", 70)
    np.testing.assert_array_equal(affinity(points, 4).toarray(), dense_affinity(points, 4))


@pytest.mark.parametrize("eigenvalues", [4, 32])
def test_the_embedding_is_that_of_dense_linear_algebra(rng, eigenvalues):
    points = rng.normal(size=(60, 6))
    values, vectors = spectral_embedding(points, 10, eigenvalues)
    joined = dense_affinity(points, 10)
    degree = joined.sum(1)
    laplacian = np.eye(60) - joined / np.sqrt(degree[:, None] * degree)
    every, basis = np.linalg.eigh(laplacian)
    # Those that are farthest from 1, in descending order.
    chosen = np.sort(np.argsort(-np.abs(1 - every), kind="stable")[:eigenvalues])[::-1]
    np.testing.assert_allclose(values, every[chosen], atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-12)
    wanted = basis[:, chosen]
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    # Eigenvectors have no sign of their own.
    signs = np.sign((vectors * wanted).sum(0))
    np.testing.assert_allclose(vectors * signs, wanted, atol=1e-8)
    np.testing.assert_allclose(values[-1], 0, atol=1e-10)


def test_few_points_have_few_eigenvalues(rng):
    values, vectors = spectral_embedding(rng.normal(size=(6, 3)), 10, 32)
    assert values.shape == (5,) and vectors.shape == (6, 5)


def test_equal_points_do_no_harm(rng):
    points = np.repeat(rng.normal(size=(4, 3)), 5, axis=0)
    values, vectors = spectral_embedding(points, 3, 8)
    assert np.isfinite(values).all() and np.isfinite(vectors).all()


def write(path, maps, labels, predictions=None, index=None):
    """A file as `explain_dataset` writes it, of heat maps (samples, height, width)."""
    origin = {"failures": {}, "samples": len(maps), "model": "m", "method": "lrp", "neuron_selection": None}
    with h5py.File(path, "w") as file:
        # Two channels that add up to the map.
        noise = np.random.default_rng(1).normal(size=maps.shape)
        file["attribution"] = np.stack([maps - noise, noise], axis=1).astype("float32")
        file["label"] = np.asarray(labels, "uint16")
        file["index"] = np.arange(len(maps), dtype="uint32") if index is None else np.asarray(index, "uint32")
        file["prediction"] = np.eye(8, dtype="float32")[labels] if predictions is None else predictions
        for name, value in origin.items():
            file.attrs[name] = value if isinstance(value, str | int) else json.dumps(value)
    return path


@pytest.fixture
def made(rng, tmp_path):
    """Heat maps of two classes, and the strategy of each sample. The first class has three strategies."""
    points, strategy = groups(rng, (30, 25, 20), 16)
    others = rng.normal(size=(12, 16))
    maps = np.concatenate([points, others])
    # All sums are one, as `prepared` makes them, so that distances are those of the points.
    maps -= maps.mean(1, keepdims=True) - 1 / 16
    labels = np.repeat([3, 5], [75, 12])
    order = rng.permutation(87)
    path = write(tmp_path / "relevance.h5", maps.reshape(-1, 4, 4)[order], labels[order], index=10 + np.arange(87))
    return path, labels[order], np.concatenate([strategy, np.zeros(12, int)])[order]


def test_strategies_are_found(made):
    path, labels, strategy = made
    # The points of a group meet in as many eigenvectors as there are groups.
    found = clusters(path, eigenvalues=3)
    usual = clusters(path, path.with_name("b.h5"))[3]
    assert usual.suggested == 3 and usual.usual == "spectral-03"
    assert adjusted_rand_score(strategy[labels == 3], usual.clusters["spectral-03"]) == 1
    assert set(found.strategies) == {3, 5} and found.path == path.with_name("relevance.spectral.h5")
    third = found[3]
    assert np.array_equal(third.index, 10 + np.flatnonzero(labels == 3))
    assert adjusted_rand_score(strategy[labels == 3], third.clusters["kmeans-03"]) == 1
    assert adjusted_rand_score(strategy[labels == 3], third.clusters["agglomerative-03"]) == 1
    members = third.members("kmeans-03", 0)
    assert len(members) == (third.clusters["kmeans-03"] == 0).sum()
    centre = third.embedding[third.clusters["kmeans-03"] == 0].mean(0)
    distance = {i: np.linalg.norm(e - centre) for i, e in zip(third.index, third.embedding, strict=True)}
    assert distance[members[0]] == min(distance[i] for i in members)
    assert "3" in str(found) and "clusters of relevance.h5" in repr(found)


def test_heat_maps_are_sums_over_channels_that_add_up_to_one(made):
    path, _, _ = made
    results, rows = Results(path), np.array([0, 4, 7])
    with h5py.File(path) as file:
        raw = file["attribution"][:].astype("float64")[rows]
    for variant, wanted in {
        "spectral": raw.sum(1), "absspectral": np.abs(raw).sum(1), "fullspectral": raw,
    }.items():  # fmt: skip
        wanted = wanted.reshape(3, -1)
        np.testing.assert_allclose(prepared(results, rows, variant), wanted / wanted.sum(1, keepdims=True), atol=1e-12)


def test_the_file_has_the_format_of_virelay(made):
    path, labels, _ = made
    found = clusters(path, k=[2, 3], eigenvalues=5, picture="tsne")
    with h5py.File(found.path) as file:
        # Each group is a category.
        assert list(file) == ["00000003", "00000005"]
        for name, label in (("00000003", 3), ("00000005", 5)):
            group = file[name]
            assert set(group) == {"index", "embedding", "cluster"}
            assert group["index"].dtype == "uint32"
            assert np.array_equal(group["index"][:], 10 + np.flatnonzero(labels == label))
            spectral = group["embedding/spectral"]
            assert spectral.dtype == "float32" and spectral.shape == ((labels == label).sum(), 5)
            np.testing.assert_allclose(spectral.attrs["eigenvalue"], found[label].eigenvalues, atol=1e-6)
            assert group["embedding/tsne"].shape[1] == 2 and group["embedding/tsne"].attrs["embedding"] == "spectral"
            assert set(group["cluster"]) == {
                "spectral-02", "spectral-03", "kmeans-02", "kmeans-03", "agglomerative-02", "agglomerative-03",
                "hdbscan",
            }  # fmt: skip
            kmeans = group["cluster/kmeans-03"]
            assert kmeans.attrs["k"] == 3 and kmeans.attrs["embedding"] == "spectral"
            assert np.array_equal(kmeans.attrs["index"], np.arange(5))
            assert group["cluster/spectral-03"].attrs["index"].tolist() == [2, 3, 4]
            assert np.array_equal(kmeans[:], found[label].clusters["kmeans-03"])


def test_repeated_runs_agree(made, tmp_path):
    path, _, _ = made
    first, second = (clusters(path, tmp_path / name, classes=[3], picture="tsne")[3] for name in ("a.h5", "b.h5"))
    assert np.array_equal(first.embedding, second.embedding) and np.array_equal(first.picture, second.picture)
    assert all(np.array_equal(first.clusters[n], second.clusters[n]) for n in first.clusters)


def test_classes_by_prediction_and_without(made, tmp_path):
    path, labels, _ = made
    assert set(clusters(path, tmp_path / "a.h5", by="prediction").strategies) == {3, 5}
    every = clusters(path, tmp_path / "b.h5", by=None)
    assert list(every.strategies) == [None] and len(every[None].rows) == len(labels)
    only = clusters(path, tmp_path / "c.h5", classes=[5], k=2)
    assert list(only.strategies) == [5]
    with h5py.File(every.path) as file:
        assert list(file) == ["all"]


def test_methods_of_the_user(made, tmp_path):
    from sklearn.cluster import Birch

    path, _, strategy = made
    found = clusters(path, tmp_path / "a.h5", methods={"birch": Birch(n_clusters=3)})
    assert list(found[3].clusters) == ["birch"]
    found = clusters(path, tmp_path / "b.h5", methods="dbscan")
    assert list(found[3].clusters) == ["dbscan"]


@pytest.mark.parametrize("kind", ["h5", "zarr", "shards"])
def test_all_formats_of_attributions(kind, tmp_path, rng):
    if kind == "zarr":
        pytest.importorskip("zarr")
    with precision("float64"):
        analyzer = revgraph.create_analyzer("lrp.epsilon", make("cnn"))
    x = rng.normal(size=(30, 8, 8, 2))
    path = tmp_path / {"h5": "r.h5", "zarr": "r.zarr", "shards": "shards"}[kind]
    where = revgraph.datasets.NpyShards(path, shard_size=7) if kind == "shards" else path
    revgraph.explain_dataset(analyzer, x, where, verbose=0)
    rows = np.array([1, 8, 20, 29])
    np.testing.assert_allclose(
        Results(path).attributions(rows), np.moveaxis(analyzer.analyze(x)[rows], -1, 1), atol=1e-5
    )
    assert np.array_equal(Results(path).index, np.arange(30))
    found = clusters(path, by=None, k=3)
    assert found.path.parent == tmp_path and len(found[None].rows) == 30


def test_several_inputs_are_named(tmp_path, rng):
    analyzer = revgraph.create_analyzer("gradient", make("two_inputs"))
    x = {"image": rng.normal(size=(12, 6, 6, 1)), "table": rng.normal(size=(12, 4))}
    for name in ("r.h5", "shards"):
        revgraph.explain_dataset(analyzer, x, tmp_path / name, verbose=0)
        with pytest.raises(KeyError, match="Which input is meant.*'image', 'table'"):
            clusters(tmp_path / name, by=None, k=2)
        with pytest.raises(KeyError, match="has no input 'sound'"):
            clusters(tmp_path / name, by=None, k=2, input_name="sound")
        assert len(clusters(tmp_path / name, by=None, k=2, input_name="image")[None].rows) == 12


def test_the_project_names_the_analysis(tmp_path, rng):
    yaml = pytest.importorskip("yaml")
    with precision("float64"):
        analyzer = revgraph.create_analyzer("lrp.epsilon", make("cnn"))
    x = rng.normal(size=(30, 8, 8, 2))
    where = revgraph.datasets.HDF5(tmp_path / "r.h5", project=True)
    revgraph.explain_dataset(analyzer, x, where, verbose=0, labels=np.zeros(30, int))
    for _ in range(2):
        found = clusters(tmp_path / "r.h5", overwrite=True)
    clusters(tmp_path / "r.h5", variant="absspectral")
    assert found.project == tmp_path / "project.yaml"
    project = yaml.safe_load(found.project.read_text())["project"]
    assert project["analyses"] == [
        {"analysis_method": "spectral", "sources": ["r.spectral.h5"]},
        {"analysis_method": "absspectral", "sources": ["r.absspectral.h5"]},
    ]
    assert project["attributions"]["sources"] == ["r.h5"]
    label_map = json.loads((tmp_path / "r.label-map.json").read_text())
    with h5py.File(found.path) as file:
        assert set(file) <= {entry["word_net_id"] for entry in label_map}


def test_a_project_of_others_stays_as_it_is(made):
    path, _, _ = made
    for text in (
        "project: {name: other}\n",
        "project:\n  attributions:\n    sources:\n    - other.h5\n  analyses: []\n",
    ):
        (path.parent / "project.yaml").write_text(text)
        assert clusters(path, overwrite=True).project is None
        assert (path.parent / "project.yaml").read_text() == text


# Bad input.


def test_classes_with_few_samples_are_left_out(rng, tmp_path):
    path = write(tmp_path / "r.h5", rng.normal(size=(23, 4, 4)), np.repeat([1, 2], [20, 3]))
    with pytest.warns(UserWarning, match="Left out of the clusters, .* class 2 has 3"):
        found = clusters(path)
    assert list(found.strategies) == [1]
    with pytest.raises(ValueError, match="class 2 has 3. Fewer clusters"):
        clusters(path, overwrite=True, classes=[2])
    more = write(tmp_path / "more.h5", rng.normal(size=(26, 4, 4)), np.repeat([1, 2], [20, 6]))
    with pytest.raises(ValueError, match="class 2 has 6. Fewer clusters"):
        clusters(more, classes=[2])
    assert list(clusters(more, classes=[2], k=2).strategies) == [2]
    with pytest.raises(KeyError, match=re.escape("has no samples of class 7. It has [1, 2]")):
        clusters(path, overwrite=True, classes=[7])
    with pytest.raises(ValueError, match="too few to be clustered: 31 or more"):
        clusters(path, overwrite=True, by=None, k=30)


def test_heat_maps_of_nothing(rng, tmp_path):
    maps = rng.normal(size=(20, 4, 4))
    maps[6] = 0
    path = write(tmp_path / "r.h5", maps, np.zeros(20, int), index=np.arange(20) + 100)
    with h5py.File(path, "a") as file:
        file["attribution"][6] = 0
    with pytest.raises(ValueError, match="zero for the samples 106. Leave them out"):
        clusters(path)
    assert not path.with_name("r.spectral.h5").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "full"}, "variant is one of 'spectral'"),
        ({"by": "name"}, 'by is "label", "prediction" or None'),
        ({"neighbors": 0}, "neighbors must be a positive int"),
        ({"eigenvalues": 0}, "eigenvalues must be a positive int"),
        ({"k": [2, 0]}, "k must be a positive int"),
        ({"methods": ["means"]}, "methods are some of 'spectral'"),
        ({"picture": "pca"}, 'picture is "tsne", "umap" or None'),
    ],
)
def test_wrong_arguments(made, options, message):
    with pytest.raises(ValueError, match=message):
        clusters(made[0], **options)


def test_files_that_are_no_attributions(made, tmp_path):
    path, _, _ = made
    with pytest.raises(FileNotFoundError, match="explain_dataset writes it"):
        clusters(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match="no file of revgraph, or damaged"):
        clusters(tmp_path / "text.h5")
    clusters(path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        clusters(path)
    with h5py.File(path, "a") as file:
        del file["label"]
    with pytest.raises(ValueError, match="no classes by label. Pass by=None"):
        clusters(path, overwrite=True)


def test_what_is_missing_is_said(made, monkeypatch):
    import sys

    with pytest.raises(ImportError, match="needs umap-learn: pip install umap-learn"), monkeypatch.context() as patch:
        patch.setitem(sys.modules, "umap", None)
        clusters(made[0], picture="umap")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=re.escape('clusters needs scikit-learn: pip install "revgraph[concepts]"')):
        clusters(made[0])


def test_the_attributions_are_never_the_output(rng, tmp_path):
    path = write(tmp_path / "r.h5", rng.normal(size=(20, 4, 4)), np.zeros(20, int))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="has the attributions themselves"):
        clusters(path, out=path, overwrite=True)
    assert path.read_bytes() == before
