"""`prototypes`: the ways in which a model decides for a class, as a mixture over the relevance of concepts (PCX)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.concepts.channels import shares as shares_of
from revgraph.concepts.collecting import explained_classes
from revgraph.concepts.collection import Collection, opened
from revgraph.extras import needed
from revgraph.graph.arguments import check_count, check_number
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import PathLike, Selection, Tensors

if TYPE_CHECKING:
    from revgraph.reverse.pictures import Picture

LEAST = 2
"""A mixture needs so many samples for each prototype."""


@dataclasses.dataclass(frozen=True, eq=False)
class Prototype:
    """One way in which a model decides for a class.

    Args:
        mean: The relevance of each channel, (channels,).
        share: The share of the class's samples that are nearest to this prototype.
        samples: Indices in the dataset of the samples, the nearest first.
    """

    mean: np.ndarray
    share: float
    samples: np.ndarray

    def top(self, count: int = 5) -> np.ndarray:
        """The channels with most relevance of either sign, in order."""
        return np.argsort(-np.abs(self.mean), kind="stable")[:count]


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """The prototypes of a class.

    Args:
        prototypes: The prototypes, that of most samples first.
        log_likelihoods: Those of the samples that were fitted, in ascending order, (samples,).
        model: The fitted mixture, a `sklearn.mixture.GaussianMixture`.
    """

    prototypes: tuple[Prototype, ...]
    log_likelihoods: np.ndarray
    model: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Judgement(Tabular):
    """Whether a model decided for samples as it usually does.

    Args:
        classes: The class that was explained, (batch,).
        log_likelihood: Of the relevance of the concepts under the mixture of that class, (batch,).
        rank: The share of the class's fitted samples whose likelihood is lower, (batch,). Near zero the decision is
            unlike the known ones.
        nearest: Which prototype of the class is nearest, (batch,).
        distance: Relevance of each channel less that of the nearest prototype, (batch, channels): what the decision
            uses more, and what less.
    """

    classes: np.ndarray
    log_likelihood: np.ndarray
    rank: np.ndarray
    nearest: np.ndarray
    distance: np.ndarray

    def unusual(self, level: float = 0.01) -> np.ndarray:
        """Which decisions are less likely than all but a share `level` of the known ones, bool (batch,)."""
        return self.rank < level

    def table(self) -> Table:
        """One row per sample, with the channels in which it differs most from its prototype."""
        rows = []
        for i, distance in enumerate(self.distance):
            most = np.argsort(-np.abs(distance), kind="stable")[:3]
            shown = ", ".join(f"{c} ({distance[c]:+.2g})" for c in most)
            rows.append((i, int(self.classes[i]), float(self.log_likelihood[i]), f"{self.rank[i]:.1%}",
                         int(self.nearest[i]), shown))  # fmt: skip
        header = ("sample", "class", "log-likelihood", "lower in class", "nearest prototype", "differs in channel")
        return Table(header, rows, title=repr(self)[1:-1])

    def __repr__(self) -> str:
        return f"<judgement of {len(self.classes)} samples, {int(self.unusual().sum())} unusual>"


@dataclasses.dataclass(frozen=True, eq=False)
class Prototypes(Tabular):
    """The prototypes of each class: `prototypes[label]` is a tuple of `Prototype`s.

    Args:
        layer: The path of the layer.
        shares: Whether relevance is divided by the sum of the absolute values of all channels.
        mixtures: The mixture of each class.
        collection: What they were made of.
    """

    layer: str
    shares: bool
    mixtures: Mapping[int, Mixture]
    collection: Collection

    def __getitem__(self, label: int) -> tuple[Prototype, ...]:
        return self._mixture(label).prototypes

    def _mixture(self, label):
        if label not in self.mixtures:
            raise KeyError(f"There are no prototypes of class {label!r}. There are those of {list(self.mixtures)}.")
        return self.mixtures[label]

    def log_likelihood(self, relevance: np.ndarray, label: int) -> np.ndarray:
        """The log-likelihood of the relevance of concepts under the mixture of a class.

        Args:
            relevance: (batch, channels), as `Collection.relevance` has it.
            label: The class.

        Returns:
            Array (batch,).
        """
        found: np.ndarray = self._mixture(label).model.score_samples(_vectors(relevance, self.shares))
        return found

    def judge(self, analyzer: Any, x: Tensors, neuron_selection: Selection = None) -> Judgement:
        """Whether the model decides for samples in a way that is known.

        Args:
            analyzer: The analyzer with which the concepts were collected.
            x: Samples, as `analyze` takes them.
            neuron_selection: The class that is explained: None for the predicted one, an int, or one int per sample.

        Returns:
            A `Judgement`.

        Raises:
            KeyError: There are no prototypes of a class.
            ValueError: The model or the method is another one than that of the collection, or no single class is
                explained.
        """
        if not isinstance(analyzer, ReverseAnalyzer):
            raise TypeError(f"judge takes an analyzer that walks backwards. Received: {analyzer!r}.")
        self.collection.check_model(analyzer.model)
        origin = self.collection.origin
        if not self.collection.same_method(analyzer):
            same = " with other rules" if analyzer.name == origin["method"] else ""
            raise ValueError(
                f"Relevance was collected with {origin['method']!r}, and this analyzer is {analyzer.name!r}{same}. Its "
                f"relevance has other likelihoods. Make one of the same method, with the parameters "
                f"{origin['parameters']}."
            )
        relevance, classes = explained_classes(analyzer, x, self.layer, neuron_selection)
        if np.any(classes < 0):
            raise ValueError("No single class is explained. neuron_selection is None, an int, or one int per sample.")
        vectors = _vectors(relevance, self.shares)
        likelihood, rank, nearest = np.empty(len(vectors)), np.empty(len(vectors)), np.empty(len(vectors), int)
        distance = np.empty_like(vectors)
        for label in np.unique(classes):
            rows, mixture = classes == label, self._mixture(int(label))
            likelihood[rows] = mixture.model.score_samples(vectors[rows])
            known = mixture.log_likelihoods
            rank[rows] = np.searchsorted(known, likelihood[rows]) / len(known)
            means = np.stack([prototype.mean for prototype in mixture.prototypes])
            each = vectors[rows][:, None] - means
            nearest[rows] = np.linalg.norm(each, axis=2).argmin(axis=1)
            distance[rows] = each[np.arange(len(each)), nearest[rows]]
        return Judgement(classes, likelihood, rank, nearest, distance)

    def plot(self, label: int, dataset: Any = None, **options: Any) -> "Picture":
        """Draws the prototypes of a class; see `revgraph.visualize.plot_prototypes`."""
        from revgraph.visualize import plot_prototypes

        return plot_prototypes(self, label, dataset, **options)

    def table(self) -> Table:
        """One row per prototype: its share of the class, its nearest samples, and its channels with most relevance."""
        rows = [
            (label, number, f"{each.share:.0%}", ", ".join(map(str, each.samples[:3])),
             ", ".join(f"{c} ({each.mean[c]:+.2g})" for c in each.top(4)))
            for label, mixture in self.mixtures.items()
            for number, each in enumerate(mixture.prototypes)
        ]  # fmt: skip
        header = ("class", "prototype", "samples", "nearest samples", "channels with most relevance")
        return Table(header, rows, title=repr(self)[1:-1])

    def __repr__(self) -> str:
        return f"<prototypes of {len(self.mixtures)} classes by {self.layer!r} of {self.collection.path}>"


def prototypes(
    found: PathLike | Collection,
    layer: str,
    n: int = 8,
    *,
    classes: int | Sequence[int] | None = None,
    shares: bool = True,
    correct: bool = False,
    regularization: float = 1e-6,
    seed: int = 0,
) -> Prototypes:
    """Finds prototypes: the typical ways in which a model uses concepts for a class.

    The relevance of the channels of a layer on a sample is a vector. A mixture of Gaussians with full covariance is
    fitted to the vectors of each class. The means are the prototypes, and the samples nearest to them show what they
    are. The likelihood of a new sample says whether the model decides in a known way: `Prototypes.judge`.

    Args:
        found: What `collect` returned, or the path of its file.
        layer: The name or the path of a layer that was collected.
        n: Number of prototypes of each class.
        classes: Only these classes. By default all for which samples were explained.
        shares: Divide the relevance of a sample by the sum of its absolute values, so that vectors say which concepts
            are used, and not how large the output is.
        correct: Only samples whose label is the class that was explained.
        regularization: It is added to the diagonal of covariances.
        seed: Makes the result repeatable.

    Returns:
        `Prototypes`, which print as a table and draw themselves with `plot`.

    Raises:
        ImportError: scikit-learn is missing.
        KeyError: The layer was not collected, or no sample is of a class.
        ValueError: The file is no collection, an argument is illegal, or a class has too few samples.

    References:
        Dreyer et al., "Understanding the (extra-)ordinary: validating deep model decisions with prototypical
        concept-based explanations", CVPR workshops 2024.

    Example:

        ways = revgraph.concepts.prototypes("concepts.h5", "conv3", n=4)
        print(ways)
        print(ways.judge(analyzer, x_new))
    """
    mixture = needed("sklearn.mixture", "prototypes")
    check_count("n", n)
    check_number("regularization", regularization, least=0)
    collection = opened(found)
    path = collection.path_of(layer)
    rows = _rows(collection, classes, correct, n)
    mixtures = {}
    for label, each in rows.items():
        vectors = _vectors(collection.relevance(path, each), shares)
        fitted = mixture.GaussianMixture(n, covariance_type="full", reg_covar=regularization, random_state=seed)
        fitted.fit(vectors)
        distance = np.stack([np.linalg.norm(vectors - mean, axis=1) for mean in fitted.means_], axis=1)
        sizes = np.bincount(distance.argmin(axis=1), minlength=n) / len(each)
        parts = [
            Prototype(mean, float(share), collection.index[each[np.argsort(far, kind="stable")]])
            for mean, share, far in zip(fitted.means_, sizes, distance.T, strict=True)
        ]
        parts.sort(key=lambda part: -part.share)
        mixtures[label] = Mixture(tuple(parts), np.sort(fitted.score_samples(vectors)), fitted)
    return Prototypes(path, shares, mixtures, collection)


def _vectors(relevance, shares):
    vectors = np.asarray(relevance, np.float64)
    return shares_of(vectors) if shares else vectors


def _rows(collection, classes, correct, n):
    """The rows of the samples of each class."""
    there = [int(c) for c in np.unique(collection.classes) if c >= 0]
    if not there:
        raise ValueError(
            f"{str(collection.path)!r} has no classes, because no single class was explained for the samples. Collect "
            f"with neuron_selection=None, an int, or one int per sample."
        )
    if classes is not None:
        classes = [classes] if isinstance(classes, int | np.integer) else list(classes)
        if not classes:
            raise ValueError("classes is empty. Leave it out for all classes.")
    for label in classes if classes is not None else ():
        if label not in there:
            raise KeyError(f"No sample in {str(collection.path)!r} is of class {label!r}. There are: {there}.")
    right = np.ones(len(collection.classes), bool)
    if correct:
        labels = collection.labels
        if labels is None:
            raise ValueError(f"correct=True needs labels, and {str(collection.path)!r} has none. Collect with labels.")
        right = (labels.argmax(axis=1) if labels.ndim == 2 else labels) == collection.classes
    rows = {c: np.flatnonzero((collection.classes == c) & right) for c in (there if classes is None else classes)}
    few = {c: len(r) for c, r in rows.items() if len(r) < LEAST * n}
    if few:
        counts = ", ".join(f"class {c} has {count}" for c, count in few.items())
        raise ValueError(
            f"A mixture of n={n} prototypes needs {LEAST * n} samples or more of a class: {counts}. Pass a smaller n, "
            f"or classes=[...] with more samples."
        )
    return rows
