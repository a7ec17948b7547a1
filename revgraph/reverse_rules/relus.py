"""Rules for ReLUs that change a gradient on its way back. They are not LRP: nothing is shared out or conserved.

Notation: x is an entry of the ReLU's input, f' the slope of the ReLU there (1 or 0), g what arrives from above, and g'
what is handed on. The gradient itself is g' = f'(x) g.

References:
    [ZEILER2014] Zeiler and Fergus: Visualizing and Understanding Convolutional Networks. ECCV 2014.
    [SPRINGENBERG2015] Springenberg et al.: Striving for Simplicity: The All Convolutional Net. ICLR workshop 2015.
    [DOMBROWSKI2019] Dombrowski et al.: Explanations Can Be Manipulated and Geometry Is to Blame. NeurIPS 2019.
"""

import dataclasses

import tensorflow as tf

from revgraph.graph.arguments import check_number
from revgraph.reverse_rules.engine import OutputsAndPullback, Pullback, Rule, SiteCall
from revgraph.reverse_rules.terms import pos


@dataclasses.dataclass(frozen=True)
class DeconvNet(Rule):
    """Deconvnet: negative values are dropped, and the ReLU's input does not count, g' = max(g, 0).  [ZEILER2014]"""

    def record(self, call: SiteCall) -> OutputsAndPullback:
        return call.outputs, Pullback(lambda relevance: (pos(relevance),))


@dataclasses.dataclass(frozen=True)
class GuidedBackprop(Rule):
    """Guided backpropagation: a value passes if it is positive and the ReLU's input is.  [SPRINGENBERG2015]

    g' = max(f'(x) g, 0)
    """

    def record(self, call: SiteCall) -> OutputsAndPullback:
        return call.outputs, Pullback(lambda relevance: tuple(pos(r) for r in call.transposed(relevance)))


@dataclasses.dataclass(frozen=True)
class ReLUBetaSmooth(Rule):
    """The gradient of a ReLU whose kink is smoothed: g' = sigmoid(beta x) g.  [DOMBROWSKI2019]

    Gradients of ReLUs jump from pixel to pixel, and can be changed at will by someone who trains the network. Those of
    the smoothed function do not.

    Args:
        beta: Sharpness, positive. The larger it is, the closer the result is to the ReLU's own gradient.
    """

    beta: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ReLUBetaSmooth: beta", self.beta, above=0)

    def record(self, call: SiteCall) -> OutputsAndPullback:
        slope = tf.math.sigmoid(self.beta * call.inputs[0])
        return call.outputs, Pullback(lambda relevance: (slope * relevance,))
