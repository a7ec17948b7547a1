"""`Analyzer`: explains a model's predictions. What all analyzers have in common."""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import keras
import numpy as np

from revgraph.analyzers.inputs import Batch, batches, flat_inputs, packed
from revgraph.analyzers.tokens import tokens_of_vocabulary, vocabulary_of
from revgraph.composites.composite import Bound
from revgraph.graph import Graph
from revgraph.graph.analysis import slots_of_indices
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import PathLike, Relevance, Selection, Tensors
from revgraph.read import trace
from revgraph.reverse.ledger import Conservation
from revgraph.saving import archives
from revgraph.saving.configured import Configured

if TYPE_CHECKING:
    from revgraph.analyzers.attentions import Attentions
    from revgraph.analyzers.recorded import RecordedPass

Kind = TypeVar("Kind", bound="Analyzer")

MODES = ("max_activation", "index", "all")


class Unsupported(TypeError):
    """What an analyzer cannot do, and which analyzers can."""


class Analyzer(Configured, Tabular):
    """Explains the predictions of a model: gives every entry of the input its relevance.

    Args:
        model: A built Keras model.
        neuron_selection_mode: What `analyze` selects when its `neuron_selection` is not given: `"max_activation"`
            (the default), `"all"`, or `"index"`, which makes it a must.
        disable_model_checks: Accepted for iNNvestigate's sake. revgraph has no check that would refuse a model that
            it can explain.
        allow_lambda_layers: Let relevance through Lambda layers as a whole, by their transposed Jacobian. Otherwise
            their code is read like that of any other layer.
    """

    name = "analyzer"
    model_path: str | None = None
    model_signature: str | None = None
    seed: int | None = None
    selects: ClassVar[bool] = False
    _given: inspect.BoundArguments | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _, *parameters = inspect.signature(cls.__init__).parameters.values()
        # Because of `__new__`, Python would show the signature (*args, **kwargs).
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __new__(cls: type[Kind], *args: Any, **kwargs: Any) -> Kind:
        analyzer = super().__new__(cls)
        try:
            analyzer._given = inspect.signature(cls).bind(*args, **kwargs)
        except TypeError:
            # The call is wrong, which `__init__` says better.
            analyzer._given = None
        return analyzer

    def __copy__(self: Kind) -> Kind:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"{self!r} cannot be pickled or copied deeply, because it holds compiled functions: write it to a file "
            f"with analyzer.save(path), which revgraph.load_analyzer reads, or as a SavedModel with "
            f"analyzer.export(path)."
        )

    def __init__(
        self,
        model: keras.Model | Graph,
        neuron_selection_mode: str = "max_activation",
        disable_model_checks: bool = False,
        allow_lambda_layers: bool = False,
    ) -> None:
        if neuron_selection_mode not in MODES:
            raise ValueError(
                f"neuron_selection_mode is one of {', '.join(map(repr, MODES))}. Received: {neuron_selection_mode!r}."
            )
        self.model = model
        self.neuron_selection_mode = neuron_selection_mode
        self.disable_model_checks = disable_model_checks
        self.allow_lambda_layers = allow_lambda_layers
        self.graph = self._graph()

    def _graph(self) -> Graph:
        return trace(self.model)

    @property
    def innermost(self) -> "Analyzer":
        """The analyzer inside of all wrappers; itself where there is none."""
        return self

    def as_they_are(self, inputs: list[Any]) -> list[Any]:
        """What the innermost analyzer takes for inputs as they are, in flat order."""
        return inputs

    @property
    def bound(self) -> tuple[Bound, ...]:
        """The rule of each site; nothing for analyzers that do not walk backwards."""
        return ()

    def config(self) -> dict[str, Any]:
        """What makes an equal analyzer, as keyword arguments of its class."""
        given = dict(self._given.arguments) if self._given else {}
        options = given.pop("options", {})
        return {**given, **options}

    def arguments(self) -> dict[str, Any]:
        """The same as `config`."""
        return self.config()

    def save(self, path: PathLike, overwrite: bool = False) -> None:
        """Writes the analyzer, its model included, to one file, which `revgraph.load_analyzer` reads.

        Args:
            path: Where to; `.revgraph` is the usual ending.
            overwrite: Replace a file that exists.

        Raises:
            FileExistsError: The file exists.
            TypeError: The analyzer holds something that cannot be written down, such as a function.
        """
        archives.save(self, path, overwrite)

    def analyze(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **options: Any,
    ) -> Relevance:
        """Computes the relevance of every entry of the inputs.

        Args:
            X: Array or tensor (batch, ...), or the structure of them that the model takes; or a `tf.data.Dataset`,
                `keras.utils.PyDataset` or generator of batches, of inputs alone or of tuples whose first element
                they are.
            neuron_selection: What to explain; see `ReverseAnalyzer.analyze`.
            batch_size: Samples computed at once; all of an array by default.
            verbose: 1 shows a progress bar.
            **options: What analyzers that walk backwards take beside; see `ReverseAnalyzer.analyze`.

        Returns:
            Array of X's shape, or for several inputs arrays in the structure of the model's inputs; float32, or float64
            for float64 models. A dict of one input stays a dict; a list of one is an array, as it is for `predict`.

        Raises:
            ValueError: Wrong shape, number of inputs, or selection.
            TypeError: Not numbers, not a selection, or an option that this analyzer does not take.
        """
        if options:
            raise TypeError(f"analyze of {self.name!r} does not take {next(iter(options))!r}.")
        self.selected(neuron_selection)
        results = [self._explain(inputs) for inputs, _, _ in self.batches(X, batch_size, verbose)]
        return self._packed([np.concatenate(parts) for parts in zip(*results, strict=True)])

    def conservation(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **start: Any,
    ) -> Conservation:
        """Where relevance went; for analyzers that keep account of it.

        Args:
            X, neuron_selection, batch_size, verbose: See `analyze`.
            **start: See `ReverseAnalyzer.conservation`.

        Returns:
            A `Conservation`, which prints as a table.

        Raises:
            Unsupported: This analyzer keeps no account.
        """
        raise Unsupported(
            f"{self.name!r} has no ledger, because its values are not handed on from the output to the inputs. LRP, "
            f"the gradients, deep_lift and integrated_gradients have one."
        )

    def attentions(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **start: Any,
    ) -> "Attentions":
        """What every attention of the model did; see `LRP.attentions`.

        Raises:
            Unsupported: This analyzer is not LRP, so what passes a head is no share of the output.
        """
        raise Unsupported(
            f"{self.name!r} has no attentions: what it finds inside a model is no share of the output. "
            f"The analyzers lrp, lrp.cp, lrp.attnlrp, lrp.vit and all other LRP have them."
        )

    def summary(self) -> Table:
        """Which site got which rule, and why.

        Returns:
            A string that prints as a table, and shows as a table in notebooks.

        Raises:
            Unsupported: This analyzer has no rules.
        """
        raise Unsupported(f"{self.name!r} has no summary, because it binds no rules: it does not walk backwards.")

    def export(self, path: PathLike, version: int | None = None, overwrite: bool = False) -> Path:
        """Writes a SavedModel that runs without revgraph; see `revgraph.saving.export.export`.

        Raises:
            Unsupported: This analyzer is more than one function of TensorFlow.
        """
        raise Unsupported(f"{self.name!r} cannot be exported: it does not run as one TensorFlow function.")

    def record(self, X: Tensors) -> "RecordedPass":
        """Runs the model forward once, for several starts without another forward pass; see `ReverseAnalyzer.record`.

        Raises:
            Unsupported: This analyzer has no backward pass that could start again.
        """
        raise Unsupported(f"{self.name!r} cannot be recorded: it has no backward pass that could start again.")

    def tokens(self, X: Tensors, vocabulary: Sequence[str] | None = None) -> Any:
        """The text of what has relevance, for models that read words.

        Args:
            X: Texts, or ids, as `analyze` takes them.
            vocabulary: The words in the order of their ids. It is known for models that begin with TextVectorization
                or StringLookup, and for tasks of KerasHub.

        Returns:
            `Tokens`, or for several inputs with ids a dict of them by the name of the input.

        Raises:
            ValueError: The model takes ids, and no vocabulary says what they stand for.
        """
        arrays = flat_inputs(X, self.graph)
        looked_up = slots_of_indices(self.graph)
        ids = self.graph.strings.keys() | looked_up
        named = zip(self.graph.input_names, self.graph.input_slots, arrays, strict=True)
        found = {}
        for name, slot, numbers in named:
            if slot in ids:
                words: Any = vocabulary
                numbers = np.asarray(numbers)
                are_ids = slot in looked_up or np.issubdtype(numbers.dtype, np.integer)
                if words is None and slot in self.graph.strings:
                    words = vocabulary_of(self.graph, slot, are_ids)
                elif words is None:
                    raise ValueError(
                        f"The model {self.graph.name!r} takes ids as {name!r}, and does not know their words. Pass "
                        f"them in the order of the ids: analyzer.tokens(x, vocabulary=[...])."
                    )
                found[name] = tokens_of_vocabulary(numbers, words, are_ids, fills=vocabulary is None)
        if not found:
            raise ValueError(f"The model {self.graph.name!r} reads no words: none of its inputs has ids or strings.")
        return found if len(found) > 1 else next(iter(found.values()))

    def continuation(self, prompt: str | Sequence[int], continuation: str | Sequence[int], **options: Any) -> Any:
        """The relevance of each token of a text for each token that follows; for language models with a tokenizer.

        Raises:
            Unsupported: The model is no task of KerasHub that generates text.
        """
        raise Unsupported(
            f"The model {self.graph.name!r} has no tokenizer that says how a text continues. A CausalLM of KerasHub "
            f"has one. For another model select each token by a mask of the output's shape: "
            f"mask[0, place - 1, token] = True."
        )

    def _explain(self, inputs: list[Any]) -> list[np.ndarray]:
        """Relevance of one batch, flat, whatever is selected."""
        raise NotImplementedError

    def _packed(self, flat):
        return packed(flat, self.graph)

    def selected(self, selection: Selection) -> Selection:
        """The selection, or the analyzer's own where none is given."""
        if hasattr(selection, "factors"):
            raise TypeError(
                f"A NextToken is for tasks that continue texts, such as a CausalLM of KerasHub. {self.graph.name!r} is "
                f"none: select a token by its place and id, such as neuron_selection=(-1, token), or by a mask of the "
                f"output's shape."
            )
        if selection is not None:
            return selection
        if self.neuron_selection_mode == "index":
            raise ValueError(
                'This analyzer was made with neuron_selection_mode="index": pass neuron_selection to analyze.'
            )
        return "all" if self.neuron_selection_mode == "all" else None

    def batches(self, x: Tensors, batch_size: int | None = None, verbose: int = 0) -> Iterator[Batch]:
        """Batches of flat inputs; see `revgraph.analyzers.inputs.batches`."""
        return batches(x, self.graph, batch_size, verbose)

    def __repr__(self) -> str:
        return f"<{self.name} of {self.graph.name!r}: {len(self.graph.sites)} sites>"

    def table(self) -> Table:
        """What the analyzer walks over."""
        return self.graph.table()
