"""`clusters`: the strategies of a model, found as clusters of its heat maps (SpRAy). Needs scikit-learn."""

import dataclasses
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from revgraph.concepts.spectral import VARIANTS, plane, prepared, spectral_embedding
from revgraph.datasets import hdf5
from revgraph.datasets.results import Results
from revgraph.datasets.virelay import add_analysis, category_name
from revgraph.extras import needed
from revgraph.graph.arguments import check_count
from revgraph.graph.callers import outside
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import PathLike

if TYPE_CHECKING:
    from revgraph.reverse.pictures import Picture

METHODS = ("spectral", "kmeans", "agglomerative", "hdbscan")
"""The methods of clustering by default."""

LEAST = 5
"""So few samples can be clustered at least; HDBSCAN takes so many for a cluster."""

_NUMBERED = re.compile(r"(?:spectral|kmeans|agglomerative)-(\d+)")
"""The names of clusterings with a number of clusters."""


@dataclasses.dataclass(frozen=True, eq=False)
class Strategies:
    """The clusters of the samples of one class.

    Args:
        name: Its name in ViRelAy, such as `"00000003"`.
        label: The class; None where samples of all classes are taken together.
        rows: Positions of the samples in the file of attributions, (samples,).
        index: Their indices in the dataset, (samples,).
        eigenvalues: Eigenvalues of the Laplacian, in descending order, (eigenvalues,). Each group of samples that
            has no neighbours outside of it adds one eigenvalue of zero.
        embedding: The eigenvectors, with rows of length 1, (samples, eigenvalues).
        picture: The samples in the plane, (samples, 2): t-SNE or UMAP of the embedding. None if there is none.
        clusters: The cluster of each sample by the name of the clustering, int32 (samples,) each. -1 is no cluster.
    """

    name: str
    label: int | None
    rows: np.ndarray
    index: np.ndarray
    eigenvalues: np.ndarray
    embedding: np.ndarray
    picture: np.ndarray | None
    clusters: Mapping[str, np.ndarray]

    @property
    def suggested(self) -> int:
        """The number of clusters behind which the eigenvalues have their largest gap; 1 stands for one strategy.

        Numbers of clusters that were not asked for are not suggested. Eigenvalues above 1 do not count: they belong to
        eigenvectors that neighbours do not share.
        """
        asked = [int(found[1]) for name in self.clusters if (found := _NUMBERED.fullmatch(name))]
        ascending = np.sort(self.eigenvalues[self.eigenvalues < 1])[: max(asked, default=len(self.eigenvalues)) + 1]
        return int(np.argmax(np.diff(ascending))) + 1 if len(ascending) > 1 else 1

    @property
    def usual(self) -> str:
        """The name of the clustering into the suggested number of clusters; of the first one if there is none."""
        name = f"spectral-{self.suggested:02d}"
        return name if name in self.clusters else next(iter(self.clusters))

    def members(self, clustering: str, cluster: int) -> np.ndarray:
        """Indices in the dataset of the samples of a cluster, those nearest to its centre first.

        Raises:
            KeyError: There is no such clustering.
        """
        if clustering not in self.clusters:
            raise KeyError(f"There is no clustering {clustering!r}. There are {', '.join(map(repr, self.clusters))}.")
        inside = np.flatnonzero(self.clusters[clustering] == cluster)
        points = self.embedding[inside]
        distance = np.linalg.norm(points - points.mean(axis=0, keepdims=True), axis=1) if len(inside) else points[:, 0]
        return self.index[inside[np.argsort(distance, kind="stable")]]


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters(Tabular):
    """The strategies of a model: `strategies[label]` for each class, or `strategies[None]` for all samples.

    Args:
        source: The file of attributions.
        path: The file that was written.
        strategies: The clusters by class.
        project: The project of ViRelAy that shows them; None if there is none.
    """

    source: Path
    path: Path
    strategies: Mapping[int | None, Strategies]
    project: Path | None = None

    def __getitem__(self, label: int | None) -> Strategies:
        if label not in self.strategies:
            raise KeyError(f"There are no clusters of {label!r}. There are those of {list(self.strategies)}.")
        return self.strategies[label]

    def mean_map(self, label: int | None, clustering: str, cluster: int) -> np.ndarray:
        """The mean heat map of a cluster, (height, width), each map divided by its sum of absolute values first."""
        found = self[label]
        found.members(clustering, cluster)
        rows = found.rows[found.clusters[clustering] == cluster]
        maps = Results(self.source).attributions(rows).sum(axis=1, dtype=np.float64)
        sizes = np.abs(maps).sum(axis=tuple(range(1, maps.ndim)), keepdims=True)
        mean: np.ndarray = (maps / np.where(sizes > 0, sizes, 1)).mean(axis=0)
        return mean

    def plot(self, label: int | None = None, clustering: str | None = None, **options: Any) -> "Picture":
        """Draws eigenvalues, samples and the mean heat map of each cluster; see `plot_clusters`."""
        from revgraph.visualize import plot_clusters

        return plot_clusters(self, label, clustering, **options)

    def table(self) -> Table:
        """One row per class: its samples, the number of strategies that the eigenvalues suggest, and their sizes."""
        rows = []
        for label, found in self.strategies.items():
            row = ["all" if label is None else label, len(found.rows), found.suggested, "", ""]
            if found.suggested > 1:
                numbers, sizes = np.unique(found.clusters[found.usual], return_counts=True)
                pairs = zip(numbers, sizes, strict=True)
                row[3:] = found.usual, ", ".join(str(size) for number, size in pairs if number >= 0)
            rows.append(row)
        header = ("class", "samples", "strategies by the largest gap", "clustering", "sizes")
        return Table(header, rows, title=repr(self)[1:-1])

    def __repr__(self) -> str:
        return f"<{self.path}: clusters of {self.source.name}>"


