"""Runs a model once, in a TensorFlow graph, and records the calls of its layers."""

import dataclasses
import functools
import re
import threading
import warnings
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from revgraph.read.keras import private, routing
from revgraph.read.keras.activations import is_known
from revgraph.read.keras.layers import has_view
from revgraph.read.keras.template import parameters
from revgraph.read.keras.untouched import untouched

POOLING = frozenset(
    f"{adaptive}{kind}{end}"
    for adaptive in ("", "Adaptive")
    for kind, end in (("MaxPool", ""), ("AveragePool", ""), ("MaxPooling", "3D"), ("AveragePooling", "3D"))
)
"""Names of the classes of layers and operations that pool in three dimensions."""

SCOPE = "revgraph.call."
"""TensorFlow operations of the call number 7 have names that begin with `revgraph.call.7/`."""


@dataclasses.dataclass(eq=False)
class Recorded:
    """A call of a layer, or of a raw operation of a functional model.

    Args:
        number: Its number in the order in which calls began.
        layer: The layer or operation.
        path: Its path, such as `backbone/conv#2`; empty for the call of the model.
        args, kwargs: The arguments of its `call`, without `training`.
        outputs: The tensors that it returned, as a flat list.
        before: The tensors in front of its activation, if that is a function that revgraph does not know by name. None
            for other calls.
        masked: Whether a mask is attached to one of its arguments.
        done: Its number in the order in which calls ended.
    """

    number: int
    layer: Any
    path: str
    args: tuple
    kwargs: dict[str, Any]
    outputs: list[tf.Tensor] = dataclasses.field(default_factory=list)
    before: list[tf.Tensor] | None = None
    masked: bool = False
    done: int = 0

    @property
    def is_layer(self) -> bool:
        """Whether a layer was called, and not an operation."""
        return isinstance(self.layer, keras.layers.Layer)


