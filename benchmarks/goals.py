"""What is measured, and the goals: the price of a method as a multiple of the plain gradient's."""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Method:
    """A method under the name by which tables show it.

    Args:
        goals: The largest ratio to the plain gradient that is good enough, by network.
        name: The analyzer's name.
        gamma: For `lrp` with gamma on convolutions and epsilon on dense layers.
    """

    goals: dict[str, float]
    name: str
    gamma: float | None = None


CONVOLUTIONAL = ("VGG16", "ResNet50")
TRANSFORMERS = ("ViT-B/16", "BERT")
RECURRENT = ("LSTM", "GRU")


def _methods():
    groups = {
        ("lrp.epsilon", "lrp.z", "input_t_gradient"): (1.10, 1.25),
        (
            "lrp.alpha_1_beta_0",
            "lrp.z_plus",
            "lrp.epsilon_plus_flat",
            "lrp.sequential_preset_a",
            "deep_taylor",
        ): (1.50, 1.70),
        ("gamma 0.25",): (1.60, 1.80),
        ("lrp.alpha_2_beta_1",): (2.40, 2.60),
        ("guided_backprop", "deconvnet"): (1.05, 1.10),
    }
    for names, goals in groups.items():
        goals = dict(zip(CONVOLUTIONAL, goals, strict=True))
        for name in names:
            of_steps = dict.fromkeys(RECURRENT, 2.0) if name == "lrp.epsilon" else {}
            yield name, Method(goals, "lrp", 0.25) if name.startswith("gamma") else Method(goals | of_steps, name)
    for name, goal in (("lrp.cp", 1.25), ("lrp.attnlrp", 1.25), ("lrp.vit", 1.80)):
        yield name, Method(dict.fromkeys(TRANSFORMERS, goal), name)


METHODS = dict(_methods())


def methods_of(network: str, methods: Iterable[str] = METHODS) -> tuple[str, ...]:
    """Those of some methods that have a goal on a network; all of them on a network without goals."""
    has_goals = any(network in method.goals for method in METHODS.values())
    return tuple(name for name in methods if not has_goals or network in METHODS[name].goals)


FIRST_CALL = {"VGG16": 3.0, "ResNet50": 10.0, "DenseNet201": 40.0, "ViT-B/16": 15.0, "BERT": 15.0}
"""Seconds from `create_analyzer` to the end of the first `analyze`, in a fresh process."""

FIRST_CALL_OF_SERIES = 5.0
"""The same for a recurrent network, however many steps there are."""

OVERHEAD = 1e-3
"""Seconds of `analyze` over the bare compiled function, for a small network and one sample."""

TARGETS = 0.65
"""Ten targets in one call, as a share of ten calls."""

CONDITIONS = 0.65
"""Conditional maps of 64 channels of one layer in one call, as a share of 64 calls without conditions."""

MEMORY = 1.6
"""Peak memory of `analyze`, as a multiple of the gradient's."""

MEMORY_OF_SERIES = 2.0
"""The same for recurrent networks."""

THROUGHPUT = 0.95
"""Samples per second over a dataset, as a share of the bare compiled function's."""

COLLECT = 1.3
"""The time of `concepts.collect` over the last block of a network, as a multiple of that of `explain_dataset`."""

SHARE = 0.9
"""Samples per second of two workers, as a share of those of one process that has all cores."""

SPEEDUP = 7.0
"""Samples per second of eight workers, as a multiple of those of one, where a batch takes 50 ms and no core."""
