"""`TaskAnalyzer`: an analyzer of a model that has its own preprocessor, such as a task of KerasHub."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.attentions import Attentions
from revgraph.analyzers.continuation import Continuation
from revgraph.analyzers.inputs import is_stream
from revgraph.analyzers.next_token import NextToken
from revgraph.analyzers.prepared import MASKS, mask_name, mask_of, texts_by_input, token_names
from revgraph.analyzers.preprocessing import Preprocessing, has_preprocessor
from revgraph.analyzers.recorded import RecordedPass
from revgraph.analyzers.selected import outputs_at_start
from revgraph.analyzers.standing import StandIn
from revgraph.analyzers.tokens import Tokens
from revgraph.graph.tables import Table
from revgraph.graph.types import PathLike, Relevance, Selection, Tensors
from revgraph.reverse.ledger import Conservation


class TaskAnalyzer(StandIn):
    """Gives texts and images to the model's own preprocessor, and stands for an analyzer of the model.

    `create_analyzer` returns one for a task of KerasHub. It has the class of the analyzer for `isinstance`.

    Args:
        inner: The analyzer. It takes what the model itself takes.
        model: The model.

    Example:

        analyzer = revgraph.create_analyzer("lrp.attnlrp", text_classifier)
        relevance = analyzer.analyze(["a sentence", "another one"])  # (batch, tokens)
        revgraph.visualize.plot(analyzer.tokens(["a sentence", "another one"]), relevance)
    """

    def __init__(self, inner: Analyzer, model: keras.Model) -> None:
        super().__init__(inner.__class__)
        self.inner = inner
        self.preprocessing = Preprocessing(model)

    def known(self) -> Analyzer:
        return self.inner

    def preprocess(self, X: Tensors) -> Tensors:
        """What the model takes for X: the ids of texts with their masks, or images of the right size and range.

        Args:
            X: See `analyze`.

        Returns:
            Array, or dict of arrays by the names of the model's inputs.
        """
        return self.preprocessing(X)

    def tokens(self, X: Tensors, vocabulary: Sequence[str] | None = None) -> Tokens | dict[str, Tokens]:
        """The tokens of texts: their own text, and which of them are special or padding.

        Args:
            X: See `analyze`.
            vocabulary: The words in the order of their ids, for a model without a tokenizer.

        Returns:
            `Tokens`, or for a model with several inputs of tokens a dict of them by the name of the input.
        """
        if vocabulary is not None:
            return self.inner.tokens(self.preprocessing(X), vocabulary)
        return self.preprocessing.tokens(X)

    def analyze(
        self, X: Tensors, neuron_selection: Selection | NextToken = None, *args: Any, **options: Any
    ) -> Relevance:
        """Computes the relevance of every token, or of every entry of the images.

        Args:
            X: What `model.predict` takes: a text, a list of texts, images, or the dict of them that the preprocessor
                takes; a dataset or generator of these; or what the model itself takes, as a dict by the names of its
                inputs.
            neuron_selection: See `ReverseAnalyzer.analyze`. For a model that continues texts a `NextToken`. By default
                that is the most likely token after the last one of each text.
            *args, **options: See `ReverseAnalyzer.analyze`.

        Returns:
            For texts an array (batch, tokens). The tokens are those of `tokens(X)`, and padding has zero. A dict of
            such arrays by the name of the input where several inputs have tokens, or where X is what the model itself
            takes. For images an array of their shape behind the preprocessor.
        """
        if is_stream(X):
            results = [self.analyze(part, neuron_selection, *args, **options) for part in _parts(X)]
            if not results:
                raise ValueError("Nothing to explain: the dataset is empty.")
            return keras.tree.map_structure(lambda *r: np.concatenate(r), *results)
        inputs = self.preprocessing(X)
        selection = self._selection(inputs, neuron_selection, options)
        return self._of_tokens(X, self.inner.analyze(inputs, selection, *args, **options))

    def conservation(
        self, X: Tensors, neuron_selection: Selection | NextToken = None, *args: Any, **start: Any
    ) -> Conservation:
        """See `ReverseAnalyzer.conservation`."""
        inputs = self.preprocessing(X)
        return self.inner.conservation(inputs, self._selection(inputs, neuron_selection, start), *args, **start)

    def attentions(
        self, X: Tensors, neuron_selection: Selection | NextToken = None, *args: Any, **start: Any
    ) -> Attentions:
        """See `LRP.attentions`."""
        inputs = self.preprocessing(X)
        return self.inner.attentions(inputs, self._selection(inputs, neuron_selection, start), *args, **start)

    def record(self, X: Tensors) -> "RecordedTask":
        """See `ReverseAnalyzer.record`."""
        return RecordedTask(self, X)

    def continuation(
        self,
        prompt: str | Sequence[int] | Mapping[str, Any],
        continuation: str | Sequence[int],
        *,
        against: str | int | Sequence[str | int] | None = None,
        batch_size: int = 4,
        **options: Any,
    ) -> Continuation:
        """The relevance of each token of a text for each token that follows, in a table token x token.

        A model with an encoder and a decoder reads the prompt by its encoder, and the continuation is what its decoder
        writes. So each token is explained by those of the source and by those that were written before it.

        Args:
            prompt: The beginning of the text, or the ids of its tokens. For an encoder and a decoder the source, or a
                dict of `encoder_text` and of the `decoder_text` with which the answer begins.
            continuation: How it goes on, or the ids of its tokens, such as those that the model generated.
            against: A token to compare each of these with, or one for each of them; see `NextToken`.
            batch_size: How many tokens are explained at once.
            **options: See `analyze`.

        Returns:
            A `Continuation`, whose `relevance[i, j]` is that of token j of the text for token i of the continuation.

        Raises:
            ValueError: The model does not continue texts, or the end of the prompt and the beginning of the
                continuation are one token.

        Example:

            table = analyzer.continuation("The capital of France is", " Paris, of course")
            revgraph.visualize.plot_continuation(table)
        """
        row, first = self._whole(prompt, continuation)
        name = _of_next(token_names(row))
        tokens = {each: self._tokens_of(row, each) for each in (*(n for n in token_names(row) if n != name), name)}
        read = {each: np.flatnonzero(~of.padding[0]) for each, of in tokens.items()}
        source = sum(len(places) for each, places in read.items() if each != name)
        places = read[name][first:]
        said = tokens[name].ids[0, places]
        others = None if against is None else [*map(self.preprocessing.token_of, _one_for_each(against, len(said)))]
        parts = []
        for start in range(0, len(said), batch_size):
            chosen = slice(start, start + batch_size)
            count = len(said[chosen])
            batch = {key: np.repeat(part, count, axis=0) for key, part in row.items()}
            compared = None if others is None else others[chosen]
            asked = NextToken([int(i) for i in said[chosen]], compared, [int(p) - 1 for p in places[chosen]])
            found = self.analyze(batch, asked, **options)
            parts.append(np.concatenate([found[each][:, of] for each, of in read.items()], axis=1)[:, :-1])
        logits = self._logits(row, {})[0][places - 1].astype("float64")
        scores = logits[np.arange(len(said)), said]
        return Continuation(
            tuple(text for each, of in read.items() for text in tokens[each].texts[0, of]),
            source + first,
            np.concatenate(parts),
            scores,
            np.exp(scores - np.logaddexp.reduce(logits, axis=-1)),
            np.concatenate([tokens[each].special[0, of] for each, of in read.items()]),
            source,
            None if others is None else tuple(map(self.preprocessing.name_of, others)),
        )

    def _whole(self, prompt, continuation):
        """Inputs for a text and how it goes on, and where the continuation begins."""
        read = self.preprocessing
        names = token_names(dict.fromkeys(read.names))
        masks = sorted(name for name in read.names if name.endswith(MASKS))
        name = _of_next(names)
        if not read.generates:
            raise ValueError(
                f"The model {read.model.name!r} does not continue texts, because it has no `generate`. Use analyze."
            )
        if {*names, *masks} != read.names or len(names) > 1 + ("decoder" in name):
            raise ValueError(
                f"continuation takes a model whose inputs are tokens and their mask. Those of {read.model.name!r} are "
                f"{sorted(read.names)}: use analyze with NextToken(token, after=place) for each token."
            )
        for what, text in (("prompt", prompt), ("continuation", continuation)):
            if not isinstance(text, str | Mapping) and any(isinstance(part, str) for part in text):
                raise TypeError(
                    f"The {what} is one text, or the ids of its tokens. Received: {text!r}. Call continuation once for "
                    f"each text."
                )
        if not isinstance(prompt, str | Mapping) and len(names) > 1:
            raise TypeError(
                f"The prompt of a model with an encoder and a decoder is a text, a dict of 'encoder_text' and "
                f"'decoder_text', or {read.own_inputs()}. Received: {prompt!r}."
            )
        if isinstance(prompt, str | Mapping):
            made = {key: np.asarray(part) for key, part in read(prompt).items()}
            texts = {} if read.is_ready(prompt) else texts_by_input(prompt, names)
            if any(len(part) != 1 for part in made.values()):
                raise TypeError(f"The prompt is one text. Received: {prompt!r}. Call continuation once for each text.")
            read.check_whole(texts, made)
            before = made[name][0][~self._tokens_of(made, name).padding[0]].tolist()
            begun = texts[name][0] if name in texts else "" if texts else None
        else:
            made, before, begun = {}, [int(i) for i in prompt], None
        more = [int(i) for i in continuation] if not isinstance(continuation, str) else read.ids_of(continuation)
        if isinstance(continuation, str) and begun is not None:
            start, whole = read.ids_of(begun), read.ids_of(begun + continuation)
            more = whole[len(start) :]
            if whole[: len(start)] != start:
                raise ValueError(
                    f"The end of the prompt and the beginning of the continuation are read as one token: "
                    f"{read.text_of(before[-1])!r} ends the prompt. Begin the continuation with a space, or pass the "
                    f"ids of its tokens."
                )
        if not more or not before:
            raise ValueError("The prompt or the continuation has no tokens. Pass a text or the ids of tokens.")
        ids = np.array([[*before, *map(read.token_of, more)]], "int32")
        mask = mask_name(name, dict.fromkeys(read.names))
        return {**made, name: ids, **({} if mask is None else {mask: np.ones_like(ids)})}, len(before)

    def next_tokens(self, X: Tensors, neuron_selection: Selection | NextToken = None) -> list[str] | None:
        """Which token that follows each text is explained, with its probability.

        Args:
            X, neuron_selection: See `analyze`.

        Returns:
            A title for each text, such as `next token ' Paris': 12.3%`; None where no next token is explained.
        """
        inputs = self.preprocessing(X)
        asked = self._asked(inputs, neuron_selection, {})
        if not isinstance(asked, NextToken):
            return None
        logits, padding = self._next(inputs, {})
        return asked.titles(logits, padding, self.preprocessing)

    def save(self, path: PathLike, overwrite: bool = False) -> None:
        """See `Analyzer.save`."""
        self.inner.save(path, overwrite)

    def table(self) -> Table:
        """What the analyzer walks over."""
        return self.inner.table()

    def __repr__(self) -> str:
        return repr(self.inner)

    def _selection(self, inputs, selection, options):
        """The selection, with a `NextToken` as factors of the output."""
        selection = self._asked(inputs, selection, options)
        if not isinstance(selection, NextToken):
            return selection
        if options.get("layer") is not None:
            raise ValueError("A NextToken is one of the model's output. Leave out layer=, or select by a mask.")
        logits, padding = self._next(inputs, options)
        return selection.factors(logits, padding, self.preprocessing)

    def _asked(self, inputs, selection, options):
        """The selection, which is a `NextToken` by default for a model that continues texts."""
        if self._asks_for_next_token(inputs, options):
            if selection is None or (isinstance(selection, str) and selection == "max_activation"):
                return NextToken()
            if isinstance(selection, str | int | np.integer) and selection != "all":
                raise ValueError(
                    f"The output has a token at every place. Received: neuron_selection={selection!r}. Pass "
                    f"revgraph.NextToken({selection!r}) for the token that follows the text."
                )
        return selection

    def _next(self, inputs, options):
        """The logits of the tokens that follow each token, and which of these are padding."""
        logits = self._logits(inputs, options)
        tokens = self._tokens_of(inputs, _of_next(token_names(inputs)))
        if logits.shape[:2] != tokens.ids.shape:
            raise ValueError(
                f"A NextToken needs an output (batch, tokens, vocabulary) for {tokens.ids.shape} tokens. That of "
                f"{self.preprocessing.model.name!r} has the shape {logits.shape}."
            )
        return logits, tokens.padding

    def _asks_for_next_token(self, inputs, options):
        asked = options.get("layer") is None and options.get("initial_relevance") is None
        if not asked or not self.preprocessing.generates:
            return False
        analyzer = self._at(inputs)
        return analyzer.neuron_selection_mode == "max_activation" and analyzer.innermost.selects

    def _at(self, inputs):
        """The analyzer for inputs of their size."""
        return self.inner.at(inputs) if hasattr(self.inner, "at") else self.inner

    def _logits(self, inputs, options):
        """The model's only output."""
        analyzer = self._at(inputs)
        outputs = outputs_at_start(analyzer, analyzer.as_they_are(_taken(analyzer, inputs)), None, options)
        if len(outputs) != 1 or next(iter(outputs.values())).ndim != 3:
            shapes = {name: y.shape for name, y in outputs.items()}
            raise ValueError(
                f"A NextToken needs one output (batch, tokens, vocabulary). The outputs of "
                f"{self.preprocessing.model.name!r} are {shapes}."
            )
        return next(iter(outputs.values()))

    def _tokens_of(self, inputs, name):
        """Where the tokens of an input are, whatever their text is."""
        ids = np.asarray(inputs[name] if isinstance(inputs, Mapping) else inputs)
        mask = mask_of(name, inputs)
        if self.preprocessing.tokenizer is not None:
            return self.preprocessing.tokens_of(ids, mask)
        padding = np.zeros(ids.shape, bool) if mask is None else ~mask.astype(bool)
        return Tokens(ids.astype(str).astype(object), ids, np.zeros(ids.shape, bool), padding)

    def _of_tokens(self, X, result):
        """The relevance of tokens alone, if texts were given and one input has tokens."""
        if self.preprocessing.is_ready(X):
            return result
        relevance, *rest = result if isinstance(result, tuple) else (result,)
        if isinstance(relevance, Mapping):
            names = token_names(relevance)
            graph = self.inner.graph
            floating = [
                n for n, s in zip(graph.input_names, graph.input_slots, strict=True) if "float" in graph.specs[s].dtype
            ]
            if len(names) == 1 and not floating:
                relevance = relevance[names[0]]
        return (relevance, *rest) if rest else relevance


