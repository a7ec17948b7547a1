"""Packages that are no must: each is imported where it is used, and its absence says how to install it."""

import importlib
from typing import Any

INSTALL = {
    "sklearn": ("scikit-learn", 'pip install "revgraph[concepts]"'),
    "scipy": ("SciPy", 'pip install "revgraph[evaluate]"'),
    "skimage": ("scikit-image", 'pip install "revgraph[evaluate]"'),
    "threadpoolctl": ("threadpoolctl", 'pip install "revgraph[concepts]"'),
    "ray": ("Ray", 'pip install "revgraph[ray]"'),
    "pyarrow": ("PyArrow", 'pip install "revgraph[ray]"'),
    "panel": ("Panel", 'pip install "revgraph[view]"'),
    "umap": ("umap-learn", "pip install umap-learn"),
    "pandas": ("pandas", "pip install pandas"),
    "networkx": ("networkx", "pip install networkx"),
}
"""The name of each package, and how it is installed, by the name under which it is imported."""


def needed(module: str, what: str) -> Any:
    """Imports a package that is no must.

    Args:
        module: The name under which it is imported.
        what: What needs it, for the message.

    Raises:
        ImportError: It is missing. The message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name, install = INSTALL[module.split(".")[0]]
        raise ImportError(f"{what} needs {name}: {install}.") from error
