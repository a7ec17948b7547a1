"""What tests of the speed layer share: the formula without it, and the operations that a walk is compiled to."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from revgraph.reverse.reverse_graph import ReverseGraph
from revgraph.reverse.walk import Question, Walk

ARGUMENTS = {
    "lrp.epsilon_gamma_box": {"low": -5, "high": 5},
    "deep_taylor.bounded": {"low": -5, "high": 5},
    "lrp.alpha_2_beta_1_IB": {"convention": "innvestigate"},
    "deep_taylor": {"convention": "innvestigate"},
}
NAMES = (
    "lrp.z lrp.epsilon_IB lrp.gamma lrp.w_square lrp.flat lrp.alpha_2_beta_1 lrp.alpha_2_beta_1_IB lrp.alpha_1_beta_0 "
    "lrp.z_plus lrp.b_rule lrp.sequential_preset_b_flat lrp.epsilon_gamma_box deep_taylor deep_taylor.bounded".split()
)


def same(found, expected):
    """Equal up to rounding in float64."""
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


def literally(analyzer, x, neuron_selection=None):
    """What the analyzer gives without the speed layer, and without compiling."""
    question = Question(analyzer.graph.output_slots)
    reverse = analyzer.walk(question).reverse
    literal = ReverseGraph(reverse.graph, reverse.bound, question.starts, fast=False)
    analyzer._walks[question] = Walk(literal, question, analyzer._own_start, analyzer._finish)
    return analyzer.record(x).analyze(neuron_selection)


def used_operations(walk):
    """The operations of a walk's function that have a use."""
    target = (tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.float64))
    specs = walk.input_specs()
    graph = (
        tf.function(lambda x, i: walk.pulled(walk.reverse.forward([x]), [i]), autograph=False)
        .get_concrete_function(specs[0], target)
        .graph
    )
    outputs = [t.op.name for t in graph.outputs]
    used = {node.name for node in tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), outputs).node}
    return [operation for operation in graph.get_operations() if operation.name in used]


def ancestors(operation):
    """The operations that come before one, for what they give or because it waits for them."""
    found, waiting = set(), [operation]
    while waiting:
        one = waiting.pop()
        before = {*(t.op for t in one.inputs), *one.control_inputs} - found
        found |= before
        waiting.extend(before)
    return found


def small(rng, function):
    """A model of a dense layer, a function of its output, and another dense layer; and inputs."""
    x = keras.Input((5,))
    model = keras.Model(x, layers.Dense(3)(function(layers.Dense(6)(x))))
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model, rng.normal(size=(3, 5))
