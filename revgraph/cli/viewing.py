"""`revgraph view`. It takes the parsed options."""

from argparse import Namespace

import revgraph
from revgraph.cli.answers import tell
from revgraph.cli.inputs import class_names


def view(options: Namespace) -> None:
    """`revgraph view`."""
    page = revgraph.view(
        options.results, inputs=options.inputs, concepts=options.concepts, class_names=class_names(options),
        kind=options.kind, port=options.port, open_browser=not options.no_browser, wait=False,
    )  # fmt: skip
    tell(options, {"url": page.url}, f"The page is at {page.url}. Ctrl-C ends it.")
    try:
        page.wait()
    except KeyboardInterrupt:
        page.close()
