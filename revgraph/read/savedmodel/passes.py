"""Passes that run after a TensorFlow graph was read. They join operations that are one site, such as x W and + b."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import tensorflow as tf

from revgraph.graph.graph import Graph, Site, Spec
from revgraph.graph.operations import (
    Affine,
    BatchNorm,
    Convolutional,
    Dense,
    Einsum,
    LinearMap,
    Opaque,
    Operation,
    Routing,
    Sum,
    Table,
    constant,
    reading,
)
from revgraph.graph.scaling import scaling
from revgraph.read.savedmodel.softmax import join_softmax
from revgraph.read.savedmodel.weights import Expression, ScaleAndShift, Weight


def simplify(
    graph: Graph, held: Iterable[int] = frozenset(), returned: Mapping[int, int] = MappingProxyType({})
) -> Graph:
    """Drops unused sites, gives linear layers their bias, and joins scales and shifts.

    Args:
        graph: The graph, as it was read.
        held: Slots that must survive, because a layer of the user's model reads or writes them.
        returned: The slot for a weight that a layer of the user's model returns, by the id of the weight.

    Returns:
        A graph with the same outputs.
    """
    graph = bias_into_linear(bias_before_reshape(drop_unused(graph), held), held)
    graph = add_tables(join_scale_and_shift(graph, held), returned)
    graph = drop_unused(join_softmax(name_scales(graph), held))
    return number_paths(join_lists(graph))


def drop_unused(graph: Graph) -> Graph:
    """Drops the sites on which no output depends."""
    needed, sites = set(graph.output_slots), []
    for site in reversed(graph.sites):
        if needed.intersection(site.outputs):
            needed.update(site.inputs)
            sites.append(site)
    return graph.rewrite(reversed(sites))


def bias_into_linear(graph: Graph, held: Iterable[int] = frozenset()) -> Graph:
    """Joins x W and + b to one affine site."""

    def merge(first, second):
        linear, bias = first.operation, _shift_of(second.operation)
        if not isinstance(linear, Dense | Einsum | Convolutional) or bias is None:
            return None
        # A second shift is no bias of the layer.
        if "bias" in linear.read("float32"):
            return None
        # A tensor that differs along other axes than those of the units is no bias of a layer.
        rank = len(graph.specs[second.outputs[0]].shape)
        if _axes(bias.shape, rank) - _axes_of_units(linear, rank):
            return None
        return dataclasses.replace(linear, reader=_Biased(linear, bias))

    return _merge_pairs(graph, merge, held)


def bias_before_reshape(graph: Graph, held: Iterable[int] = frozenset()) -> Graph:
    """Makes reshape(x W) + b reshape(x W + b), where the reshape splits the units of a layer, such as into heads."""
    readers, producers, held = graph.consumers(), graph.producers(), {*held, *graph.output_slots}

    def alone(site):
        return len(site.outputs) == 1 and len(readers[site.outputs[0]]) == 1 and held.isdisjoint(site.outputs)

    changed: dict[Site, Site] = {}
    for shift in graph.sites:
        bias = _shift_of(shift.operation)
        reshape = None if bias is None else producers.get(shift.inputs[0])
        if bias is None or reshape is None or not _is_reshape(reshape) or not alone(reshape):
            continue
        linear = producers.get(reshape.inputs[0])
        if linear is None or not isinstance(linear.operation, Dense) or not alone(linear):
            continue
        if "bias" in linear.operation.read("float32"):
            continue
        units, parts = graph.specs[linear.outputs[0]].shape[-1], bias.shape
        ends = graph.specs[reshape.outputs[0]].shape[-len(parts) :] if parts else ()
        if ends == tuple(parts) and None not in ends and _size(ends) == units:
            flat = ScaleAndShift(None, bias.map(lambda b: tf.reshape(b, [-1]), (units,)))
            moved = dataclasses.replace(shift, operation=flat, inputs=reshape.inputs, outputs=reshape.outputs)
            changed[reshape] = moved
            changed[shift] = dataclasses.replace(reshape, inputs=reshape.outputs, outputs=shift.outputs)
    specs = {
        **graph.specs,
        **{s.outputs[0]: graph.specs[s.inputs[0]] for s in changed.values() if not _is_reshape(s)},
    }
    return dataclasses.replace(graph.rewrite(changed.get(site, site) for site in graph.sites), specs=specs)


@dataclasses.dataclass(frozen=True, eq=False)
class _Biased:
    """Reads the weights of a linear layer, and a bias for it."""

    linear: Affine
    bias: Weight

    def __call__(self, dtype: tf.DType | str) -> dict[str, tf.Tensor]:
        return {**self.linear.read(dtype), "bias": self.bias.read(dtype)}


def join_scale_and_shift(graph: Graph, held: Iterable[int] = frozenset()) -> Graph:
    """Joins x * w and + b to one site, and batch normalization that is written as (x - mean) * scale + shift."""

    def merge(first, second):
        one, two = first.operation, second.operation
        if not isinstance(one, ScaleAndShift) or not isinstance(two, ScaleAndShift):
            return None
        mean = _shift_of(one)
        centred = mean is not None and two.kernel is not None and _is_batchnorm(two) and _size(mean.shape) > 1
        if centred or (two.kernel is None and one.bias is None) or (one.kernel is not None and _is_batchnorm(one)):
            return _joined(one, two)
        return None

    return _merge_pairs(graph, merge, held)


def add_tables(graph: Graph, returned: Mapping[int, int] = MappingProxyType({})) -> Graph:
    """Makes x + w a sum of two tensors where w differs along several axes, as a table of positions does.

    So the table has relevance of its own, as it has where the number of positions is not known before.

    Args:
        graph: The graph.
        returned: The slot for a weight that a layer returns, by the id of the weight.
    """
    specs, sum_of_two = dict(graph.specs), Sum(reading({"kernel": constant([1.0, 1.0])}))
    tables: dict[tuple[int, Spec], int] = {}

    def split(site):
        bias, spec = _shift_of(site.operation), graph.specs[site.outputs[0]]
        if bias is None or len(_axes(bias.shape, len(spec.shape))) < 2:
            return [site]
        key, parts = (id(bias), spec), []
        if key not in tables:
            # A weight that is added to tensors of several shapes has a table for each.
            alone = all(weight != id(bias) for weight, _ in tables)
            tables[key] = returned.get(id(bias), len(specs)) if alone else len(specs)
            specs[tables[key]] = spec
            table = Table(_repeated, "Table", copies=True, fixed=True, fills=True, source=bias.read)
            parts = [Site(f"{site.path}/table", table, site.inputs, (tables[key],))]
        return [*parts, dataclasses.replace(site, operation=sum_of_two, inputs=(*site.inputs, tables[key]))]

    sites = [part for site in graph.sites for part in split(site)]
    return dataclasses.replace(graph.rewrite(sites), specs=specs)


def _repeated(x, table):
    return tf.broadcast_to(table, tf.broadcast_dynamic_shape(tf.shape(x), tf.shape(table)))


def _joined(one, two):
    kernel = _combined(one.kernel, two.kernel, tf.multiply)
    bias = _combined(one.bias, two.kernel, tf.multiply) if one.bias is not None else None
    return ScaleAndShift(kernel, _combined(bias, two.bias, tf.add))


def _combined(left, right, function):
    if left is None or right is None:
        return left if right is None else right
    shape = tuple(tf.broadcast_static_shape(tf.TensorShape(left.shape), tf.TensorShape(right.shape)))
    return Weight(
        Expression((left, right), lambda dtype, *both: [function(*both)]),
        shape,
        made_by=left.made_by | right.made_by,
    )


def name_scales(graph: Graph) -> Graph:
    """Makes every `ScaleAndShift` a `Scale`, or a `BatchNorm` where it divides by a standard deviation."""

    def rewrite(site):
        if not isinstance(site.operation, ScaleAndShift):
            return site
        return dataclasses.replace(site, operation=_scale(site.operation, graph.specs[site.outputs[0]].shape))

    return graph.rewrite(map(rewrite, graph.sites))


def join_lists(graph: Graph) -> Graph:
    """Joins sites that exchange values that cannot carry relevance, until only floating numbers are exchanged.

    Such values are the lists of tensors of loops over time steps, and complex numbers.
    """
    group = {site: i for i, site in enumerate(graph.sites)}
    producers = graph.producers()
    for site in graph.sites:
        for slot in site.inputs:
            if graph.specs[slot].dtype in JOINING and slot in producers:
                old, new = group[producers[slot]], group[site]
                group = {s: new if i == old else i for s, i in group.items()}
    for name in {number for number in group.values() if list(group.values()).count(number) > 1}:
        group.update(dict.fromkeys(_between(name, group, graph), name))
    members: dict[int, list[Site]] = {}
    for site in graph.sites:
        members.setdefault(group[site], []).append(site)
    if len(members) == len(graph.sites):
        return graph
    return graph.rewrite(_in_order([site for parts in members.values() for site in _joined_sites(parts, graph)]))


def _between(name: int, group: Mapping[Site, int], graph: Graph) -> list[Site]:
    """The sites that depend on a group of sites, and on which the same group depends, with the group."""
    after: set[int] = set()
    before: set[int] = set()
    behind = []
    for site in graph.sites:
        if group[site] == name or not after.isdisjoint(site.inputs):
            after.update(site.outputs)
            behind.append(site)
    found = []
    for site in reversed(behind):
        if group[site] == name or not before.isdisjoint(site.outputs):
            before.update(site.inputs)
            found.append(site)
    return found


def _in_order(sites: list[Site]) -> list[Site]:
    """The sites, each after those that write what it reads."""
    written = {slot: site for site in sites for slot in site.outputs}
    order: dict[Site, None] = {}
    stack = list(reversed(sites))
    while stack:
        site = stack[-1]
        missing = [written[slot] for slot in site.inputs if slot in written and written[slot] not in order]
        if missing:
            stack.extend(missing)
        else:
            order[stack.pop()] = None
    return list(order)


JOINING = frozenset({"variant", "resource", "complex64", "complex128"})
"""Dtypes of values that cannot carry relevance from one site to another."""

REAL_LINEAR = frozenset(
    "Cast Complex Conj FFT FFT2D FFT3D FFTND IFFT IFFT2D IFFT3D IFFTND Imag IRFFT IRFFT2D IRFFT3D RFFT RFFT2D RFFT3D "
    "Real".split()
)
"""Types of operations on complex numbers that are linear in the real and the imaginary parts."""


def _joined_sites(parts, graph):
    if len(parts) == 1:
        return parts
    written = {slot for site in parts for slot in site.outputs}
    inputs = tuple(dict.fromkeys(slot for site in parts for slot in site.inputs if slot not in written))
    readers = {slot for site in graph.sites if site not in parts for slot in site.inputs} | set(graph.output_slots)
    outputs = tuple(slot for site in parts for slot in site.outputs if slot in readers)

    def run(*tensors, wanted=outputs):
        values = dict(zip(inputs, tensors, strict=True))
        for site in parts:
            given = [values[slot] for slot in site.inputs]
            results = site.operation(given, site.operation.weights(graph.dtype, given))
            values.update(zip(site.outputs, results, strict=True))
        return [values[slot] for slot in wanted]

    if all(map(_is_real_linear, parts)):
        name = next(site for site in parts if site.operation.label != "Cast")
        return [
            Site(
                name.path,
                LinearMap(lambda dtype: {}, lambda *x, slot=slot: run(*x, wanted=(slot,))[0], name.operation.label),
                inputs,
                (slot,),
            )
            for slot in outputs
        ]
    opaque = [site for site in parts if isinstance(site.operation, Opaque)]
    loop = next((site for site in opaque if "While" in site.operation.label), opaque[0])
    operation = dataclasses.replace(loop.operation, function=run, outputs_count=len(outputs))
    return [Site(loop.path, operation, inputs, outputs)]


def _is_real_linear(site):
    operation = site.operation
    if isinstance(operation, Routing):
        return operation.fixed and not operation.fills and len(site.inputs) == 1
    if isinstance(operation, Affine):
        return len(site.inputs) == 1 and "bias" not in operation.read("float32")
    return operation.label in REAL_LINEAR


def number_paths(graph: Graph) -> Graph:
    """Numbers the paths of sites that come from the same node: `dense/MatMul`, `dense/MatMul#2`."""
    counts: dict[str, int] = {}

    def rewrite(site):
        counts[site.path] = counts.get(site.path, 0) + 1
        return site if counts[site.path] == 1 else dataclasses.replace(site, path=f"{site.path}#{counts[site.path]}")

    return graph.rewrite(map(rewrite, graph.sites))


def _scale(operation, shape):
    kernel, bias = operation.kernel, operation.bias
    scale = scaling(
        shape,
        None if kernel is None else kernel.read,
        None if bias is None else bias.read,
        () if kernel is None else kernel.shape,
        () if bias is None else bias.shape,
    )
    return BatchNorm(scale.reader, scale.axis) if _is_batchnorm(operation) else scale


def _shift_of(operation: Operation) -> Weight | None:
    """The weight that an operation adds, if that is all it does; None otherwise."""
    return operation.bias if isinstance(operation, ScaleAndShift) and operation.kernel is None else None


def _is_reshape(site: Site) -> bool:
    moves = isinstance(site.operation, Routing) and len(site.inputs) == 1
    return moves and site.operation.label == "Reshape"


def _is_batchnorm(operation):
    """Whether a scale divides by a standard deviation, as batch normalization does."""
    if operation.kernel is None:
        return False
    made_by = operation.kernel.made_by
    # Keras's Normalization, which is preprocessing, keeps the standard deviation from zero by a maximum.
    return "Rsqrt" in made_by or ("Sqrt" in made_by and "Maximum" not in made_by)


def _axes(shape: Sequence[int | None], rank: int) -> frozenset[int]:
    """The axes of a tensor of `rank` axes along which a weight of this shape differs."""
    return frozenset(rank - len(shape) + i for i, n in enumerate(shape) if n != 1)


def _axes_of_units(linear: Affine, rank: int) -> frozenset[int | None]:
    """The axes of the output along which the units of a linear layer are."""
    if not isinstance(linear, Einsum):
        return frozenset({linear.output_axis(rank)})
    inputs, output = linear.equation.replace(" ", "").split("->")
    x, kernel = inputs.split(",")
    # Axes are counted from the end, because "..." may stand for axes at the front.
    return frozenset(rank - len(output) + i for i, n in enumerate(output) if n in kernel and n not in x)


def _size(shape):
    return math.prod(shape)


def _merge_pairs(graph: Graph, merge: Callable[[Site, Site], Operation | None], held: Iterable[int]) -> Graph:
    """Joins a site and the only reader of its output, where `merge(first, second)` returns an operation for both."""
    readers, held = graph.consumers(), {*held, *graph.output_slots}
    writer: dict[int, Site] = {}
    for site in graph.sites:
        if len(site.inputs) == 1 and site.inputs[0] in writer:
            (slot,) = site.inputs
            first = writer[slot]
            alone = slot not in held and len(readers[slot]) == 1 and len(first.outputs) == 1
            operation = merge(first, site) if alone else None
            if operation is not None:
                del writer[slot]
                site = dataclasses.replace(first, operation=operation, outputs=site.outputs)
        writer.update(dict.fromkeys(site.outputs, site))
    return graph.rewrite(dict.fromkeys(writer.values()))
