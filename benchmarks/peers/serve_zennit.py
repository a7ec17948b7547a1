"""zennit's side of a comparison; runs in its environment.

Its hooks are registered once and stay, and denormal numbers are flushed to zero as TensorFlow does: both in its favour.
"""

import os
import sys
import types

from protocol import serve


def without_torchvision():
    """Has zennit find the names of torchvision that it imports and that nothing here needs."""
    for name in ("torchvision", "torchvision.models", "torchvision.models.resnet"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[name].Bottleneck = sys.modules[name].BasicBlock = type("Unused", (), {})


def composite(method):
    """The composite that is the method of that name, or None for the gradient."""
    from torch.nn import Linear as Dense
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import DeconvNet, EpsilonPlusFlat, GuidedBackprop, LayerMapComposite
    from zennit.layer import Sum
    from zennit.rules import AlphaBeta, Epsilon, Gamma, Norm, Pass, ZPlus
    from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

    canonizers = [SequentialMergeBatchNorm()]
    if method == "guided_backprop":
        return GuidedBackprop()
    if method == "deconvnet":
        return DeconvNet()
    if method == "lrp.epsilon_plus_flat":
        return EpsilonPlusFlat(canonizers=canonizers)
    rules = {
        "lrp.z": [(Linear, Epsilon(1e-7))],
        "lrp.epsilon": [(Linear, Epsilon(1e-7))],
        "lrp.alpha_1_beta_0": [(Linear, AlphaBeta(1, 0))],
        "lrp.alpha_2_beta_1": [(Linear, AlphaBeta(2, 1))],
        "lrp.z_plus": [(Linear, ZPlus(zero_params="bias"))],
        "deep_taylor": [(Linear, ZPlus(zero_params="bias"))],
        "lrp.sequential_preset_a": [(Convolution, AlphaBeta(1, 0)), (Dense, Epsilon(0.1))],
        "gamma 0.25": [(Convolution, Gamma(0.25)), (Dense, Epsilon(1e-6))],
    }
    if method not in rules:
        return None
    structure = [(Activation, Pass()), (Sum, Norm()), (AvgPool, Norm()), (BatchNorm, Pass())]
    return LayerMapComposite([*structure, *rules[method]], canonizers=canonizers)


def prepare(question):
    from importlib.metadata import version

    import torch

    without_torchvision()
    from torch_networks import network
    from zennit.attribution import Gradient

    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    method, size = question["method"], question["image_size"]
    model = network(question["network"], size).eval().requires_grad_(False)
    channels = next(model.parameters()).shape[1]
    batches = {batch: torch.rand(batch, channels, size, size) for batch in question["batch_sizes"]}

    def set_up():
        attributor = Gradient(model, composite(method)).__enter__()

        def start(output):
            selected = torch.zeros_like(output)
            selected[:, 3] = output[:, 3] if method.startswith(("lrp", "gamma", "deep")) else 1.0
            return selected

        def run(batch):
            _, relevance = attributor(batches[batch], start)
            if method == "input_t_gradient":
                relevance = relevance * batches[batch]
            return relevance.detach().numpy()

        return run

    return {"torch": torch.__version__, "zennit": version("zennit")}, set_up


serve(prepare)
