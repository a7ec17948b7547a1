"""When things are computed: late, block by block, one site after the other, so that little is in memory at a time."""

import functools
import math

import tensorflow as tf

from revgraph.reverse_rules.engine import Pullback, Recorded

BLOCK = 8 * 2**20
"""Bytes of a block of a large kernel. Smaller ones take less time to compute and more to trace."""

LANES = 2
"""Blocks at work at the same time: TensorFlow multiplies a single sample by a kernel on one core."""

LARGE = 2**20
"""Entries of a sample or of a kernel above which a site's kernels work one after the other: each keeps all cores busy
by itself, and TensorFlow's convolutions take up to ten times the memory of what they work on."""


CHEAP = 128
"""Multiplications per entry of an output up to which it is computed again on the backward walk rather than kept."""


def is_large(shape) -> bool:
    """Whether a tensor of this shape has more than `LARGE` entries."""
    return shape.is_fully_defined() and math.prod(shape) > LARGE


def blocks_of(operation, inputs, kernels) -> list:
    """Blocks of the input channels whose kernels are modified one after the other; none where the kernel is small."""
    return operation.blocks(inputs, kernels, BLOCK)


def waiting(t, others) -> tf.Tensor:
    """A tensor, once others are there."""
    if tf.executing_eagerly() or not others:
        return t
    with tf.control_dependencies(others):
        return tf.identity(t)


class RecordedLater:
    """An operation called under a tape when outputs or gradients are first asked for.

    Args:
        function: inputs -> outputs.
        inputs: x, a tuple of tensors.
        outputs: The outputs, where they are there already.
    """

    def __init__(self, function, inputs, outputs=None):
        self.inputs = tuple(inputs)
        self._function = function
        self._outputs = outputs

    @property
    def z(self) -> tf.Tensor:
        """The only output."""
        return (self._taped.outputs if self._outputs is None else self._outputs)[0]

    @functools.cached_property
    def _taped(self):
        return Recorded(self._function, self.inputs)

    def transposed(self, relevance):
        """(dz/dx)^T R, one tensor per input; None for inputs that are indices."""
        with tf.control_dependencies([relevance]):
            return self._taped.transposed(relevance)


class RecordedBlocks:
    """The same, the kernel being modified and used block by block, forward and backward.

    Args:
        inputs: x, the only input.
        blocks: Inputs and kernels of each block of the input channels.
        tape: Calls the operation on the inputs and kernels of a block, under a tape.
    """

    def __init__(self, inputs, blocks, tape):
        self.inputs = tuple(inputs)
        self._blocks = blocks
        self._tape = tape

    @functools.cached_property
    def z(self) -> tf.Tensor:
        """The only output."""
        return tf.reduce_sum(tf.stack(self._from_blocks(lambda block: block.z, self.inputs[0])), axis=0)

    def transposed(self, relevance):
        """(dz/dx)^T R, a tuple of one tensor."""
        return (tf.concat(self._from_blocks(lambda block: block.transposed(relevance)[0], relevance), axis=-1),)

    def _from_blocks(self, result, start):
        """The result of each block, `LANES` of them being worked on at a time, once `start` is there."""
        results = [start] * LANES
        for block in self._blocks:
            with tf.control_dependencies([results[-LANES]]):
                results.append(result(self._tape(*block)))
        return results[LANES:]


class Remade:
    """Tensors that are computed again on the backward walk rather than kept.

    Whoever needs one there asks for it, the site that makes it as well as those that read it.
    """

    def __init__(self):
        self._makers = {}

    def note(self, tensor, again):
        """Remembers that `again(relevance)` computes a tensor again, when that relevance is there."""
        self._makers[tensor.ref()] = again

    def __call__(self, tensor, relevance) -> tf.Tensor:
        """A tensor of the forward walk, when this relevance is there."""
        again = self._makers.get(tensor.ref())
        return waiting(tensor, [relevance]) if again is None else again(relevance)


class MakesKernels(Pullback):
    """A pullback that makes kernels, which take memory while it works."""


class InTurn:
    """Pulls sites that make kernels one after the other, also where they do not depend on each other.

    The kernels of one are gone before the next one makes its own. One object serves one backward walk.
    """

    def __init__(self):
        self._before = []

    def __call__(self, pullback, relevance):
        """What a pullback gives for the relevance of the outputs of its site."""
        if not isinstance(pullback, MakesKernels):
            return pullback(*relevance)
        taken = pullback(*(waiting(r, self._before) for r in relevance))
        self._before = [r for r in taken if r is not None]
        return taken
