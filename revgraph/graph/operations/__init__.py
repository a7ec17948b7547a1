"""Operations, which are what sites compute.

An operation is called as `operation(inputs, weights)`, with a sequence of tensors and a dict of named weights. So a
rule can call it on modified inputs and on modified weights. `operation.read(dtype)` reads the weights from the model as
they are now.
"""

from revgraph.graph.operations.affine import BatchNorm, ChannelDiagonalConv, LinearMap, Normalize, Scale, Sum
from revgraph.graph.operations.base import (
    Affine,
    Operation,
    Reader,
    Source,
    along,
    constant,
    live,
    ordered_sum,
    plus,
    reading,
)
from revgraph.graph.operations.cells import Joined
from revgraph.graph.operations.linear import (
    Conv,
    Convolutional,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Einsum,
    SeparableConv,
    channels_first,
    channels_last,
)
from revgraph.graph.operations.moves import (
    AveragePool,
    Inert,
    Interpolation,
    Renumbering,
    Routing,
    Table,
    Truncation,
    ZeroPad,
)
from revgraph.graph.operations.nonlinear import (
    Activation,
    Contraction,
    Embedding,
    Fused,
    NoisyRows,
    Opaque,
    Product,
    Quotient,
    RowsOnPath,
    spelt_out,
)

__all__ = [
    "Activation",
    "Affine",
    "AveragePool",
    "BatchNorm",
    "ChannelDiagonalConv",
    "Contraction",
    "Conv",
    "ConvTranspose",
    "Convolutional",
    "Dense",
    "DepthwiseConv",
    "Einsum",
    "Embedding",
    "Fused",
    "Inert",
    "Interpolation",
    "Joined",
    "LinearMap",
    "NoisyRows",
    "Normalize",
    "Opaque",
    "Operation",
    "Product",
    "Quotient",
    "Reader",
    "Renumbering",
    "Routing",
    "RowsOnPath",
    "Scale",
    "SeparableConv",
    "Source",
    "Sum",
    "Table",
    "Truncation",
    "ZeroPad",
    "along",
    "channels_first",
    "channels_last",
    "constant",
    "live",
    "ordered_sum",
    "plus",
    "reading",
    "spelt_out",
]
