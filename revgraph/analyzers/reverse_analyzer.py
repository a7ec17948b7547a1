"""`ReverseAnalyzer`: an analyzer that walks the graph backwards, by one compiled function per question."""

import copy
import functools
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.conditions import AT_ONCE, placed, warn_of_nothing
from revgraph.analyzers.inputs import flat_inputs
from revgraph.analyzers.recorded import RecordedPass
from revgraph.canonize.passes import canonize, prune, split_activations, strip_output_activation
from revgraph.composites import Composite
from revgraph.composites.composite import Bound
from revgraph.graph import Graph
from revgraph.graph.analysis import Facts
from revgraph.graph.arguments import check_number
from revgraph.graph.bounds import checked_bounds
from revgraph.graph.callers import outside
from revgraph.graph.loops import Loop, without_numbers
from revgraph.graph.operations import Activation, Opaque
from revgraph.graph.tables import Table
from revgraph.graph.types import Bounds, Conditions, PathLike, Relevance, Selection, Tensors
from revgraph.read import trace
from revgraph.reverse.conditions import Masks, Placed
from revgraph.reverse.dangers import GROWTH, warn_of_growth
from revgraph.reverse.ledger import Conservation, merge
from revgraph.reverse.recent import Recent
from revgraph.reverse.reverse_graph import Adjustment, ReverseGraph
from revgraph.reverse.targets import Target, make_targets, single, why_nothing_starts
from revgraph.reverse.walk import Question, Walk
from revgraph.reverse_rules import Unreached
from revgraph.saving.export import export

OF_ANOTHER_DTYPE = (TypeError, ValueError, tf.errors.InvalidArgumentError)
"""What code raises that computes in float32 only and is given float64."""


