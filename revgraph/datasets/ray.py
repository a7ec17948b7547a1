"""Datasets on Ray."""

from revgraph.datasets.engines import Engine


class Actors(Engine):
    """Computes batches in actors of a Ray cluster."""

    def __init__(self, count: int):
        raise NotImplementedError
