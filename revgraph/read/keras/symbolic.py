"""Symbolic tensors in the place of a model's inputs, and calls on them."""

import re

import keras
from keras import KerasTensor

from revgraph.read.keras import private
from revgraph.read.keras.template import parameters


def nodes_between(inputs, outputs):
    """Keras nodes that lead from inputs to outputs, each after those that it depends on."""
    done = {id(x) for x in inputs}
    ordered, seen = [], set()
    stack = [(t, False) for t in reversed(outputs)]
    while stack:
        tensor, expanded = stack.pop()
        if id(tensor) in done and not expanded:
            continue
        origin = private.origin(tensor)
        if origin is None:
            raise ValueError("The model returns a tensor that does not come from its inputs.")
        _, node, _ = origin
        if id(node) in seen:
            continue
        if expanded:
            seen.add(id(node))
            ordered.append(node)
            done.update(id(t) for t in node.outputs)
            continue
        stack.append((tensor, True))
        stack.extend((t, False) for t in reversed(private.tensors_read(node)))
    return ordered


def functional_of(model):
    """The functional graph of a model; None for one whose `call` has to be run to know it.

    Raises:
        ValueError: The model is a Sequential one that is not built.
    """
    sequential = isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call
    if sequential and not (model.built and model.layers):
        raise ValueError(
            f"The model {model.name!r} is not built: its input shape is unknown. Call it once on data, "
            f"or `model.build(input_shape)`, or add a `keras.Input(shape)` as the first layer."
        )
    return private.functional(model)


def symbolic_inputs(model):
    """Fresh symbolic inputs of the shapes on which a subclassed model was built: (structure, call arguments)."""
    if private.has_symbolic_ends(model):
        inputs = keras.tree.map_structure(
            lambda x: KerasTensor(x.shape, x.dtype, name=x.name), private.symbolic_inputs(model)
        )
        return inputs, (inputs,)
    shapes = private.shapes_at_build(model)
    if model.built and not shapes:
        raise ValueError(
            f"Cannot trace {model.name!r} ({type(model).__name__}): Keras could not run its `call` on symbolic inputs, "
            f"and so does not know its input shape. A `call` that revgraph can trace uses layers and `keras.ops`, and "
            f"its Python code does not depend on the values of tensors."
        )
    if not shapes:
        raise ValueError(
            f"The model {model.name!r} is not built: its input shape is unknown. Call it once on data before "
            f"explaining it, for example `model(x[:1])`."
        )
    dtype = widest_dtype(model)
    arguments = [_symbols(shape, re.sub("_shape$", "", name), dtype) for name, shape in shapes.items()]
    return (arguments[0] if len(arguments) == 1 else arguments), tuple(arguments)


def _symbols(shape, name, dtype):
    """Symbolic tensors for a shape, or for a structure of shapes."""
    if isinstance(shape, dict):
        return {key: _symbols(value, key, dtype) for key, value in shape.items()}
    if shape and isinstance(shape[0], list | tuple):
        return [_symbols(value, f"{name}_{i}", dtype) for i, value in enumerate(shape)]
    return KerasTensor((None, *shape[1:]), dtype, name=name)


def symbolic_call(layer, path):
    """The layer's `call`, for symbolic arguments."""

    def call(*args, **kwargs):
        return call_symbolically(layer, args, kwargs, path)

    return call


def call_symbolically(layer, args, kwargs, path):
    """What the layer's `call` makes of symbolic arguments in inference.

    Raises:
        ValueError: The code cannot be run on symbolic tensors.
    """
    kwargs = {k: v for k, v in kwargs.items() if k != "training"}
    if "training" in parameters(layer.call):
        kwargs["training"] = False
    try:
        return layer.call(*args, **kwargs)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"Cannot trace {path!r} ({type(layer).__name__}): running its `call` on symbolic inputs failed with "
            f"{type(error).__name__}: {reason} A `call` that revgraph can trace uses layers and `keras.ops`, and "
            f"its Python code does not depend on the values of tensors."
        ) from error


def widest_dtype(model) -> str:
    """float64 where any weight is, float32 otherwise, whatever the compute dtype."""
    wide = any(keras.backend.standardize_dtype(v.dtype) == "float64" for v in model.variables)
    return "float64" if wide or model.dtype_policy.variable_dtype == "float64" else "float32"
