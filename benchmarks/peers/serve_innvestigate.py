"""iNNvestigate's side of a comparison; runs in its environment, eager execution off, as it demands."""

import numpy as np
from protocol import serve

# What iNNvestigate has no name for.
MISSING = {"gamma 0.25": "iNNvestigate has no gamma rule", "lrp.epsilon_plus_flat": "iNNvestigate has no such preset"}


def prepare(question):
    method = question["method"]
    if method in MISSING:
        raise NotImplementedError(MISSING[method])
    import tensorflow as tf

    tf.compat.v1.disable_eager_execution()
    import innvestigate

    size = question["image_size"]
    if question["network"] == "small":
        layers = tf.keras.layers
        model = tf.keras.Sequential(
            [
                layers.Input((size, size, 1)),
                layers.Conv2D(16, 3, activation="relu"),
                layers.Conv2D(32, 3, strides=2, activation="relu"),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ]
        )
    else:
        make = getattr(tf.keras.applications, question["network"])
        model = make(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    generator = np.random.default_rng(0)
    batches = {n: generator.random((n, *model.input_shape[1:]), "float32") for n in question["batch_sizes"]}

    def set_up():
        if method == "plain gradient":
            gradients = tf.gradients(model.output[:, 3], model.input)
            function = tf.keras.backend.function([model.input], gradients)
            return lambda batch: function([batches[batch]])
        analyzer = innvestigate.create_analyzer(method, model, neuron_selection_mode="index")
        return lambda batch: analyzer.analyze(batches[batch], 3)

    return {"tensorflow": tf.__version__, "innvestigate": "2.1.2"}, set_up


serve(prepare)
