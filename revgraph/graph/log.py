"""How long the slow steps take, told to `logging.getLogger("revgraph")` at the level INFO."""

import contextlib
import logging
import time
from collections.abc import Iterator

LOG = logging.getLogger("revgraph")


@contextlib.contextmanager
def timed(step: str, of: object) -> Iterator[None]:
    """Logs how long the code inside takes.

    Args:
        step: What it does: `"trace"`, `"canonize"` or `"compile"`.
        of: What it is done to; its name is shown if it has one.
    """
    begin = time.perf_counter()
    yield
    LOG.info("%s %r: %.3f s", step, getattr(of, "name", type(of).__name__), time.perf_counter() - begin)