def for_task(analyzer: Analyzer) -> Analyzer:
    """The analyzer, behind the preprocessor of its model if the model is of a kind that has one."""
    # It stands for analyzers of this class.
    return cast(Analyzer, TaskAnalyzer(analyzer, analyzer.model)) if has_preprocessor(analyzer.model) else analyzer


class RecordedTask:
    """A recorded forward pass of a task; see `RecordedPass`.

    Args:
        analyzer: The analyzer of the task.
        X: What it was recorded on.
    """

    def __init__(self, analyzer: TaskAnalyzer, X: Tensors) -> None:
        self._analyzer, self._given = analyzer, X
        self._inputs = analyzer.preprocess(X)
        self._recorded: RecordedPass = analyzer.inner.record(self._inputs)

    def analyze(self, neuron_selection: Selection | NextToken = None, initial_relevance: Any = None) -> Relevance:
        """Relevance of the recorded inputs; see `TaskAnalyzer.analyze`."""
        selection = self._analyzer._selection(self._inputs, neuron_selection, {"initial_relevance": initial_relevance})
        return self._analyzer._of_tokens(self._given, self._recorded.analyze(selection, initial_relevance))


def _of_next(names):
    """The input of tokens that is continued."""
    return next((name for name in names if "decoder" in name), names[0] if names else "")


def _taken(analyzer, inputs):
    """Inputs in the flat order of an analyzer's graph."""
    if not isinstance(inputs, Mapping):
        return [np.asarray(part) for part in keras.tree.flatten(inputs)]
    return [np.asarray(inputs[name]) for name in analyzer.graph.input_names]


def _parts(x: Any) -> Iterator[Any]:
    """The batches of a stream, without their labels."""
    batches = map(x.__getitem__, range(len(x))) if isinstance(x, keras.utils.PyDataset) else x
    for batch in batches:
        part = batch[0] if isinstance(batch, tuple) else batch
        yield part.numpy() if isinstance(part, tf.Tensor) else part


def _one_for_each(value, count):
    if isinstance(value, str | int | np.integer):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"against has {len(value)} entries for {count} tokens: pass one, or one for each token.")
    return list(value)
