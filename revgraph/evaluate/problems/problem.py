"""`Problem`: samples, their answers, and the entries that decide them."""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
from numpy.typing import ArrayLike

from revgraph.graph.arguments import check_seed


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Samples, their answers, and the entries that decide them.

    Args:
        x: The inputs, (samples, ...).
        y: The right answers, (samples,): the number of a class, or a value.
        truth: True at the entries of x that decide the answer, (samples, ...), without an axis of channels.
        classes: Names of the classes; empty where answers are values.
        vocabulary: Names of the ids in x; empty where x has no ids.
        contributions: How much each entry adds to a value, (samples, ...), like `truth`. They add up to y. None where
            answers are classes.
        reference: Makes the reference model, which returns logits or a value.
        epochs: How long the reference model is trained.

    Example:

        train, test = problems.motif(4000), problems.motif(200, seed=1)
        model = train.fitted()
        pointing_game(revgraph.create_analyzer("lrp.epsilon", model).analyze(test.x, test.y), test.truth)
    """

    x: np.ndarray
    y: np.ndarray
    truth: np.ndarray
    classes: Sequence[str] = ()
    vocabulary: Sequence[str] = ()
    contributions: np.ndarray | None = None
    reference: Callable[[], keras.Model] | None = None
    epochs: int = 10

    def __len__(self) -> int:
        return len(self.x)

    @property
    def words(self) -> list[list[str]]:
        """The ids of each sample by their names. It is empty where x has no ids."""
        return [[self.vocabulary[i] for i in ids] for ids in self.x] if self.vocabulary else []

    def model(self) -> keras.Model:
        """A new reference model, with random weights, compiled for the problem.

        Raises:
            ValueError: The problem has none.
        """
        if self.reference is None:
            raise ValueError("This problem has no reference model: pass reference=, a function that makes one.")
        model = self.reference()
        if self.classes:
            loss, metrics = keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"]
        else:
            loss, metrics = keras.losses.MeanSquaredError(), None
        model.compile(keras.optimizers.Adam(2e-3), loss, metrics=metrics)
        return model

    def fitted(self, seed: int = 0, verbose: int = 0) -> keras.Model:
        """The reference model, trained on these samples.

        Args:
            seed: Seed of the weights and of the order of the samples. Keras's own seed is set to it.
            verbose: 1 shows a progress bar.
        """
        check_seed(seed)
        keras.utils.set_random_seed(seed)
        model = self.model()
        model.fit(self.x, self.y, batch_size=64, epochs=self.epochs, verbose=verbose)
        return model

    def solved(self, model: keras.Model) -> np.ndarray:
        """Which samples a model solves, (samples,): the right class, or a value that is off by at most a tenth of
        the deviation of all values. Explanations are compared with the truth on these.

        Args:
            model: A model of this problem.
        """
        found = np.asarray(model.predict(self.x, verbose=0))
        if self.classes:
            return found.argmax(axis=1) == self.y
        return np.abs(found.reshape(len(self)) - self.y) <= 0.1 * np.std(self.y)

    def correlation(self, relevance: ArrayLike) -> float:
        """Pearson's correlation of relevance with the true contributions, over all entries.

        Args:
            relevance: Relevance of x, of its shape or without channels.

        Raises:
            ValueError: Nothing is known of contributions, or the shape does not fit.
        """
        if self.contributions is None:
            raise ValueError("The answers are classes, so there are no contributions to compare with.")
        found = np.asarray(relevance)
        if found.shape == self.x.shape and found.ndim > self.contributions.ndim:
            found = found.sum(axis=-1)
        if found.shape != self.contributions.shape:
            raise ValueError(
                f"relevance must have the shape of x, {self.x.shape}, or of the contributions, "
                f"{self.contributions.shape}. Received shape {found.shape}."
            )
        return float(np.corrcoef(found.ravel(), self.contributions.ravel())[0, 1])

    def __getitem__(self, samples: slice | np.ndarray) -> "Problem":
        """The problem with some of its samples."""
        own = None if self.contributions is None else self.contributions[samples]
        x, y, truth = self.x[samples], self.y[samples], self.truth[samples]
        return dataclasses.replace(self, x=x, y=y, truth=truth, contributions=own)

    def __repr__(self) -> str:
        deciding = self.truth.reshape(len(self), -1).sum(axis=1).mean() / self.truth[0].size
        return f"<Problem: {len(self)} samples of shape {self.x.shape[1:]}, {deciding:.1%} of the entries decide>"
