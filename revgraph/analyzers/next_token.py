"""`NextToken`: says which token that follows a text is explained."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from revgraph.analyzers.preprocessing import Preprocessing
from revgraph.analyzers.tokens import last_places
from revgraph.graph.callers import outside


@dataclasses.dataclass(frozen=True)
class NextToken:
    """The token that follows a text, to be explained: given to `analyze` as `neuron_selection`.

    Without arguments it is the token that the model finds most likely. `NextToken(" Paris")` is that token, whatever
    the model prefers. `NextToken(" Paris", against=" Rome")` is the difference of their logits: what speaks for the
    one and against the other. A token that begins a word begins with a space for most tokenizers.

    Args:
        token: The text or the id of the token, or one for each text; None for the most likely.
        against: The text or the id of a token to compare with, or one for each text; None for no comparison.
        after: The place of the token after which it comes, or one for each text; places are those of
            `analyzer.tokens(x)`. Negative places count from the end of each text, padding left out: -1, the default, is
            the last token.

    Example:

        analyzer.analyze("The capital of France is", NextToken(" Paris", against=" Rome"))
    """

    token: str | int | Sequence[str | int] | None = None
    against: str | int | Sequence[str | int] | None = None
    after: int | Sequence[int] = -1

    def places(self, padding: np.ndarray) -> np.ndarray:
        """The place after which the token comes, in each text.

        Args:
            padding: Which tokens are padding, bool (batch, tokens).

        Raises:
            ValueError: There is no such place, or it is one of padding.
        """
        count, (_, length) = len(padding), padding.shape
        after = _each(self.after, count, "after", int)
        first, last = np.argmin(padding, axis=1), last_places(padding)
        places = np.where(after < 0, last + 1 + after, after)
        wrong = np.flatnonzero(
            (places < 0) | (places >= length) | padding[range(count), np.clip(places, 0, length - 1)]
        )
        if len(wrong):
            i = wrong[0]
            raise ValueError(
                f"The tokens of sample {i} have the places {first[i]} to {last[i]}. Received: after={int(after[i])}."
            )
        return places

    def factors(self, logits: np.ndarray, padding: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
        """The selection as factors of the output: 1 for the token, and -1 for the one that it is compared with.

        Args:
            logits: The output of the model, (batch, tokens, vocabulary).
            padding: Which tokens are padding, bool (batch, tokens).
            preprocessing: Knows the ids of tokens.

        Returns:
            Array of the output's shape: bool where there is no comparison, and float32 else.
        """
        places, chosen, other = self._chosen(logits, padding, preprocessing)
        rows = np.arange(len(logits))
        if self.token is not None:
            self._warn_of_spaces(logits[rows, places], preprocessing)
        factors = np.zeros(logits.shape, bool if other is None else np.float32)
        factors[rows, places, chosen] = 1
        if other is not None:
            factors[rows, places, other] = -1
        return factors

    def titles(self, logits: np.ndarray, padding: np.ndarray, preprocessing: Preprocessing) -> list[str]:
        """What the selection stands for in each text: the tokens, and the probabilities that the model gives to them.

        Args:
            logits, padding, preprocessing: See `factors`.
        """
        places, chosen, other = self._chosen(logits, padding, preprocessing)
        rows = np.arange(len(logits))
        at = logits[rows, places].astype("float64")
        chances = np.exp(at - np.logaddexp.reduce(at, axis=-1, keepdims=True))

        def named(ids):
            return [f"{preprocessing.name_of(i)!r}: {chances[row, i]:.1%}" for row, i in zip(rows, ids, strict=True)]

        titles = [f"next token {token}" for token in named(chosen)]
        return titles if other is None else [f"{t}, not {o}" for t, o in zip(titles, named(other), strict=True)]

    def _chosen(self, logits, padding, preprocessing):
        """The places, the ids of the tokens, and of those with which they are compared; None where there are none."""
        count, rows = len(logits), np.arange(len(logits))
        places = self.places(padding)
        chosen = logits[rows, places].argmax(axis=-1)
        if self.token is not None:
            chosen = np.array([preprocessing.token_of(token) for token in _each(self.token, count, "token", object)])
        if self.against is None:
            return places, chosen, None
        other = np.array([preprocessing.token_of(token) for token in _each(self.against, count, "against", object)])
        same = np.flatnonzero(chosen == other)
        if len(same):
            raise ValueError(
                f"The token of sample {same[0]} is {preprocessing.name_of(other[same[0]])!r}, and it is compared "
                f"with itself. Name another one as against=."
            )
        return places, chosen, other

    def _warn_of_spaces(self, logits, preprocessing):
        """Warns where a word without the space in front of it is asked for, and the model means the one with it."""
        token = self.token
        if not isinstance(token, str) or not token[:1].isalnum():
            return
        try:
            plain, spaced = preprocessing.token_of(token), preprocessing.token_of(f" {token}")
        except ValueError:
            return
        if plain != spaced and np.all(logits[:, spaced] > logits[:, plain]):
            warnings.warn(
                f"{token!r} and {' ' + token!r} are two tokens. The model finds the one with a space in front of it, "
                f"which begins a word, more likely here. If you mean that one, pass NextToken({' ' + token!r}).",
                stacklevel=outside(),
            )


def _each(value: Any, count: int, name: str, dtype: Any) -> np.ndarray:
    """One value for each sample."""
    if isinstance(value, str) or np.ndim(value) == 0:
        return np.array([value] * count, dtype)
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} entries for {count} texts: pass one, or one for each text.")
    return np.array(list(value), dtype)
