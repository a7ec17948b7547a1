"""Readers: Keras models, SavedModels and model files become graphs. The only room that knows how they are built."""

from revgraph.read.files import load_model
from revgraph.read.keras.signature import Sized, SizesUnknown, has_any_size
from revgraph.read.keras.tracing import trace
from revgraph.read.savedmodel.reader import read_savedmodel

__all__ = ["Sized", "SizesUnknown", "has_any_size", "load_model", "read_savedmodel", "trace"]
