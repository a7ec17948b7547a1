"""`Continuation`: which tokens of a text speak for each token that follows."""

import dataclasses

import numpy as np

from revgraph.graph.tables import Table, Tabular


@dataclasses.dataclass(frozen=True, eq=False)
class Continuation(Tabular):
    """The relevance of each token of a text for each token of its continuation: a table token x token.

    A token of the continuation is explained by all tokens before it, those of the continuation among them. Entries for
    tokens that do not come before it are zero.

    Args:
        tokens: The tokens of the source, if there is an encoder, of the prompt, and then those of the continuation.
        first: Where the continuation begins among the tokens.
        relevance: (tokens of the continuation, tokens before the last one).
        scores: The logit of each token of the continuation.
        chances: The probability that the model gives to each of them.
        special: Which tokens the tokenizer has added, bool (tokens,).
        source: How many of the tokens the encoder reads; 0 for a model without one.
        against: The token with which each token of the continuation is compared; None for none.
    """

    tokens: tuple[str, ...]
    first: int
    relevance: np.ndarray
    scores: np.ndarray
    chances: np.ndarray
    special: np.ndarray
    source: int = 0
    against: tuple[str, ...] | None = None

    @property
    def said(self) -> tuple[str, ...]:
        """The tokens of the continuation, which name the rows."""
        return self.tokens[self.first :]

    @property
    def read(self) -> tuple[str, ...]:
        """The tokens that are read before the last one, which name the columns."""
        return self.tokens[:-1]

    def __len__(self) -> int:
        return len(self.said)

    def table(self) -> Table:
        """One row per token of the continuation: its probability, and the relevance of every token before it."""
        others = [""] * len(self) if self.against is None else [f", not {other!r}" for other in self.against]
        names = [f"{token!r}{other}" for token, other in zip(self.said, others, strict=True)]
        rows = [
            (name, float(chance), *(float(r) if j < self.first + i else "" for j, r in enumerate(row)))
            for i, (name, chance, row) in enumerate(zip(names, self.chances, self.relevance, strict=True))
        ]
        return Table(("token", "probability", *map(repr, self.read)), rows, title=repr(self)[1:-1])

    def __repr__(self) -> str:
        return f"<Continuation: {len(self)} tokens after {self.first}>"
