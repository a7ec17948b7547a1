"""`revgraph view`. It takes the parsed options."""

import json
from argparse import Namespace

import revgraph
from revgraph.cli.inputs import class_names


def view(options: Namespace) -> None:
    """`revgraph view`."""
    page = revgraph.view(
        options.results, inputs=options.inputs, concepts=options.concepts, class_names=class_names(options),
        kind=options.kind, port=options.port, open_browser=not options.no_browser, wait=False,
    )  # fmt: skip
    print(json.dumps({"url": page.url}) if options.json else f"The page is at {page.url}. Ctrl-C ends it.", flush=True)
    try:
        page.wait()
    except KeyboardInterrupt:
        page.close()
