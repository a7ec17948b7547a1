"""The names of `revgraph.evaluate.flipping`, where iNNvestigate's users look for them."""

from revgraph.evaluate.flipping import FlippingCurve, Perturbation, PerturbationAnalysis, pixel_flipping

__all__ = ["FlippingCurve", "Perturbation", "PerturbationAnalysis", "pixel_flipping"]
