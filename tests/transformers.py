"""Small transformers of well-known families, written by hand in Keras. A function of their names gives their weights.

The names are those of the checkpoints on model hubs, without `.weight`. Kernels are (inputs, outputs).
"""

import keras
import numpy as np
from keras import layers, ops


class Numbers:
    """Weights without a file: the numbers sin(1 + 0.7 k), k counted through all weights in the order of building.

    `given` has what each weight became, by its name.
    """

    def __init__(self):
        self.given, self._count = {}, 0

    def __call__(self, name, shape):
        k = self._count + np.arange(np.prod(shape))
        self._count += len(k)
        value = np.sin(1 + 0.7 * k).reshape(shape)
        if len(shape) > 1 and "embed" not in name:
            value *= 1.5 / np.sqrt(np.prod(shape[:-1]))
        if "norm" in name.lower() and not name.endswith(".bias"):
            value = 1 + 0.3 * value
        self.given[name] = value
        return value


class Weighted:
    """Makes layers whose weights come from a function of a name and a shape."""

    def __init__(self, weights):
        self.weights = weights

    def initializer(self, name):
        return lambda shape, dtype=None: ops.convert_to_tensor(self.weights(name, tuple(shape)), dtype)

    def dense(self, name, units, bias=True, activation=None):
        return layers.Dense(
            units,
            activation,
            bias,
            kernel_initializer=self.initializer(name),
            bias_initializer=self.initializer(f"{name}.bias"),
            name=name.replace(".", "_"),
        )

    def table(self, name, rows, width):
        return layers.Embedding(rows, width, self.initializer(name), name=name.replace(".", "_"))

    def layer_norm(self, name, epsilon):
        return layers.LayerNormalization(
            epsilon=epsilon,
            gamma_initializer=self.initializer(name),
            beta_initializer=self.initializer(f"{name}.bias"),
            name=name.replace(".", "_"),
        )

    def rms_norm(self, name, epsilon, one_plus=False):
        return RMSNorm(self.initializer(name), epsilon, one_plus, name=name.replace(".", "_"))


class RMSNorm(layers.Layer):
    """x / sqrt(mean x^2 + epsilon) * w, or * (1 + w)."""

    def __init__(self, initializer, epsilon, one_plus, **options):
        super().__init__(**options)
        self.initializer, self.epsilon, self.one_plus = initializer, epsilon, one_plus

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer=self.initializer)

    def call(self, x):
        mean_square = ops.mean(ops.power(x, 2), axis=-1, keepdims=True)
        return x * ops.rsqrt(mean_square + self.epsilon) * (self.scale + 1.0 if self.one_plus else self.scale)


class Positions(layers.Layer):
    """A learned vector for each position, of shape (1, positions, width)."""

    def __init__(self, table, **options):
        super().__init__(**options)
        self.table = table

    def call(self, x):
        return self.table(ops.arange(ops.shape(x)[1])[None])


class Rotary(layers.Layer):
    """The rotary embedding of (batch, positions, heads, size), for any number of positions."""

    def __init__(self, wavelength, **options):
        super().__init__(**options)
        self.wavelength = wavelength

    def call(self, x):
        frequencies = self.wavelength ** (-ops.arange(0, x.shape[-1], 2, dtype=x.dtype) / x.shape[-1])
        angles = ops.arange(ops.shape(x)[1], dtype=x.dtype)[:, None] * frequencies
        angles = ops.concatenate([angles, angles], axis=-1)[None, :, None, :]
        first, second = ops.split(x, 2, axis=-1)
        return x * ops.cos(angles) + ops.concatenate([-second, first], axis=-1) * ops.sin(angles)


def attend(q, k, v, keep, scale):
    """softmax(scale q k^T) v of (batch, positions, heads, size), where `keep` is true; key heads repeated as needed."""
    groups = q.shape[2] // k.shape[2]
    k, v = (ops.repeat(t, groups, axis=2) for t in (k, v))
    scores = ops.einsum("bqhd,bkhd->bhqk", q, k) * scale
    if keep is not None:
        scores = ops.where(keep, scores, ops.cast(np.finfo("float32").min, scores.dtype))
    mixed = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), v)
    return ops.reshape(mixed, (-1, q.shape[1], q.shape[2] * q.shape[3]))