def clusters(
    file: PathLike,
    out: PathLike | None = None,
    *,
    variant: str = "spectral",
    by: str | None = "label",
    classes: Sequence[int] | None = None,
    neighbors: int = 10,
    eigenvalues: int = 32,
    k: Sequence[int] = tuple(range(2, 9)),
    methods: Sequence[str] | Mapping[str, Any] = METHODS,
    picture: str | None = "tsne",
    input_name: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Clusters:
    r"""Finds the strategies of a model as clusters of its heat maps: spectral relevance analysis (SpRAy).

    Heat maps are summed over channels and divided by their sum. Each sample is joined to its nearest neighbours by
    Euclidean distance: A_ij is 1 if j is one of the k nearest of i, and the mean with its transpose makes it symmetric.
    With the degrees D the symmetric normalised Laplacian is I - D^{-1/2} A D^{-1/2}. Its eigenvectors for the
    eigenvalues of D^{-1/2} A D^{-1/2} that are largest in magnitude, with rows of length 1, are the embedding that is
    clustered. These are the definitions of CoRelAy. The file has ViRelAy's format, and `project.yaml` beside the
    attributions names it if explain_dataset wrote that.

    A strategy that only part of a class shares, such as the use of a watermark, is a cluster of its own.

    Args:
        file: Attributions that `explain_dataset` wrote: HDF5, Zarr or `.npy` shards.
        out: The HDF5 file to write. By default `NAME.VARIANT.h5` beside the attributions.
        variant: `"spectral"`: sums over channels; `"absspectral"`: sums of absolute values; `"fullspectral"`: all
            channels.
        by: What makes a class: `"label"` of the samples, `"prediction"` of the model, or None for all samples at once.
        classes: Only these classes.
        neighbors: Number of nearest neighbours.
        eigenvalues: Number of eigenvectors. Fewer are taken if there are not so many samples.
        k: Numbers of clusters, for methods that take one.
        methods: Which of `"spectral"`, `"kmeans"`, `"agglomerative"`, `"dbscan"` and `"hdbscan"`; or a dict from names
            to objects with a method `fit_predict`, as those of scikit-learn. `"spectral"` is k-means on the k
            eigenvectors of the smallest eigenvalues; the others take all eigenvectors, as CoRelAy does.
        picture: How samples are laid out in the plane: by `"tsne"`, by `"umap"` if umap-learn is installed, or not at
            all, None.
        input_name: Which input, if the model has several.
        seed: Makes the result repeatable.
        overwrite: Replace a file that exists.

    Returns:
        `Clusters`, which prints as a table and draws itself with `plot`.

    Raises:
        FileExistsError: The output exists.
        ImportError: scikit-learn is missing, or umap-learn where it is asked for.
        KeyError: The model has several inputs, or there are no samples of a class.
        ValueError: It is no output of `explain_dataset`, an argument is illegal, or a class has too few samples.

    References:
        Lapuschkin et al., "Unmasking Clever Hans predictors and assessing what machines really learn", Nature
        Communications 10, 2019. Anders et al., "Software for dataset-wide XAI", arXiv:2106.13200, 2021.

    Example:

        revgraph.explain_dataset(analyzer, x, "relevance.h5", labels=y)
        found = revgraph.concepts.clusters("relevance.h5")
        print(found)
        found.plot(3)
    """
    needed("sklearn", "clusters")
    ks = _checked(variant, by, neighbors, eigenvalues, k, picture)
    makers = _methods(methods, ks, seed)
    results = Results(file, input_name)
    target = Path(out) if out is not None else results.path.with_name(f"{results.path.stem}.{variant}.h5")
    if target.exists() and results.path.exists() and target.samefile(results.path):
        raise ValueError(f"{str(target)!r} has the attributions themselves. Name another output.")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{str(target)!r} exists. Pass overwrite=True to replace it, or name another output.")
    found: dict[int | None, Strategies] = {}
    for label, rows in _groups(results, by, classes, max([*ks, LEAST - 1]) + 1).items():
        maps = prepared(results, rows, variant)
        values, embedding = spectral_embedding(maps, neighbors, eigenvalues, seed)
        labels = {name: np.asarray(make.fit_predict(embedding), np.int32) for name, make in makers.items()}
        name = "all" if label is None else category_name(label)
        points = None if picture is None else plane(embedding, picture, seed)
        found[label] = Strategies(name, label, rows, results.index[rows], values, embedding, points, labels)
    _write(target, found.values(), results, variant, picture)
    return Clusters(results.path, target, found, add_analysis(results.path, variant, target))


def _checked(variant, by, neighbors, eigenvalues, k, picture):
    if variant not in VARIANTS:
        raise ValueError(f"variant is one of {', '.join(map(repr, VARIANTS))}. Received: {variant!r}.")
    if by not in ("label", "prediction", None):
        raise ValueError(f'by is "label", "prediction" or None. Received: {by!r}.')
    if picture not in ("tsne", "umap", None):
        raise ValueError(f'picture is "tsne", "umap" or None. Received: {picture!r}.')
    check_count("neighbors", neighbors)
    check_count("eigenvalues", eigenvalues)
    ks = [k] if isinstance(k, int | np.integer) else list(k)
    for each in ks:
        check_count("k", each)
    return ks


class _Leading:
    """k-means on the k eigenvectors of the smallest eigenvalues, with rows of length 1: spectral clustering."""

    def __init__(self, k, seed):
        self.k, self.seed = k, seed

    def fit_predict(self, embedding: np.ndarray) -> np.ndarray:
        """The cluster of each sample."""
        from sklearn.cluster import KMeans

        points = embedding[:, -self.k :]
        length = np.linalg.norm(points, axis=1, keepdims=True)
        labels: np.ndarray = KMeans(self.k, n_init=10, random_state=self.seed).fit_predict(
            points / np.where(length > 0, length, 1)
        )
        return labels


def _methods(methods, ks, seed):
    """The objects that cluster, by the names under which the results are written."""
    from sklearn import cluster

    if isinstance(methods, Mapping):
        return dict(methods)
    known = {
        "spectral": {f"spectral-{k:02d}": _Leading(k, seed) for k in ks},
        "kmeans": {f"kmeans-{k:02d}": cluster.KMeans(k, n_init=10, random_state=seed) for k in ks},
        "agglomerative": {f"agglomerative-{k:02d}": cluster.AgglomerativeClustering(k) for k in ks},
        "dbscan": {"dbscan": cluster.DBSCAN()},
        "hdbscan": {"hdbscan": cluster.HDBSCAN(min_cluster_size=LEAST, copy=True)},
    }
    chosen = [methods] if isinstance(methods, str) else list(methods)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise ValueError(
            f"methods are some of {', '.join(map(repr, known))}, or a dict of objects with fit_predict. Received: "
            f"{methods!r}."
        )
    return {name: make for method in chosen for name, make in known[method].items()}


def _groups(results, by, classes, least):
    """The rows of each class, in ascending order; all rows under None."""
    index = results.index
    if by is None:
        if len(index) < least:
            raise ValueError(
                f"{str(results.path)!r} has {len(index)} samples, too few to be clustered: {least} or more."
            )
        return {None: np.arange(len(index))}
    labels = results.labels if by == "label" else results.predictions
    if labels is None or (by == "prediction" and labels.ndim != 2) or labels.dtype.kind == "f" and labels.ndim == 1:
        raise ValueError(f"{str(results.path)!r} has no classes by {by}. Pass by=None for all samples at once.")
    if by == "prediction":
        labels = labels.argmax(axis=1)
    every = range(labels.shape[1]) if labels.ndim == 2 else np.unique(labels).tolist()
    rows = {int(c): np.flatnonzero(labels[:, c] > 0 if labels.ndim == 2 else labels == c) for c in every}
    for label in classes if classes is not None else ():
        if not len(rows.get(label, ())):
            raise KeyError(f"{str(results.path)!r} has no samples of class {label!r}. It has {sorted(rows)}.")
    wanted = {c: r for c, r in rows.items() if (len(r) if classes is None else c in classes)}
    few = {c: len(r) for c, r in wanted.items() if len(r) < least}
    said = f"too few samples to be clustered, which takes {least} or more: " + ", ".join(
        f"class {c} has {count}" for c, count in few.items()
    )
    if few and (len(few) == len(wanted) or classes is not None):
        raise ValueError(f"{str(results.path)!r} has {said}. Fewer clusters (k=...) need fewer; by=None takes all.")
    if few:
        warnings.warn(f"Left out of the clusters, because there are {said}.", stacklevel=outside())
    return {c: r for c, r in wanted.items() if c not in few}


def _write(target, found, results, variant, picture):
    """Writes an analysis of ViRelAy. The file gets its name when it is whole."""
    new = target.with_name(f"{target.name}.new")
    try:
        with hdf5.created(new) as (file, _):
            for each in found:
                group = file.create_group(each.name)
                # ViRelAy finds attributions by their index in the dataset.
                group["index"] = each.index.astype(np.uint32)
                spectral = group.create_dataset("embedding/spectral", data=each.embedding.astype(np.float32))
                spectral.attrs["eigenvalue"] = each.eigenvalues.astype(np.float32)
                if each.picture is not None:
                    points = group.create_dataset(f"embedding/{picture}", data=each.picture.astype(np.float32))
                    points.attrs["embedding"], points.attrs["index"] = "spectral", np.array([0, 1])
                for name, labels in each.clusters.items():
                    stored = group.create_dataset(f"cluster/{name}", data=labels)
                    stored.attrs["embedding"] = "spectral"
                    columns = np.arange(each.embedding.shape[1], dtype=np.uint32)
                    if numbered := _NUMBERED.fullmatch(name):
                        stored.attrs["k"] = int(numbered[1])
                        columns = columns[-int(numbered[1]) :] if name.startswith("spectral") else columns
                    stored.attrs["index"] = columns
            hdf5.note(file, {"variant": variant, "source": results.path.name, "origin": results.origin})
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)
