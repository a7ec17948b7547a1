"""LXT's side of a comparison; runs in its environment.

Classes are patched once, weights need no gradient, and denormal numbers are flushed to zero as TensorFlow does: all in
its favour.
"""

import os
from importlib.metadata import version

from protocol import serve

TOKENS = 128
"""How many ids a text has."""


def with_any_torchvision():
    """Lets torchvision be imported where its compiled operations do not fit this PyTorch. Nothing here needs them."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor boxes) -> Tensor")
        except RuntimeError:
            return None
    return library


def patch(network, method):
    """Patches the classes of a network as LXT does for a method."""
    import lxt.efficient.models.bert as bert
    import lxt.efficient.models.vit_torch as vit
    from lxt.efficient import monkey_patch, monkey_patch_zennit

    known = {
        ("ViT-B/16", "lrp.cp"): (vit.vision_transformer, vit.cp_LRP),
        ("ViT-B/16", "lrp.vit"): (vit.vision_transformer, vit.cp_LRP),
        ("BERT", "lrp.attnlrp"): (bert.modeling_bert, bert.attnLRP),
    }
    if (network, method) not in known:
        raise ValueError(f"LXT has no {method} of {network}")
    monkey_patch(*known[network, method])
    if method == "lrp.vit":
        monkey_patch_zennit()


def model_of(network, size):
    """A network, and a function of a batch size that gives what is explained."""
    import torch

    if network == "ViT-B/16":
        from torchvision.models import vit_b_16

        model = vit_b_16(weights=None, image_size=size)
        torch.nn.init.normal_(model.heads.head.weight, std=0.02)
        return model, model, lambda batch: torch.rand(batch, 3, size, size)
    from transformers.models.bert import modeling_bert

    model = modeling_bert.BertForSequenceClassification(modeling_bert.BertConfig(num_labels=10))
    table = model.get_input_embeddings()

    def embedded(batch):
        return table(torch.randint(1, model.config.vocab_size, (batch, TOKENS))).detach()

    return model, lambda x: model(inputs_embeds=x).logits, embedded


def prepare(question):
    import torch

    kept = with_any_torchvision()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    network, method = question["network"], question["method"]
    if method != "plain gradient":
        patch(network, method)
    model, forward, samples = model_of(network, question["image_size"])
    model.eval().requires_grad_(False)
    batches = {batch: samples(batch) for batch in question["batch_sizes"]}

    def set_up():
        if method == "lrp.vit":
            from zennit.composites import LayerMapComposite
            from zennit.rules import Gamma

            rules = [(torch.nn.Conv2d, Gamma(0.25)), (torch.nn.Linear, Gamma(0.05))]
            LayerMapComposite(rules).register(model)

        def run(batch, kept=kept):
            x = batches[batch].requires_grad_()
            x.grad = None
            forward(x)[:, 3].sum().backward()
            return (x.grad if method == "plain gradient" else x * x.grad).detach().numpy()

        return run

    return {name: version(name) for name in ("torch", "lxt", "transformers")}, set_up


serve(prepare)