class Recording:
    """Runs a model's `call` once in a TensorFlow graph, and records the calls of layers.

    Args:
        model: The model.
        arguments: The arguments of the model's `call`, as structures of `tf.TensorSpec`.

    Attributes:
        function: The concrete TensorFlow function, which takes the flat inputs and returns the flat outputs.
        outputs: The structure of the outputs, with the position among the flat outputs in the place of each tensor.
        calls: The calls in the order in which they began.
    """

    outputs: Any

    def __init__(self, model: keras.Model, arguments: tuple) -> None:
        self.calls: list[Recorded] = []
        self._stack: list[Recorded] = []
        self._paths: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._ended = 0
        self._thread = threading.get_ident()
        specs = keras.tree.flatten(arguments)

        def run(*tensors):
            given = keras.tree.pack_sequence_as(arguments, list(tensors))
            results = model(*given, training=False)
            flat = keras.tree.flatten(results)
            self.outputs = keras.tree.pack_sequence_as(results, list(range(len(flat))))
            return [tf.convert_to_tensor(t) for t in flat]

        everything = private.layers_of(model)
        everything += [x for layer in everything for x in private.operations_of(layer)]
        with untouched(everything):
            for operation in everything:
                self._watch(operation)
            function = tf.function(run, autograph=False)
            self.function = function.get_concrete_function(*(_named(spec, i) for i, spec in enumerate(specs)))

    def _watch(self, operation):
        """Makes a layer record its calls. Calls from other threads are not recorded."""
        self._names[id(operation)] = operation.name
        # TensorFlow allows fewer characters in the name of a scope than Keras in the name of a layer.
        private.patch(operation, "name", re.sub(r"[^A-Za-z0-9_.\\/>-]|^[^A-Za-z0-9.]", "_", operation.name))
        for name in ("call", "quantized_call"):
            original = getattr(operation, name, None)
            if original is None:
                continue

            @functools.wraps(original)
            def call(*args, _original=original, **kwargs):
                if threading.get_ident() != self._thread:
                    return _original(*args, **kwargs)
                return self._record(operation, _original, args, kwargs)

            private.patch(operation, name, call)

    def _record(self, layer, original, args, kwargs):
        if not self._stack:
            path = ""
        else:
            prefix, name = self._stack[-1].path, self._names[id(layer)]
            path = self.new_path(f"{prefix}/{name}" if prefix else name)
        args, kwargs = self._in_inference(original, args, kwargs, path)
        masked = any(private.mask_of(t) is not None for t in keras.tree.flatten((args, kwargs)))
        without = {name: value for name, value in kwargs.items() if name != "training"}
        record = Recorded(len(self.calls), layer, path, args, without, masked=masked)
        self.calls.append(record)
        self._stack.append(record)
        activation: Any = getattr(layer, "activation", None)
        # The code of an unknown activation is read, so the layer runs without it, and then the activation.
        apart = callable(activation) and has_view(layer) and not is_known(activation)
        try:
            with tf.name_scope(f"{SCOPE}{record.number}/"):
                if apart:
                    private.patch(layer, "activation", keras.activations.linear)
                outputs = _code(layer, original)(*args, **kwargs)
                if apart:
                    record.before = keras.tree.flatten(outputs)
                    outputs = activation(outputs)
        finally:
            if apart:
                private.patch(layer, "activation", activation)
            self._stack.pop()
            self._ended += 1
            record.done = self._ended
        record.outputs = keras.tree.flatten(outputs)
        return outputs

    @staticmethod
    def _in_inference(call, args, kwargs, path):
        """The arguments with `training=False`, if the code takes `training`."""
        taken = parameters(call)
        if "training" not in taken:
            return args, kwargs
        position = list(taken).index("training")
        training = args[position] if len(args) > position else kwargs.get("training")
        if training is True and taken["training"].default is not True:
            warnings.warn(
                f"{path!r} is called with training=True: its output depends on chance or on the batch. revgraph "
                f"explains the model as it is in inference, training=False.",
                stacklevel=2,
            )
        if len(args) > position:
            return (*args[:position], False, *args[position + 1 :]), kwargs
        return args, {**kwargs, "training": False}

    def new_path(self, path: str) -> str:
        """A path for a new call: `path`, or `path#2` and so on if earlier calls have this path."""
        self._paths[path] = self._paths.get(path, 0) + 1
        return path if self._paths[path] == 1 else f"{path}#{self._paths[path]}"

    def call_of(self, name: str) -> tuple[Recorded, str]:
        """The innermost call to which a TensorFlow operation belongs, and the operation's name inside of the call.

        Args:
            name: The full name of the operation.
        """
        found = list(re.finditer(rf"{re.escape(SCOPE)}(\d+)/", name))
        # Operations that Keras adds in front of the model's `call` count as those of the model.
        return (self.calls[int(found[-1][1])], name[found[-1].end() :]) if found else (self.calls[0], name)


def _named(spec, index):
    return tf.TensorSpec(spec.shape, spec.dtype, name=f"input_{index}")


def _code(layer, call):
    """The code that runs as a layer's `call`: its own, or for a few layers of Keras code that is easier to read."""
    own = type(layer).call
    if own is layers.TimeDistributed.call:
        return functools.partial(_distributed, layer)
    if own is layers.UpSampling2D.call and layer.interpolation != "nearest":
        return lambda inputs: tf.cast(routing.upsampled(layer, inputs), inputs.dtype)
    if type(layer).__name__ in POOLING and private.is_of_keras(type(layer)):
        return functools.partial(_in_float32, call)
    return getattr(call, "python_function", call)


def _in_float32(call, inputs):
    """Pools in float32 over three dimensions, because TensorFlow has no float64 kernels for that."""
    if len(inputs.shape) < 5:
        return call(inputs)
    return tf.cast(call(tf.cast(inputs, "float32")), inputs.dtype)


def _distributed(layer, inputs, training=None, mask=None):
    """Computes TimeDistributed with the time steps as samples, instead of one step after the other."""

    def merged(x):
        z = tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0))
        z.set_shape((None, *x.shape[2:]))
        return z

    masks = {"mask": merged(mask)} if mask is not None and "mask" in parameters(layer.layer.call) else {}
    outputs = layer.layer(merged(inputs), **masks)
    split = tf.reshape(outputs, tf.concat([tf.shape(inputs)[:2], tf.shape(outputs)[1:]], 0))
    split.set_shape((*inputs.shape[:2], *outputs.shape[1:]))
    return split
