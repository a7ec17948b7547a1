"""Finds every attention of a graph: where its weights are, its heads, and the tokens that it reads."""

import collections
import dataclasses
from collections.abc import Mapping

import numpy as np

from revgraph.graph.analysis import Facts, is_linear_layer
from revgraph.graph.gates import is_gate
from revgraph.graph.graph import Graph, Site, common_layer
from revgraph.graph.operations import Contraction, Normalize, Routing, Scale


@dataclasses.dataclass(frozen=True)
class Attention:
    """The product of attention weights and values, and which axes of it are what.

    Args:
        path: The layer in which the product is.
        weights: Slot of the attention weights.
        mixed: Slot of the product, which the heads give to the output projection.
        source: Slot of the tokens whose values are mixed: what the layer reads, before normalization.
        of_weights: Axes of the weights behind the batch: those of heads, of queries, and of keys.
        of_mixed: Axes of the product behind the batch: those of heads, of queries, and of features.
    """

    path: str
    weights: int
    mixed: int
    source: int
    of_weights: tuple[tuple[int, ...], ...]
    of_mixed: tuple[tuple[int, ...], ...]

    def maps(self, weights: np.ndarray, tokens: int, batch: int) -> np.ndarray:
        """The attention weights as (batch, heads, queries, keys).

        Args:
            weights: The tensor in the slot of the weights.
            tokens: How many tokens the source has.
            batch: How many samples there are.
        """
        return self._unfolded(_grouped(weights, self.of_weights), tokens, batch)

    def of_heads(self, mixed: np.ndarray, keys: int, tokens: int, batch: int) -> np.ndarray:
        """The sum over features of a tensor in the slot of the product, as (batch, heads, queries).

        Args:
            mixed: The tensor.
            keys: How many keys a query sees.
            tokens: How many tokens the source has.
            batch: How many samples there are.
        """
        summed = _grouped(mixed, self.of_mixed).sum(axis=-1, keepdims=True)
        return self._unfolded(summed, tokens, batch, keys)[..., 0]

    def _unfolded(self, tensor, tokens, batch, keys=None):
        """Takes windows or heads out of a first axis that has more than the samples."""
        _, heads, queries, last = tensor.shape
        tensor = tensor.reshape(batch, -1, heads, queries, last)
        windows = tensor.shape[1]
        if windows * (keys or last) == tokens:
            # Windows of an image, each with its own queries.
            return np.swapaxes(tensor, 1, 2).reshape(batch, heads, windows * queries, last)
        return tensor.reshape(batch, windows * heads, queries, last)


def attentions(graph: Graph) -> tuple[Attention, ...]:
    """Every attention of a graph, in the order of execution.

    An attention is a product of two matrices. One of them comes from a softmax, or from another function that makes
    weights. Only moves, masks and scale stand between.

    Args:
        graph: The graph.
    """
    facts = Facts(graph)
    found: list[Attention] = []
    seen = collections.Counter[str]()
    for site in graph.sites:
        operation = site.operation
        if not isinstance(operation, Contraction) or len(site.inputs) != 2 or len(set(site.inputs)) != 2:
            continue
        signals = facts.signals(site)
        if len(signals) != 1:
            continue
        (values,) = signals
        # The other factor may also be a constant, such as learned queries.
        if not is_gate(site.inputs[1 - values], "gate", facts.producers, graph.specs):
            continue
        axes = _axes(operation.equation, values)
        if axes is None:
            continue
        weights = site.inputs[1 - values]
        name = _path(site, weights, facts.producers)
        seen[name] += 1
        path = name if seen[name] == 1 else f"{name}#{seen[name]}"
        source = _source(site.inputs[values], facts.producers, graph.specs)
        found.append(Attention(path, weights, site.outputs[0], source, *axes))
    return tuple(found)


def _axes(equation, values):
    """Axes of weights and product; None where the product is not a sum over keys that both operands have."""
    inputs, output = equation.split("->")
    operands = inputs.split(",")
    v, w = operands[values], operands[1 - values]
    keys = [a for a in w if a in v and a not in output]
    both = [a for a in w if a in v and a in output]
    own = [a for a in w if a not in v]
    features = [a for a in output if a not in w]
    if not keys or not both or w[0] != both[0] or output[0] != both[0] or any(a not in output for a in own):
        return None
    # Heads that share their values have an axis of their own in the weights, in front of the queries.
    queries = own[max(0, len(own) - len(keys)) :]
    heads = [a for a in w[1:] if a in both or (a in own and a not in queries)]
    of_weights = tuple(tuple(map(w.index, letters)) for letters in (heads, queries, keys))
    return of_weights, tuple(tuple(map(output.index, letters)) for letters in (heads, queries, features))


def _grouped(tensor, axes):
    """A tensor (first, ...) whose other axes are joined to one for each group of them."""
    turned = np.transpose(tensor, (0, *(axis for group in axes for axis in group)))
    sizes = [int(np.prod([tensor.shape[axis] for axis in group], dtype=int)) for group in axes]
    return turned.reshape(len(tensor), *sizes)


def _path(site: Site, weights: int, producers: Mapping[int, Site]) -> str:
    """The layer that has both the softmax and the product; the product itself where none has."""
    while weights in producers and isinstance(producers[weights].operation, Routing | Scale):
        weights = producers[weights].inputs[0]
    if weights not in producers:
        return site.path
    return common_layer((site.path, producers[weights].path)) or site.path


def _source(slot, producers, specs):
    """The slot of the tokens. A linear layer makes the values from them, and the product adds the values."""
    passed = False
    while slot in producers:
        site = producers[slot]
        floating = [i for i in site.inputs if "float" in specs[i].dtype]
        linear = is_linear_layer(site.operation) and not passed
        if len(floating) != 1 or not (linear or _leads_to_source(site, specs, passed)):
            break
        passed = passed or linear
        (slot,) = floating
    return slot


def _leads_to_source(site, specs, passed):
    operation = site.operation
    if not isinstance(operation, Routing):
        return passed and isinstance(operation, Normalize | Scale)
    # What the linear layer makes is split into heads. What it reads may be cut into windows, but every token stays.
    before, after = (specs[slot].shape for slot in (site.inputs[0], site.outputs[0]))
    stays = before[-1:] == after[-1:] and (
        sorted(before, key=str) == sorted(after, key=str) or operation.name == "Reshape"
    )
    return not passed or (operation.copies and not operation.fills and stays)
