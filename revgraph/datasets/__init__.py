"""Whole datasets: read in batches, explained, and written to files."""

from revgraph.datasets.explain import explain_dataset
from revgraph.datasets.files import open_dataset
from revgraph.datasets.runs import Report
from revgraph.datasets.sinks import CSV, HDF5, NpyShards, Zarr
from revgraph.datasets.streams import Samples, Unreadable
from revgraph.datasets.summaries import Summary, summarize, to_dataframe

__all__ = [
    "CSV", "HDF5", "NpyShards", "Report", "Samples", "Summary", "Unreadable", "Zarr", "explain_dataset", "open_dataset",
    "summarize", "to_dataframe",
]  # fmt: skip
