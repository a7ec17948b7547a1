"""The networks of `keras.applications` with random weights and statistics, whole and reduced to a few blocks."""

import keras
import numpy as np
from keras import layers

FAMILIES = {
    "ConvNeXt": ("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"),
    "DenseNet": ("DenseNet121", "DenseNet169", "DenseNet201"),
    "EfficientNet": tuple(f"EfficientNetB{i}" for i in range(8)),
    "EfficientNetV2": tuple(f"EfficientNetV2{i}" for i in ("B0", "B1", "B2", "B3", "S", "M", "L")),
    "InceptionResNetV2": ("InceptionResNetV2",),
    "InceptionV3": ("InceptionV3",),
    "MobileNet": ("MobileNet",),
    "MobileNetV2": ("MobileNetV2",),
    "MobileNetV3": ("MobileNetV3Small", "MobileNetV3Large"),
    "NASNet": ("NASNetMobile", "NASNetLarge"),
    "ResNet": ("ResNet50", "ResNet101", "ResNet152"),
    "ResNetV2": ("ResNet50V2", "ResNet101V2", "ResNet152V2"),
    "VGG": ("VGG16", "VGG19"),
    "Xception": ("Xception",),
}
"""All constructors by family; the first of each is the smallest."""

APPLICATIONS = tuple(name for names in FAMILIES.values() for name in names)

CURVED = ("ConvNeXt", "EfficientNet", "EfficientNetV2", "MobileNetV3")
"""Families whose activations or normalizations are not linear in pieces."""

ENDS = {
    "ConvNeXt": "convnext_tiny_stage_1_block_0_depthwise_conv",
    "DenseNet": "conv3_block1_concat",
    "EfficientNet": "block2b_add",
    "EfficientNetV2": "block4b_add",
    "InceptionResNetV2": "block35_1_ac",
    "InceptionV3": "mixed3",
    "MobileNet": "conv_pw_3_relu",
    "MobileNetV2": "block_2_add",
    "MobileNetV3": "expanded_conv_4_add",
    "NASNet": "reduction_concat_stem_1",
    "ResNet": "conv3_block1_out",
    "ResNetV2": "conv3_block1_out",
    "VGG": "block3_pool",
    "Xception": "block4_sepconv1_act",
}
"""The layer at which a reduced network ends: by then it has had a block of every kind."""


def family_of(name) -> str:
    return next(family for family, names in FAMILIES.items() if name in names)


def made(name, size=None, **options):
    """A network as Keras makes it, for images of the least size that it takes, or of `size`."""
    size = size or {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}.get(name, 32)
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(size, size, 3), classifier_activation=None, classes=10, **options)


def application(name, size=None, seed=0, **options):
    """A network with ten classes, and its logits as output."""
    return alive(made(name, size, **options), seed)


def reduced(family, seed=0):
    """The first blocks of the smallest network of a family, and a head with four classes."""
    end = output_of(ENDS[family], lambda: made(FAMILIES[family][0], include_top=False))
    x = layers.GlobalAveragePooling2D(name="pool")(end)
    (image,) = keras.utils.get_source_inputs(end)
    return positive(alive(keras.Model(image, layers.Dense(4, name="logits")(x), name=family), seed))


class Found(Exception):
    """The output of the layer that `output_of` waits for."""


def output_of(name, make):
    """The output of a layer of the network that `make` makes. The layers behind it are not made."""
    call = layers.Layer.__call__

    def called(layer, *args, **kwargs):
        output = call(layer, *args, **kwargs)
        if layer.name == name:
            raise Found(output)
        return output

    layers.Layer.__call__ = called
    try:
        make()
    except Found as found:
        return found.args[0]
    finally:
        layers.Layer.__call__ = call
    raise KeyError(name)


def alive(model, seed=0):
    """Gives a model weights and statistics that keep its activations about as large in every layer."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        owner, _, kind = variable.path.rpartition("/")
        shape = tuple(variable.shape)
        if "moving_variance" in kind or kind == "variance":
            value = rng.uniform(0.5, 1.5, shape)
        elif kind == "gamma":
            # Negative scales exchange the positive and the negative part of what they are folded into. With larger ones
            # rounding errors grow from layer to layer: in the larger EfficientNets a batch and its samples differed.
            value = 0.7 * rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
        elif "kernel" in kind:
            fan_in = np.prod(shape[:-2] if "depthwise" in owner or "_dw" in owner else shape[:-1])
            value = rng.normal(0, np.sqrt(2 / fan_in), shape)
        elif variable.dtype.startswith("float"):
            value = rng.normal(0, 0.2, shape)
        else:
            continue
        variable.assign(value)
    return model


def positive(model):
    """The model with logits that are mostly positive: deep Taylor explains no others."""
    bias = next(variable for variable in reversed(model.weights) if variable.path.endswith("bias"))
    bias.assign_add(np.full(bias.shape, 3.0))
    return model


def images_of(model, batch=2, seed=1):
    """Random images in the range that the model takes: 0 to 255 where it rescales them itself, else 0 to 1."""
    scaled = any(isinstance(layer, layers.Rescaling | layers.Normalization) for layer in model.layers[:3])
    x = np.random.default_rng(seed).uniform(0, 255 if scaled else 1, (batch, *model.input_shape[1:]))
    return x.astype(keras.config.floatx())