class ReverseAnalyzer(Analyzer):
    """An analyzer that walks the model's graph backwards under a composite.

    Args:
        model: A built Keras model.
        composite: Which rule for which site.
        reverse_verbose: Print which site got which rule.
        reverse_clip_values: (low, high), to which relevance is clipped at every site; False for no clipping.
        reverse_project_bottleneck_layers: True or (low, high): relevance is scaled to [-1, 1], or to that range, at the
            tensors through which all paths lead; see `Adjustment`.
        reverse_check_min_max_values: Print the least and the largest relevance at every site, at each `analyze`.
        reverse_check_finite: Warn of sites whose relevance is not finite, at each `analyze`.
        reverse_keep_tensors: Keep the relevance at the inputs of every site in `reversed_tensors`, a dict by the path
            of the site, until the next `analyze`.
        input_bounds: (low, high) of the model's inputs, for `ZBox` rules that have no bounds of their own: numbers, or
            arrays that broadcast against a sample.
        freeze: Take the model's weights as they are for good, and keep what rules make of them: faster, for more
            memory. Otherwise weights assigned later are seen by the next `analyze`.
        jit_compile: Compile with XLA, as `tf.function` does.
        literal: Compute every rule as its formula is written, without the speed layer: slower, for checking.
        max_growth: `analyze` warns, once, when the sum of |R| grows by more than this factor through a site; not where
            relevance is kept in bounds by the arguments above.
        **options: See `Analyzer`.
    """

    selects = True
    traced: Graph
    """The model's graph before canonization, with activations as sites of their own."""

    def __init__(
        self,
        model: keras.Model | Graph,
        composite: Composite,
        reverse_verbose: bool = False,
        reverse_clip_values: Literal[False] | Bounds = False,
        reverse_project_bottleneck_layers: bool | Bounds = False,
        reverse_check_min_max_values: bool = False,
        reverse_check_finite: bool = False,
        reverse_keep_tensors: bool = False,
        input_bounds: Bounds | None = None,
        freeze: bool = False,
        jit_compile: bool = False,
        literal: bool = False,
        max_growth: float = GROWTH,
        **options: Any,
    ) -> None:
        self.input_bounds = None if input_bounds is None else checked_bounds(input_bounds)
        if max_growth != math.inf:
            check_number("max_growth", max_growth, above=0)
        self.composite = composite
        self.freeze = freeze
        self.jit_compile = jit_compile
        self.literal = literal
        self.max_growth = max_growth
        self._warned: set[str] = set()
        self.reverse_clip_values = reverse_clip_values
        self.reverse_project_bottleneck_layers = reverse_project_bottleneck_layers
        self.reverse_check_min_max_values = reverse_check_min_max_values
        self.reverse_check_finite = reverse_check_finite
        self.reverse_keep_tensors = reverse_keep_tensors
        self.reversed_tensors: dict[str, Any] | None = None
        super().__init__(model, **options)
        self._walks = Recent()
        self._refused = self._outputs_that_start_nothing()
        self.walk(self.question)
        for unused in composite.unused_names(self.graph):
            warnings.warn(unused, stacklevel=outside())
        if reverse_verbose:
            print(self.summary())

    def _graph(self, dtype=None):
        graph: Graph = trace(self.model if dtype is None else self._read, self.composite.classes, dtype)
        self._read: Graph = graph
        self.traced = split_activations(graph)
        stripped = strip_output_activation(self.traced)
        # Said of the model once, and not again of its twin in float64.
        if dtype is None and stripped.output_slots != graph.output_slots:
            warnings.warn(
                f"The output of {graph.name!r} is a probability: its logits are explained, the values before "
                f"softmax or sigmoid.",
                stacklevel=outside(),
            )
        return self._canonize(stripped, frozenset())

    @functools.cached_property
    def _precise(self) -> "ReverseAnalyzer":
        """This analyzer on the model in float64; itself where something computes in a precision of its own."""
        if self.graph.dtype == "float64" or any(map(self._has_own_precision, self.graph.sites)):
            return self
        twin = copy.copy(self)
        twin._walks = Recent()
        try:
            twin.graph = twin._graph("float64")
        except OF_ANOTHER_DTYPE:
            return self
        return twin

    def _has_own_precision(self, site):
        return isinstance(site.operation, Opaque) and any("float" in self.graph.specs[s].dtype for s in site.outputs)

    def _canonize(self, graph, keep):
        """The graph in the form on which this analyzer's rules are defined."""
        return canonize(graph, keep)

    def _own_start(self, y):
        """The relevance that selected neurons start with: their own value."""
        return y

    def _finish(self, relevance, x, slot):
        """What is returned for an input, from the relevance that arrived there."""
        return relevance

    def walk(self, question: Question) -> Walk:
        """The walk that answers a question, made when first asked for."""
        return self._walks.value(question, lambda: self._answering(question))

    def _answering(self, question: Question) -> Walk:
        graph = self.graph
        if question != Question(self.graph.output_slots):
            names = dict(zip(graph.output_slots, graph.output_names, strict=True))
            graph = self.traced.rewrite(
                self.traced.sites,
                outputs=list(question.starts),
                output_names=tuple(names.get(slot, str(slot)) for slot in question.starts),
            )
            graph = self._canonize(prune(graph, question.slots), question.slots)
        return self._new_walk(graph, question)

    @property
    def question(self) -> Question:
        """What is asked where nothing is said: relevance of the inputs, from the model's outputs."""
        _, starts = self._outputs()
        return Question(starts)

    def _outputs(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Names and slots of the outputs at which relevance can start; of all where it can at none."""
        pairs = list(zip(self.graph.output_names, self.graph.output_slots, strict=True))
        names, slots = zip(*([pair for pair in pairs if pair[0] not in self._refused] or pairs), strict=True)
        return names, slots

    def _outputs_that_start_nothing(self) -> dict[str, str]:
        """Why relevance cannot start at an output, by its name."""
        reasons = {
            name: why_nothing_starts(self.graph, slot)
            for name, slot in zip(self.graph.output_names, self.graph.output_slots, strict=True)
        }
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def selected(self, selection: Selection) -> Selection:
        self._check_explainable(selection if isinstance(selection, dict) else ())
        return super().selected(selection)

    def _check_explainable(self, names):
        for name in names:
            if name in self._refused:
                raise ValueError(f"The output {name!r} cannot be explained: {self._refused[name]}.")

    def _new_walk(self, graph: Graph, question: Question) -> Walk:
        """A walk over a canonized graph."""
        keep = self.reverse_keep_tensors or self.reverse_check_finite or self.reverse_check_min_max_values
        reverse = self._reverse_graph(graph, question)
        return Walk(reverse, question, self._own_start, self._finish, self.max_growth, keep, self.jit_compile)

    def _reverse_graph(self, graph: Graph, question: Question) -> ReverseGraph:
        adjust = Adjustment(graph, self.reverse_clip_values, self.reverse_project_bottleneck_layers)
        bound = self.composite.bind(graph, self.input_bounds)
        loop = next((b.site.path for b in bound if isinstance(b.site.operation, Loop)), None)
        if self.jit_compile and loop is not None:
            raise ValueError(
                f"jit_compile=True does not take {loop!r}, because XLA needs to know the number of turns of a loop. "
                f"Leave jit_compile out."
            )
        return ReverseGraph(graph, bound, question.starts, adjust, fast=not self.literal, frozen=self.freeze)

    # `Analyzer.analyze` takes any option, so that whatever `create_analyzer` returns can be asked. These are all.
    def analyze(  # type: ignore[override]
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        *,
        initial_relevance: Any = None,
        layer: str | keras.Layer | None = None,
        attribute_to_neuron_input: bool = False,
        pre_activation: bool = False,
        return_layers: str | keras.Layer | Sequence[str | keras.Layer] | None = None,
        layers_at: str = "input",
        return_convergence_delta: bool = False,
        conditions: Conditions | None = None,
        around: bool = False,
    ) -> Relevance:
        """Computes the relevance of every entry of the inputs.

        Args:
            X: Array or tensor (batch, ...), or the structure of them that the model takes; or a `tf.data.Dataset`,
                `keras.utils.PyDataset` or generator of batches, of inputs alone or of tuples whose first element
                they are.
            neuron_selection: What to explain. An int; a list or array of one int per sample; an int array of shape
                (batch, targets); `"max_activation"`, `"all"`; a tuple of an int or slice per axis after the batch; a
                boolean mask of the output's shape; floating factors of that shape, by which the start of each neuron
                is multiplied; a function of the output that gives one number per sample, such as
                `lambda y: y[:, 3] - y[:, 5]`. For an output of one unit `"positive"` is the unit, and `"negative"` the
                other class of a binary classifier, whose logit is the negative one; or a list of one word per sample.
                For several outputs a dict of these by output name.
            batch_size: Samples computed at once; all of an array by default.
            verbose: 1 shows a progress bar.
            initial_relevance: What a selected neuron starts with, in place of its own value (LRP) or 1 (gradients): a
                number; one per sample; an array of the output's shape, which without a selection is the start itself;
                or a function of the output that gives one of these.
            layer: Name or path of an inner layer to start at, in place of the model's output.
            attribute_to_neuron_input: Start at that layer's input.
            pre_activation: Start before that layer's fused activation.
            return_layers: Names or paths of layers, or `"all"`: their relevance is returned, too. That of a site inside
                of a loop, such as `"lstm/lstm_cell"`, is returned for every turn, (batch, turns, ...).
            layers_at: `"input"` or `"output"` of those layers.
            return_convergence_delta: Also return the start relevance less the sum that arrived at the inputs.
            conditions: What relevance may pass, such as `{"conv3": [12, 40]}`: at the output of each layer that is
                named, relevance is followed only through these channels, the entries of the last axis. A layer takes an
                int or a list of ints; a tuple of an int or slice per axis after the batch for units at a position, or a
                list of such tuples; a boolean mask of the channels, of a sample or of the batch; `{"heads": [0, 2]}`
                for heads of an attention. A dict is one condition; a list of dicts is several; a list of lists is
                several for each sample, all of the same number.
            around: Let relevance pass around the layers that are named, too, such as on the shortcut of a residual
                block. By default it is followed only through them.

        Returns:
            Array of X's shape, or for several inputs arrays in the structure of the model's inputs; float32, or float64
            for float64 models. A dict of one input stays a dict; a list of one is an array, as it is for `predict`.
            For several targets (batch, targets, ...), for several conditions (batch, conditions, ...), and for both
            (batch, targets, conditions, ...). With `return_layers` and `return_convergence_delta` a tuple that
            also has a dict by layer name (a list for layers with several tensors), and an array (batch,).

        Raises:
            ValueError: Wrong shape, number of inputs, or selection.
            TypeError: Not numbers, or not a selection.
            KeyError: Unknown or ambiguous layer or output name.

        Example:

            relevance = analyzer.analyze(x, neuron_selection=3)
            relevance, layers = analyzer.analyze(x, return_layers=["conv1"])
            through = analyzer.analyze(x, 3, conditions={"conv1": [12, 40]})
            each = analyzer.analyze(x, 3, conditions=[{"conv1": [12]}, {"conv1": [40]}])  # (batch, 2, ...)
        """
        names, starts = self.starts(layer, attribute_to_neuron_input, pre_activation)
        limits = self._placed(conditions, around, starts)
        asked = self._asked(return_layers, layers_at)
        outside_loops = tuple(slots for slots in asked.values() if slots is not None)
        inside = tuple((path, layers_at) for path, slots in asked.items() if slots is None)
        question = Question(starts, outside_loops, inside=inside, masked=limits.slots, around=limits.around)
        walk = self.walk(question)
        results = [
            self._followed(walk, inputs, chosen, masks)
            for inputs, chosen, masks in self.questions(
                walk, names, X, neuron_selection, initial_relevance, batch_size, verbose, limits
            )
        ]
        # A variant of a sample may have no relevance where the mean over all variants has some.
        if limits.places and not limits.variants:
            for result in results:
                warn_of_nothing(result["start"].numpy(), [r.numpy() for r in result["relevance"]], outside() + 1)
        return self.answer(results, asked, return_layers is not None, return_convergence_delta)

    def _placed(self, conditions, around, starts):
        in_loops = [b.site.path for bound in self.bound for b in bound.inside]
        return placed(conditions, around, self.traced, starts, in_loops)

    def _followed(self, walk, inputs, chosen, masks):
        """The relevance of one batch. Conditions are followed some at a time, because each takes memory."""
        if masks is None:
            return walk.relevance(inputs, chosen)
        if not masks.several:
            return walk.relevance(inputs, chosen, masks)
        parts = [walk.relevance(inputs, chosen, part) for part in masks.cut(AT_ONCE)]
        axis = len(parts[0]["start"].shape) - 1
        return keras.tree.map_structure(lambda *each: tf.concat(each, axis), *parts)

    def answer(
        self, results: list[Any], asked: dict[str, tuple[int, ...] | None], with_layers: bool, with_delta: bool
    ) -> Relevance:
        """The value of `analyze` from the results of all batches."""
        self._watch(results)
        inside = [result.pop("inside") for result in results]
        joined = keras.tree.map_structure(lambda *parts: np.concatenate([p.numpy() for p in parts]), *results)
        if "kept" in joined:
            self._inspect(joined["kept"])
        answer = [self._packed(joined["relevance"])]
        if with_layers:
            parts = [iter(joined["layers"]), iter(keras.tree.map_structure(_padded, *inside))]
            layers = {name: next(parts[slots is None]) for name, slots in asked.items()}
            answer.append({name: r[0] if len(r) == 1 else r for name, r in layers.items()})
        if with_delta:
            start = joined["start"]
            answer.append(start - sum(r.sum(axis=tuple(range(start.ndim, r.ndim))) for r in joined["relevance"]))
        return answer[0] if len(answer) == 1 else tuple(answer)

    def _watch(self, results):
        """Warns, once of each, of relevance that explodes or vanishes."""
        growths = [result.pop("growth", {}) for result in results]
        sums = [np.asarray(result.pop("magnitudes")) for result in results if "magnitudes" in result]
        if "growth" not in self._warned:
            factors = {path: max(float(growth[path]) for growth in growths) for path in growths[0]}
            if warn_of_growth(factors, self.max_growth, stacklevel=outside() + 1):
                self._warned.add("growth")
        if sums and "magnitudes" not in self._warned and self._warns_of(np.concatenate(sums)):
            self._warned.add("magnitudes")

    def _warns_of(self, magnitudes: np.ndarray) -> bool:
        """Warns of what sum |R| at the start and at the inputs, (samples, 2), shows; returns whether it did."""
        return False

    def _inspect(self, kept):
        """Keeps, checks and prints intermediate relevance, as the constructor's arguments ask for."""
        order = {site.path: i for i, site in enumerate(self.graph.sites)}
        kept = {path: kept[path] for path in sorted(kept, key=lambda path: order.get(path, -1))}
        if self.reverse_keep_tensors:
            self.reversed_tensors = {path: r[0] if len(r) == 1 else r for path, r in kept.items()}
        if self.reverse_check_finite:
            bad = [path for path, tensors in kept.items() if not all(np.isfinite(r).all() for r in tensors)]
            if bad:
                warnings.warn(f"Relevance is not finite at the inputs of {', '.join(bad)}.", stacklevel=outside())
        if self.reverse_check_min_max_values:
            rows = [(p, min(map(np.min, t)), max(map(np.max, t))) for p, t in kept.items()]
            print(Table(("relevance at the inputs of", "min", "max"), rows))

    def questions(
        self,
        walk: Walk,
        names: Sequence[str],
        x: Tensors,
        selection: Selection,
        initial: Any,
        batch_size: int | None,
        verbose: int,
        limits: Placed | None = None,
    ) -> Iterator[tuple[list[Any], list[Target], Masks | None]]:
        """Flat inputs, their targets, and what relevance may pass, batch by batch; see `analyze` for the arguments."""
        shapes = [walk.graph.specs[slot].shape[1:] for slot in walk.question.starts]
        selection = self.selected(selection)
        for inputs, samples, count in self.batches(x, batch_size, verbose):
            if samples.start == 0:
                targets = make_targets(selection, initial, count, names, shapes)
            chosen = [target.part(samples) for target in targets]
            if any(target.needs_output() for target in chosen):
                chosen = self._on_outputs(walk, inputs, chosen)
            masks = None if limits is None else limits.on(samples, count, self._sizes(walk, inputs, limits))
            yield inputs, chosen, masks

    def _sizes(self, walk, inputs, limits):
        """The shapes of the tensors that conditions mask, where masks depend on sizes that only data have."""
        if not limits.needs_sizes():
            return {}
        values, batch = self._values(walk, inputs), len(inputs[0])
        return {slot: (len(values[slot]) // batch, *values[slot].shape[1:]) for slot in limits.slots}

    def _values(self, walk, inputs):
        """The tensor of every slot of a walk."""
        return walk.graph.run([tf.cast(x, spec.dtype) for x, spec in zip(inputs, walk.input_specs(), strict=True)])

    def _on_outputs(self, walk, inputs, chosen):
        """Targets that no longer depend on the outputs."""
        return [target.on(y) for target, y in zip(chosen, walk.outputs(inputs), strict=True)]

    def starts(
        self, layer: str | keras.Layer | None, at_input: bool, pre_activation: bool
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Names and slots at which relevance starts."""
        if layer is None:
            if at_input or pre_activation:
                raise ValueError("attribute_to_neuron_input and pre_activation go with layer=..., which is missing.")
            names, starts = self._outputs()
            self._check_explainable(names)
            return names, starts
        call = self.traced.find(layer)
        slots = call.inputs if at_input else call.outputs
        if len(slots) != 1:
            raise ValueError(
                f"Relevance starts at one tensor, and {call.path!r} has {len(slots)} "
                f"{'inputs' if at_input else 'outputs'}: name the layer that makes the one you mean."
            )
        if pre_activation:
            producer = self.traced.producers().get(slots[0])
            if producer is not None and isinstance(producer.operation, Activation):
                slots = producer.inputs[:1]
        reason = why_nothing_starts(self.traced, slots[0])
        if reason is not None:
            raise ValueError(f"Relevance cannot start at {call.path!r}: {reason}.")
        return (call.path,), slots

    def _asked(self, return_layers: Any, at: str) -> dict[str, tuple[int, ...] | None]:
        """Slots whose relevance is returned, by the name under which it was asked for; None for a site in a loop."""
        if at not in ("input", "output"):
            raise ValueError(f'layers_at is "input" or "output". Received: {at!r}.')
        if return_layers is None:
            return {}

        def slots(call):
            return call.inputs if at == "input" else call.outputs

        if isinstance(return_layers, str) and return_layers == "all":
            facts = Facts(self.traced)
            found = {call.path: facts.of_samples(slots(call)) for call in self.traced.calls}
            return {path: slots for path, slots in found.items() if slots}
        names = [return_layers] if isinstance(return_layers, str) else list(return_layers)
        return {self._path_in_loops(n) or _name(n): self._slots_of(n, slots) for n in names}

    def _slots_of(self, name, slots):
        return None if self._path_in_loops(name) else slots(self.traced.find(name))

    def _path_in_loops(self, name):
        """The path of the site inside of a loop that is meant by a name; None where none is, or a layer is."""
        sites = [b.site.path for bound in self.bound for b in bound.inside if not isinstance(b.rule, Unreached)]
        found = [path for path in sites if path == name] or [p for p in sites if without_numbers(p) == name]
        if len(found) > 1:
            several = ", ".join(map(repr, found))
            raise KeyError(f"{name!r} stands for {len(found)} sites inside of loops; name one of them: {several}.")
        return found[0] if found else None

    def export(self, path: PathLike, version: int | None = None, overwrite: bool = False) -> Path:
        """Writes a SavedModel that runs without revgraph; see `revgraph.saving.export.export`."""
        return export(self.walk(self.question), self.traced, path, version, overwrite)

    def record(self, X: Tensors) -> RecordedPass:
        """Runs the model forward once, for several starts without another forward pass.

        Args:
            X: As in `analyze`, one batch.

        Returns:
            A `RecordedPass`, whose `analyze` takes a selection.

        Example:

            recorded = analyzer.record(x)
            first, second = (recorded.analyze(neuron_selection=c) for c in (3, 5))
        """
        return self._recorded(flat_inputs(X, self.graph))

    def _recorded(self, inputs):
        _, starts = self.starts(None, False, False)
        walk = self.walk(Question(starts))
        return RecordedPass(self, walk, [tf.convert_to_tensor(x) for x in inputs])

    def conservation(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        *,
        conditions: Conditions | None = None,
        around: bool = False,
        **start: Any,
    ) -> Conservation:
        """Where relevance went: found at the inputs, absorbed by biases, constants, rules and stabilisers, or lost.

        It is computed in float64, so that what is shown as lost is lost by a rule and not by rounding. A
        SavedModel, or a layer that revgraph cannot look into, may compute in a precision of its own, which then holds.

        Args:
            X, neuron_selection, batch_size, verbose: See `analyze`.
            conditions, around: See `analyze`. One condition per sample.
            **start: `initial_relevance`, `layer`, `attribute_to_neuron_input`, `pre_activation`: see `analyze`.

        Returns:
            A `Conservation`, which prints as a table.
        """
        names, starts, initial = self.started("conservation", start)
        limits = self._placed(conditions, around, starts)
        question = Question(starts, masked=limits.slots, around=limits.around)
        batches = self.questions(self.walk(question), names, X, neuron_selection, initial, batch_size, verbose, limits)
        return merge(
            self._ledger(question, inputs, single(chosen, "conservation"), masks and masks.only("conservation"))
            for inputs, chosen, masks in batches
        )

    def started(self, asked: str, start: dict[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...], Any]:
        """Names and slots at which relevance starts, and what it starts with.

        Args:
            asked: The method that was asked, for the message.
            start: Of the arguments of `analyze`: `initial_relevance`, `layer`, `attribute_to_neuron_input`,
                `pre_activation`.
        """
        known = {"initial_relevance": None, "layer": None, "attribute_to_neuron_input": False, "pre_activation": False}
        for name in start:
            if name not in known:
                raise TypeError(f"{asked} does not take {name!r}.")
        given: dict[str, Any] = {**known, **start}
        where = self.starts(given["layer"], given["attribute_to_neuron_input"], given["pre_activation"])
        return *where, given["initial_relevance"]

    def _ledger(self, question, inputs, chosen, masks):
        """The ledger of one batch, in float64 if the model can be computed in it."""
        return self._on_precise(lambda analyzer: analyzer.walk(question).ledger(inputs, chosen, masks))

    def _on_precise(self, ask):
        """What a function of an analyzer gives of this one in float64, or as it is where that cannot be computed."""
        try:
            return ask(self._precise)
        except OF_ANOTHER_DTYPE:
            if self._precise is self:
                raise
        self._precise = self
        return ask(self)

    @property
    def bound(self) -> tuple[Bound, ...]:
        return self.walk(self.question).reverse.bound

    def summary(self) -> Table:
        return self.table()

    def table(self) -> Table:
        flat = [each for bound in self.bound for each in bound.flat()]
        rows = [(b.site.path, b.site.operation.label, b.rule, b.reason, ", ".join(b.site.merged)) for b in flat]
        return Table(("site", "operation", "rule", "matched by", "merged"), rows, title=repr(self)[1:-1])


def _padded(*parts):
    """The relevance of all batches inside of a loop. A batch with fewer turns than another gets zeros for the rest."""
    shapes = np.max([part.shape for part in parts], axis=0)
    pads = ([(0, n - m if axis else 0) for axis, (m, n) in enumerate(zip(p.shape, shapes, strict=True))] for p in parts)
    return np.concatenate([np.pad(part.numpy(), pad) for part, pad in zip(parts, pads, strict=True)])


def _name(layer):
    return layer if isinstance(layer, str) else getattr(layer, "name", str(layer))
