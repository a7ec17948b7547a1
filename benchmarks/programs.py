"""What is timed: analyzers, the compiled function inside of one, and the plain gradient as one would write it."""

import warnings

import keras
import tensorflow as tf

import revgraph
from benchmarks.goals import METHODS
from revgraph.composites import CONVOLUTION, DENSE, Composite
from revgraph.reverse.conditions import NOTHING_MASKED
from revgraph.reverse.targets import make_targets
from revgraph.reverse.walk import Question
from revgraph.reverse_rules import Epsilon, Gamma

TARGET = 3
"""The neuron that is explained. Which does not matter for the time."""


def make_analyzer(method, model, **options):
    """The analyzer of a method that the tables name."""
    # Random weights make relevance explode, which has no influence on the time.
    warnings.filterwarnings("ignore", message=".*grow")
    if method not in METHODS:
        return revgraph.create_analyzer(method, model, **options)
    method = METHODS[method]
    if method.gamma is not None:
        options["rule"] = Composite((CONVOLUTION, Gamma(method.gamma)), (DENSE, Epsilon(1e-6)))
    return revgraph.create_analyzer(method.name, model, **options)


def explain(analyzer, x):
    """A function that explains x, all of `analyze` included."""
    return lambda: analyzer.analyze(x, neuron_selection=TARGET)


def compiled(analyzer, x, selection=TARGET):
    """A function that only runs the compiled program of an analyzer, on tensors that are there already."""
    walk = analyzer.walk(Question(analyzer.graph.output_slots))
    shapes = [walk.graph.specs[slot].shape[1:] for slot in walk.question.starts]
    chosen = make_targets(selection, None, len(x), analyzer.graph.output_names, shapes)
    program = walk._function("relevance", chosen)
    arguments = walk._arguments([x]), walk.tensors(chosen), NOTHING_MASKED
    return lambda: program(*arguments)


def gradient(model, x):
    """A function that computes the gradient of the selected logit, compiled by `tf.function`.

    It is the gradient with respect to the input, or to the rows of the embedding where the input is ids.
    """
    (given,) = model.inputs
    floating = given.dtype.startswith("float")
    start = given if floating else model.get_layer("embedding").output
    before, behind = keras.Model(given, start), keras.Model(start, model.outputs[0])

    @tf.function(input_signature=[tf.TensorSpec((None, *x.shape[1:]), given.dtype)])
    def program(inputs):
        watched = inputs if floating else before(inputs, training=False)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            logit = behind(watched, training=False)[:, TARGET]
        return tape.gradient(logit, watched)

    tensor = tf.constant(x)
    return lambda: program(tensor).numpy()
