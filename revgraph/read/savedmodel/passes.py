"""Passes that end the reading of a TensorFlow graph: what it computes in several operations becomes one site."""

import dataclasses
import math

import tensorflow as tf

from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Affine, BatchNorm, Convolutional, Dense, Einsum, LinearMap, Opaque, Routing
from revgraph.graph.scaling import scaling
from revgraph.read.savedmodel.weights import Expression, ScaleAndShift, Weight


def simplify(graph: Graph, held=frozenset()) -> Graph:
    """Drops what no output depends on, gives linear layers their bias, and puts scales and shifts together.

    Args:
        graph: The graph.
        held: Slots that have to survive, because a layer of the user's model reads or writes them.
    """
    graph = bias_into_linear(bias_before_reshape(drop_unused(graph), held), held)
    graph = join_scale_and_shift(graph, held)
    return number_paths(join_lists(name_scales(graph)))


def drop_unused(graph: Graph) -> Graph:
    """Drops the sites that no output depends on."""
    needed, sites = set(graph.output_slots), []
    for site in reversed(graph.sites):
        if needed.intersection(site.outputs):
            needed.update(site.inputs)
            sites.append(site)
    return graph.rewrite(reversed(sites))


def bias_into_linear(graph: Graph, held=frozenset()) -> Graph:
    """x W, then + b: one affine site."""

    def merge(first, second):
        linear, shift = first.operation, second.operation
        if not isinstance(linear, Dense | Einsum | Convolutional) or not _is_shift(shift):
            return None
        # A second shift is no bias of the layer.
        if "bias" in linear.read("float32"):
            return None
        # A bias for every single entry is not a layer's own.
        rank = len(graph.specs[second.outputs[0]].shape)
        if _axes(shift.bias.shape, rank) - _axes_of_units(linear, rank):
            return None
        return dataclasses.replace(linear, reader=_Biased(linear, shift.bias))

    return _merge_pairs(graph, merge, held)


def bias_before_reshape(graph: Graph, held=frozenset()) -> Graph:
    """reshape(x W) + b is reshape(x W + b), where the reshape takes the units of a layer apart, as into heads."""
    readers, producers, held = graph.consumers(), graph.producers(), {*held, *graph.output_slots}

    def alone(site):
        return len(site.outputs) == 1 and len(readers[site.outputs[0]]) == 1 and held.isdisjoint(site.outputs)

    changed = {}
    for shift in graph.sites:
        reshape = producers.get(shift.inputs[0]) if _is_shift(shift.operation) else None
        moves = reshape is not None and isinstance(reshape.operation, Routing) and reshape.operation.name == "Reshape"
        if not moves or not alone(reshape) or len(reshape.inputs) != 1:
            continue
        linear = producers.get(reshape.inputs[0])
        if linear is None or not isinstance(linear.operation, Dense) or not alone(linear):
            continue
        if "bias" in linear.operation.read("float32"):
            continue
        units, parts = graph.specs[linear.outputs[0]].shape[-1], shift.operation.bias.shape
        ends = graph.specs[reshape.outputs[0]].shape[-len(parts) :] if parts else ()
        if ends == tuple(parts) and None not in ends and math.prod(ends) == units:
            bias = shift.operation.bias.map(lambda b: tf.reshape(b, [-1]), (units,))
            changed[reshape] = dataclasses.replace(shift, operation=ScaleAndShift(None, bias), inputs=reshape.inputs)
            changed[reshape] = dataclasses.replace(changed[reshape], outputs=reshape.outputs)
            changed[shift] = dataclasses.replace(reshape, inputs=reshape.outputs, outputs=shift.outputs)
    specs = {
        **graph.specs,
        **{s.outputs[0]: graph.specs[s.inputs[0]] for s in changed.values() if _is_shift(s.operation)},
    }
    return dataclasses.replace(graph.rewrite(changed.get(site, site) for site in graph.sites), specs=specs)