def heads_of(x, heads):
    return ops.reshape(x, (-1, x.shape[1], heads, x.shape[2] // heads))


def causal(length, window=None):
    """Which positions (keys) a position (query) sees."""
    distance = np.arange(length)[:, None] - np.arange(length)
    return (distance >= 0) & (distance < (window or length))


def llama(weights, length, *, vocabulary, width, inner, heads, kv_heads, blocks, embedded=False, wavelength=1e4,
          epsilon=1e-5, size=None, bias=False, tied=False, gemma=False, window=None):  # fmt: skip
    """A decoder like Llama 3; like Qwen 2 with `bias` and `tied`; like Gemma 3 with `gemma`, `tied` and a `window`.

    With `embedded` the inputs are the embeddings of tokens; otherwise ids.
    """
    make, size = Weighted(weights), size or width // heads
    norm = lambda name: make.rms_norm(name, epsilon, one_plus=gemma)  # noqa: E731
    table = make.table("model.embed_tokens", vocabulary, width)
    table.build()
    x = inputs = keras.Input((length, width)) if embedded else keras.Input((length,), dtype="int32")
    if not embedded:
        x = table(x)
        x = layers.Rescaling(width**0.5)(x) if gemma else x
    for i in range(blocks):
        p, local = f"model.layers.{i}", gemma and (i + 1) % 6
        a, waves = f"{p}.self_attn", 1e4 if local else wavelength
        h = norm(f"{p}.input_layernorm")(x)
        q = heads_of(make.dense(f"{a}.q_proj", heads * size, bias)(h), heads)
        k, v = (heads_of(make.dense(f"{a}.{n}_proj", kv_heads * size, bias)(h), kv_heads) for n in "kv")
        if gemma:
            q, k = norm(f"{a}.q_norm")(q), norm(f"{a}.k_norm")(k)
        q, k = Rotary(waves)(q), Rotary(waves)(k)
        h = attend(q, k, v, causal(length, window if local else None), size**-0.5)
        h = make.dense(f"{a}.o_proj", width, False)(h)
        x = x + (norm(f"{p}.post_attention_layernorm")(h) if gemma else h)
        h = norm(f"{p}.{'pre_feedforward' if gemma else 'post_attention'}_layernorm")(x)
        gate, up = (make.dense(f"{p}.mlp.{n}_proj", inner, False)(h) for n in ("gate", "up"))
        gate = ops.gelu(gate, approximate=True) if gemma else ops.silu(gate)
        h = make.dense(f"{p}.mlp.down_proj", width, False)(gate * up)
        x = layers.Add(name=f"block{i}")([x, norm(f"{p}.post_feedforward_layernorm")(h) if gemma else h])
    x = norm("model.norm")(x)
    y = Tied(table)(x) if tied else make.dense("lm_head", vocabulary, False)(x)
    return keras.Model(inputs, y)


class Tied(layers.Layer):
    """The head of a language model that uses the table of its embedding."""

    def __init__(self, table, **options):
        super().__init__(**options)
        self.table = table

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.table.embeddings))


