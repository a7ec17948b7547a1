"""The spectral embedding of heat maps, by the definitions of CoRelAy. Needs scikit-learn."""

from typing import Any

import numpy as np

from revgraph.datasets.results import Results
from revgraph.extras import needed

VARIANTS = ("spectral", "absspectral", "fullspectral")
"""How heat maps are prepared: summed over channels, their absolute values summed, or with all channels."""

BLOCK = 2**24
"""Distances are computed for so many pairs at once."""


def prepared(results: Results, rows: np.ndarray, variant: str = "spectral") -> np.ndarray:
    """Heat maps as vectors that add up to one, float64 (samples, entries).

    Args:
        results: The attributions.
        rows: Positions of the samples in it, in ascending order.
        variant: See `clusters`.

    Raises:
        ValueError: The entries of a heat map add up to zero.
    """
    maps = results.attributions(rows).astype(np.float64)
    if variant == "absspectral":
        maps = np.abs(maps)
    if variant != "fullspectral":
        maps = maps.sum(axis=1)
    maps = maps.reshape(len(maps), -1)
    sums = maps.sum(axis=1, keepdims=True)
    empty = np.flatnonzero(sums[:, 0] == 0)
    if len(empty):
        shown = ", ".join(map(str, results.index[rows[empty[:5]]])) + (", ..." if len(empty) > 5 else "")
        raise ValueError(
            f"Heat maps are divided by their sum, which is zero for the samples {shown}. Leave them out of the dataset"
            f"{'' if variant == 'absspectral' or not maps[empty].any() else ', or pass variant=absspectral'}."
        )
    divided: np.ndarray = maps / sums
    return divided


def affinity(points: np.ndarray, neighbors: int = 10) -> Any:
    """The symmetric affinity of points: 1 between mutual neighbours, 1/2 where only one is a neighbour of the other.

    Args:
        points: (samples, entries).
        neighbors: Number of nearest neighbours by Euclidean distance. If there are fewer other points, all of them.

    Returns:
        Sparse matrix (samples, samples).
    """
    from scipy.sparse import csr_matrix
    from scipy.spatial.distance import cdist

    count = len(points)
    neighbors = min(neighbors, count - 1)
    nearest = np.empty((count, neighbors), np.int64)
    step = max(1, BLOCK // count)
    for first in range(0, count, step):
        # The first in the order is the point itself.
        order = cdist(points[first : first + step], points).argsort(axis=1)
        nearest[first : first + step] = order[:, 1 : neighbors + 1]
    rows = np.repeat(np.arange(count), neighbors)
    directed = csr_matrix((np.ones(rows.size), (rows, nearest.ravel())), shape=(count, count))
    return (directed + directed.T) / 2


def spectral_embedding(
    points: np.ndarray, neighbors: int = 10, eigenvalues: int = 32, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The spectral embedding of points; see `clusters` for its definition.

    Args:
        points: (samples, entries).
        neighbors: Number of nearest neighbours.
        eigenvalues: Number of eigenvectors, of at most one less than there are points.
        seed: For the vector with which the iteration begins.

    Returns:
        Eigenvalues of the Laplacian in descending order, (eigenvalues,), and the embedding (samples, eigenvalues).
    """
    from scipy.sparse import diags
    from scipy.sparse.linalg import eigsh

    joined = affinity(points, neighbors)
    scale = diags(np.asarray(joined.sum(axis=1)).ravel() ** -0.5)
    start = np.random.default_rng(seed).uniform(-1, 1, len(points))
    # Those of I - M that are close to 0 are those of M that are close to 1.
    values, vectors = eigsh(scale @ joined @ scale, k=min(eigenvalues, len(points) - 1), which="LM", v0=start)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return 1 - values, vectors / np.where(length > 0, length, 1)


def plane(embedding: np.ndarray, picture: str, seed: int = 0) -> np.ndarray:
    """The points of an embedding in the plane.

    Args:
        embedding: (samples, eigenvalues).
        picture: `"tsne"` or `"umap"`.
        seed: Makes the result repeatable.

    Returns:
        Array (samples, 2).
    """
    if picture == "umap":
        umap = needed("umap", 'picture="umap"')
        made = umap.UMAP(n_neighbors=min(15, len(embedding) - 1), metric="correlation", random_state=seed)
    else:
        from sklearn.manifold import TSNE

        made = TSNE(init="random", perplexity=min(30, (len(embedding) - 1) / 3), random_state=seed)
    # Many threads wait for each other on a machine that has other work, and take a hundred times as long.
    with needed("threadpoolctl", "a picture of the plane").threadpool_limits(1):
        points: np.ndarray = made.fit_transform(embedding)
    return points
