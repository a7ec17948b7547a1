"""Where a warning comes from: the line of the user's code that called revgraph."""

import inspect


def outside() -> int:
    """The stack level of the caller outside revgraph, for warnings."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("revgraph"):
        level, frame = level + 1, frame.f_back
    return level