@dataclasses.dataclass(frozen=True, eq=False)
class _Biased:
    """Reads the weights of a linear layer, and a bias."""

    linear: Affine
    bias: Weight

    def __call__(self, dtype):
        return {**self.linear.read(dtype), "bias": self.bias.read(dtype)}


def join_scale_and_shift(graph: Graph, held=frozenset()) -> Graph:
    """x * w, then + b: one site. Batch normalization written as (x - mean) * scale + shift: one site, too."""

    def merge(first, second):
        one, two = first.operation, second.operation
        if not isinstance(one, ScaleAndShift) or not isinstance(two, ScaleAndShift):
            return None
        centred = _is_shift(one) and two.kernel is not None and _is_batchnorm(two) and _size(one.bias.shape) > 1
        if centred or (two.kernel is None and one.bias is None) or (one.kernel is not None and _is_batchnorm(one)):
            return _joined(one, two)
        return None

    return _merge_pairs(graph, merge, held)


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
    """Makes every scale and shift a `Scale`, or a `BatchNorm` where it is one."""

    def rewrite(site):
        if not isinstance(site.operation, ScaleAndShift):
            return site
        return dataclasses.replace(site, operation=_scale(site.operation, graph.specs[site.outputs[0]].shape))

    return graph.rewrite(map(rewrite, graph.sites))


def join_lists(graph: Graph) -> Graph:
    """Joins the sites that hand each other what has no relevance of its own, and gives floating numbers in the end.

    Such are lists of tensors, as a loop over time steps has them, and complex numbers.
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


def _between(name, group, graph) -> list[Site]:
    """The sites that read, through others, what a group writes, and write what it reads."""
    after, before, behind = set(), set(), []
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


def _in_order(sites) -> list[Site]:
    """Sites, each after those that write what it reads."""
    written = {slot: site for site in sites for slot in site.outputs}
    order, stack = {}, list(reversed(sites))
    while stack:
        site = stack[-1]
        missing = [written[slot] for slot in site.inputs if slot in written and written[slot] not in order]
        if missing:
            stack.extend(missing)
        else:
            order[stack.pop()] = None
    return list(order)


JOINING = frozenset({"variant", "resource", "complex64", "complex128"})
"""What sites hand to each other without relevance of its own."""

REAL_LINEAR = frozenset(
    "Cast Complex Conj FFT FFT2D FFT3D FFTND IFFT IFFT2D IFFT3D IFFTND Imag IRFFT IRFFT2D IRFFT3D RFFT RFFT2D RFFT3D "
    "Real".split()
)
"""Operations on complex numbers that are linear in their real and imaginary parts."""


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
    """Tells sites apart that come from the same node: `dense/MatMul`, `dense/MatMul#2`."""
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


def _is_shift(operation):
    return isinstance(operation, ScaleAndShift) and operation.kernel is None


def _is_batchnorm(operation):
    """Whether the scale is one over a standard deviation, as batch normalization computes it."""
    if operation.kernel is None:
        return False
    made_by = operation.kernel.made_by
    # A maximum keeps the standard deviation from zero in Keras's Normalization, which is preprocessing.
    return "Rsqrt" in made_by or ("Sqrt" in made_by and "Maximum" not in made_by)


def _axes(shape, rank) -> frozenset[int]:
    """The axes of a tensor of `rank` axes along which a weight of this shape differs."""
    return frozenset(rank - len(shape) + i for i, n in enumerate(shape) if n != 1)


def _axes_of_units(linear, rank) -> frozenset[int]:
    """The axes of the output along which a linear layer has units of its own."""
    if not isinstance(linear, Einsum):
        return frozenset({linear.output_axis(rank)})
    inputs, output = linear.equation.replace(" ", "").split("->")
    x, kernel = inputs.split(",")
    # From the end, because "..." may stand for axes at the front.
    return frozenset(rank - len(output) + i for i, n in enumerate(output) if n in kernel and n not in x)


def _size(shape):
    return math.prod(shape)


def _merge_pairs(graph, merge, held) -> Graph:
    """Makes a site and the only reader of its output one site, where `merge(first, second)` gives an operation."""
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
