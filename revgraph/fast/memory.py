"""When things are computed: late, block by block, one site after the other, so that little is in memory at a time."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import tensorflow as tf

from revgraph.graph.operations import Affine
from revgraph.graph.types import Weights
from revgraph.reverse_rules.engine import Pullback, Recorded

Block: TypeAlias = tuple[tuple[tf.Tensor, ...], dict[str, tf.Tensor]]
"""The inputs and the weights of a block of input channels."""

BLOCK = 8 * 2**20
"""Size of a block of a large kernel in bytes. Smaller blocks take less time to compute and more to trace."""

LANES = 2
"""How many blocks are computed at a time. Several, because TensorFlow multiplies one sample by a kernel on one core."""

LARGE = 2**20
"""Where a sample or a kernel has more entries than this, the kernels of a site are used one after the other. Each keeps
all cores busy alone, and TensorFlow's convolutions take up to ten times the memory of their inputs."""

CHEAP = 128
"""An output of at most this many multiplications per entry is computed again on the backward walk instead of kept."""


def is_large(shape: tf.TensorShape) -> bool:
    """Whether a tensor of this shape has more than `LARGE` entries."""
    return shape.is_fully_defined() and math.prod(shape) > LARGE


def blocks_of(operation: Affine, inputs: Sequence[tf.Tensor], kernels: Weights) -> list[Block]:
    """Blocks of the input channels, whose kernels are modified one after the other. None where the kernel is small."""
    # `LANES` blocks would be there at the same time anyway.
    return operation.blocks(inputs, kernels, BLOCK, least=LANES + 1)


def waiting(t: tf.Tensor, others: Sequence[tf.Tensor]) -> tf.Tensor:
    """A tensor that is not used before other tensors are computed."""
    if tf.executing_eagerly() or not others:
        return t
    with tf.control_dependencies(others):
        return tf.identity(t)


class RecordedLater:
    """An operation that is called under a tape when its output or its gradient is first asked for.

    Args:
        function: Computes the outputs from the inputs.
        inputs: The inputs x.
        outputs: The outputs, where they are computed already.
    """

    def __init__(
        self,
        function: Callable[[Sequence[tf.Tensor]], Iterable[tf.Tensor]],
        inputs: Iterable[tf.Tensor],
        outputs: tuple[tf.Tensor, ...] | None = None,
    ) -> None:
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

    def transposed(self, relevance: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        """(dz/dx)^T R, one tensor per input; None for inputs that are integers."""
        with tf.control_dependencies([relevance]):
            return self._taped.transposed(relevance)


class RecordedBlocks:
    """A call like `RecordedLater`, whose kernel is modified and used block by block on both walks.

    Args:
        inputs: x, a tuple of one tensor.
        blocks: Inputs and kernels of each block of the input channels.
        tape: Calls the operation on the inputs and kernels of one block, under a tape.
    """

    def __init__(
        self,
        inputs: Iterable[tf.Tensor],
        blocks: Sequence[Block],
        tape: Callable[[Sequence[tf.Tensor], Weights], RecordedLater],
    ) -> None:
        self.inputs = tuple(inputs)
        self._blocks = blocks
        self._tape = tape

    @functools.cached_property
    def z(self) -> tf.Tensor:
        """The only output."""
        return tf.reduce_sum(tf.stack(self._from_blocks(lambda block: block.z, self.inputs[0])), axis=0)

    def transposed(self, relevance: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        """(dz/dx)^T R, a tuple of one tensor."""
        return (tf.concat(self._from_blocks(lambda block: block.transposed(relevance)[0], relevance), axis=-1),)

    def _from_blocks(self, result, start):
        """The result of each block. `LANES` of them are computed at a time, after `start`."""
        results = [start] * LANES
        for block in self._blocks:
            with tf.control_dependencies([results[-LANES]]):
                results.append(result(self._tape(*block)))
        return results[LANES:]


class Remade:
    """The tensors of a walk that are computed again on the backward walk instead of kept.

    The site that computes such a tensor asks for it here, and so do the sites that read it.
    """

    def __init__(self) -> None:
        self._makers: dict[object, Callable[[tf.Tensor], tf.Tensor]] = {}

    def note(self, tensor: tf.Tensor, again: Callable[[tf.Tensor], tf.Tensor]) -> None:
        """Notes a tensor that is computed again. `again(relevance)` computes it after that relevance."""
        self._makers[tensor.ref()] = again

    def __call__(self, tensor: tf.Tensor, relevance: tf.Tensor) -> tf.Tensor:
        """A tensor of the forward walk, for use on the backward walk after this relevance is computed."""
        again = self._makers.get(tensor.ref())
        return waiting(tensor, [relevance]) if again is None else again(relevance)


class MakesKernels(Pullback):
    """A pullback that computes kernels of its own, which take memory while it works."""


class InTurn:
    """Calls pullbacks. Those that make kernels wait for each other, even where they do not depend on each other.

    So the kernels of one are gone before the next one makes its own. One object serves one backward walk.
    """

    def __init__(self) -> None:
        self._before: list[tf.Tensor] = []

    def __call__(self, pullback: Pullback, relevance: Iterable[tf.Tensor]) -> tuple[tf.Tensor | None, ...]:
        """The relevance of the inputs of a site, from that of its outputs."""
        if not isinstance(pullback, MakesKernels):
            return pullback(*relevance)
        taken = pullback(*(waiting(r, self._before) for r in relevance))
        self._before = [r for r in taken if r is not None]
        return taken
