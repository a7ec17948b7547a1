"""Readers: Keras models, SavedModels and model files become graphs.

This is the only room that knows how Keras and TensorFlow build models.
"""

from revgraph.read.files import load_model
from revgraph.read.keras.signature import SizesUnknown
from revgraph.read.keras.tracing import trace

__all__ = ["SizesUnknown", "load_model", "trace"]