def gpt2(weights, length, *, vocabulary, width, heads, blocks, embedded=False):
    """A decoder like GPT-2: layer normalization first, positions that are learned, the head tied to the table."""
    make = Weighted(weights)
    table, places = make.table("transformer.wte", vocabulary, width), make.table("transformer.wpe", length, width)
    table.build()
    x = inputs = keras.Input((length, width)) if embedded else keras.Input((length,), dtype="int32")
    x = x if embedded else table(x)
    x = layers.Add()([x, Positions(places, name="positions")(x)])
    for i in range(blocks):
        p = f"transformer.h.{i}"
        h = make.layer_norm(f"{p}.ln_1", 1e-5)(x)
        q, k, v = (heads_of(make.dense(f"{p}.attn.{n}", width)(h), heads) for n in "qkv")
        h = attend(q, k, v, causal(length), (width // heads) ** -0.5)
        x = x + make.dense(f"{p}.attn.c_proj", width)(h)
        h = make.layer_norm(f"{p}.ln_2", 1e-5)(x)
        h = ops.gelu(make.dense(f"{p}.mlp.c_fc", 4 * width)(h), approximate=True)
        x = layers.Add(name=f"block{i}")([x, make.dense(f"{p}.mlp.c_proj", width)(h)])
    return keras.Model(inputs, Tied(table)(make.layer_norm("transformer.ln_f", 1e-5)(x)))


def bert(weights, length, *, vocabulary, width, inner, heads, blocks, classes, embedded=False):
    """An encoder like BERT: ids or embeddings, segments, and a mask without padding; classes from the first token."""
    make = Weighted(weights)
    first = keras.Input((length, width)) if embedded else keras.Input((length,), dtype="int32")
    segments, mask = keras.Input((length,), dtype="int32"), keras.Input((length,), dtype="int32")
    words = make.table("bert.embeddings.word_embeddings", vocabulary, width)
    words.build()
    kinds = make.table("bert.embeddings.token_type_embeddings", 2, width)(segments)
    places = Positions(make.table("bert.embeddings.position_embeddings", length, width), name="positions")
    x = first if embedded else words(first)
    x = layers.Add()([x, kinds, places(x)])
    x = make.layer_norm("bert.embeddings.LayerNorm", 1e-12)(x)
    keep = ops.cast(mask, "bool")[:, None, None, :]
    for i in range(blocks):
        p = f"bert.encoder.layer.{i}"
        q, k, v = (heads_of(make.dense(f"{p}.attention.self.{n}", width)(x), heads) for n in ("query", "key", "value"))
        h = make.dense(f"{p}.attention.output.dense", width)(attend(q, k, v, keep, (width // heads) ** -0.5))
        x = make.layer_norm(f"{p}.attention.output.LayerNorm", 1e-12)(x + h)
        h = make.dense(f"{p}.intermediate.dense", inner, activation="gelu")(x)
        x = layers.Add()([x, make.dense(f"{p}.output.dense", width)(h)])
        x = make.layer_norm(f"{p}.output.LayerNorm", 1e-12)(x)
        x = layers.Identity(name=f"block{i}")(x)
    pooled = make.dense("bert.pooler.dense", width, activation="tanh")(x[:, 0])
    return keras.Model([first, segments, mask], make.dense("classifier", classes)(pooled))


class ClassToken(layers.Layer):
    """Puts a learned token in front, and adds learned positions."""

    def __init__(self, make, **options):
        super().__init__(**options)
        self.make = make

    def build(self, shape):
        width = shape[-1]
        self.token = self.add_weight(shape=(1, 1, width), initializer=self.make.initializer("class_token"))
        places = self.make.initializer("encoder.pos_embedding")
        self.places = self.add_weight(shape=(1, shape[1] + 1, width), initializer=places)

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1) + self.places


def vit(weights, *, image, patch, width, inner, heads, blocks, classes):
    """A vision transformer with a class token, like that of torchvision."""
    make = Weighted(weights)
    inputs = keras.Input((image, image, 3))
    x = layers.Conv2D(
        width,
        patch,
        patch,
        kernel_initializer=make.initializer("conv_proj"),
        bias_initializer=make.initializer("conv_proj.bias"),
    )(inputs)
    x = ClassToken(make)(layers.Reshape(((image // patch) ** 2, width))(x))
    for i in range(blocks):
        p = f"encoder.layers.encoder_layer_{i}"
        h = make.layer_norm(f"{p}.ln_1", 1e-6)(x)
        q, k, v = (heads_of(make.dense(f"{p}.self_attention.{n}", width)(h), heads) for n in "qkv")
        h = attend(q, k, v, None, (width // heads) ** -0.5)
        x = x + make.dense(f"{p}.self_attention.out_proj", width)(h)
        h = make.layer_norm(f"{p}.ln_2", 1e-6)(x)
        h = make.dense(f"{p}.mlp.0", inner, activation="gelu")(h)
        x = layers.Add(name=f"block{i}")([x, make.dense(f"{p}.mlp.3", width)(h)])
    x = make.layer_norm("encoder.ln", 1e-6)(x)
    return keras.Model(inputs, make.dense("heads.head", classes)(x[:, 0]))
