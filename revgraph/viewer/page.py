"""`view`: a page on this machine that shows an `Album`. Its widgets and its server are Panel's."""

import asyncio
import concurrent.futures
import errno
import html
import socket
import threading
import webbrowser
from collections.abc import Sequence
from typing import Any

import numpy as np

from revgraph.concepts.collection import Collection
from revgraph.extras import needed
from revgraph.graph.types import PathLike
from revgraph.viewer.album import Album
from revgraph.viewer.look import Look
from revgraph.viewer.sheet import STYLE, sheet, sources

HOST = "127.0.0.1"
"""The page can be opened from this machine alone."""

ANY, NONE, WRONG = "any", "none", "Only wrong predictions"
"""Words on widgets: a class that is not asked for, a layer that is not, and the filter for predictions."""

TEMPLATE = """{% extends base %}
{% block postamble %}<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {color-scheme: light dark}
body {margin: 0; background: var(--design-background-color); font: 16px/1.5 system-ui, sans-serif}
@media (prefers-color-scheme: light) {:root {
  --design-background-color: #fff; --design-background-text-color: #212529;
  --design-surface-color: #f3f3f3; --design-surface-text-color: #212529}}
@media (prefers-color-scheme: dark) {:root {
  --design-background-color: #1b1e21; --design-background-text-color: #e9ecef;
  --design-surface-color: #2b3035; --design-surface-text-color: #e9ecef}}
</style>{% endblock %}
{% block contents %}<main>{{ embed(roots.page) }}</main>{% endblock %}
"""
"""The page around the widgets: its colours are those of the system, dark or light."""

ARROWS = """
@media (prefers-color-scheme: dark) {
  select {appearance: auto !important; background-image: none !important}
  .bk-spin-btn-up:before {border-bottom-color: currentColor !important}
  .bk-spin-btn-down:before {border-top-color: currentColor !important}
  .bk-spin-btn {color: var(--design-surface-text-color) !important}}
"""
"""The arrows of widgets, which are black where nothing else is said."""


class Page:
    """A page that a server on this machine gives, until it is closed.

    Args:
        album: What is shown.
        port: The port; a free one by default.

    Attributes:
        url: The address of the page.

    Raises:
        ImportError: Panel is missing.
        OSError: The port is in use.
    """

    def __init__(self, album: Album, port: int | None = None):
        panel = needed("panel", "view")
        self._port = _free_port(port)
        self.url = f"http://{HOST}:{self._port}/"
        started = concurrent.futures.Future[None]()
        # The server has a thread of its own, because the event loop of a notebook runs already.
        self._thread = threading.Thread(target=self._serve, args=(panel, album, started), daemon=True)
        self._thread.start()
        started.result()

    def _serve(self, panel, album, started):
        try:
            asyncio.set_event_loop(asyncio.new_event_loop())
            self._server = panel.io.server.get_server(
                lambda: _Session(panel, album).page,
                port=self._port,
                address=HOST,
                websocket_origin=[f"{HOST}:{self._port}", f"localhost:{self._port}"],
                title="revgraph",
            )
            self._server.start()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        self._server.io_loop.start()

    def wait(self) -> None:
        """Waits until the page is closed, or until Ctrl-C."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        """Ends the server."""
        if self._thread.is_alive():
            self._server.io_loop.add_callback(self._stop)
            self._thread.join()

    def _stop(self):
        self._server.stop(wait=False)
        self._server.io_loop.stop()

    def __repr__(self) -> str:
        return f"<page at {self.url}>"


def view(
    paths: PathLike | Sequence[PathLike],
    *,
    inputs: Any = None,
    concepts: PathLike | Collection | None = None,
    class_names: Sequence[str] | None = None,
    kind: str | None = None,
    port: int | None = None,
    open_browser: bool = True,
    wait: bool = True,
) -> Page:
    """Shows what `explain_dataset` wrote on a page in the browser: sample by sample, methods side by side.

    The page is given by a server on 127.0.0.1, which no other machine reaches. Of large files only the samples that are
    shown are read.

    Args:
        paths: The output of `explain_dataset`: HDF5, Zarr, or a directory of shards. Several outputs of one dataset
            stand side by side.
        inputs: The inputs of all samples of the dataset, where they were not written with the results: an array, the
            path of a `.npy` file, or of an HDF5 file with `data` as ViRelAy has it. Of a model with several inputs, a
            dict by their names.
        concepts: What `revgraph.concepts.collect` wrote of the same model and dataset, or its path.
        class_names: Names of the classes; see `revgraph.visualize.plot`. By default those that were noted with the
            results.
        kind: `"images"`, `"series"` or `"tokens"`, where the number of axes does not say what samples are; see
            `revgraph.visualize.plot`. Tokens are ids, which stand in their order.
        port: The port of the server; a free one by default.
        open_browser: Open the page in the browser.
        wait: Return when the page is closed, or at Ctrl-C. False returns at once, as a notebook needs it.

    Returns:
        The `Page`, whose `url` is its address, and whose `close()` ends the server.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: Panel is missing: `pip install "revgraph[view]"`.
        OSError: The port is in use.
        ValueError: The files are no results, or not of one dataset; or the inputs, names or concepts do not fit.

    Example:

        page = revgraph.view(["epsilon.h5", "gradient.h5"], wait=False)
        print(page.url)
        page.close()
    """
    needed("panel", "view")
    page = Page(Album(paths, inputs, concepts, class_names, kind), port)
    if open_browser:
        webbrowser.open(page.url)
    if wait:
        try:
            page.wait()
        except KeyboardInterrupt:
            page.close()
    return page


def _free_port(port):
    """The port, if it is free; any free one by default."""
    if port is not None and (not isinstance(port, int) or not 0 < port < 65536):
        raise ValueError(f"port is a number from 1 to 65535, or None for any that is free. Received: {port!r}.")
    with socket.socket() as tried:
        # A port whose last connections are still closing is free, as it is for the server.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port or 0))
        except OSError as error:
            taken = f"port={port} is in use, or not allowed. Choose another port, or leave it out for any that is free"
            raise OSError(error.errno or errno.EADDRINUSE, taken) from error
        return tried.getsockname()[1]


class _Session:
    """The widgets of one visitor, and what they show."""

    def __init__(self, panel: Any, album: Album):
        self.panel, self.album = panel, album
        widgets = panel.widgets
        self._label = self._classes("Label", album.labels)
        self._prediction = self._classes("Prediction", album.predictions)
        self._wrong = widgets.CheckBoxGroup(options=[WRONG], visible=album.knows_wrong)
        self._previous = widgets.Button(name="Previous", width=90)
        self._next = widgets.Button(name="Next", width=90)
        self._sample = widgets.IntInput(
            name="Sample", value=int(album.index[0]), start=0, end=int(album.index[-1]), width=110
        )
        several = len(album.methods) > 1
        methods = list(album.methods)
        self._methods = widgets.CheckBoxGroup(options=methods, value=methods, inline=True, visible=several)
        scales = {"one for all methods": False, "each method its own": True}
        self._own = widgets.Select(name="Colour scale", options=scales, value=False, visible=several, width=170)
        self._percentile = widgets.FloatInput(
            name="Last colour at percentile", value=100.0, start=50.0, end=100.0, step=0.5, width=170
        )
        self._threshold = widgets.FloatInput(
            name="Hide below % of the largest", value=0.0, start=0.0, end=99.0, step=1.0, width=190
        )
        layers = () if album.concepts is None else album.concepts.layers
        self._layer = widgets.Select(
            name="Concepts of layer",
            options=[NONE, *layers],
            value=[NONE, *layers][-1],
            visible=bool(layers),
            width=170,
        )
        self._by = widgets.Select(
            name="Reference samples by", options=["relevance", "activation"], visible=bool(layers), width=170
        )
        self._shown = panel.pane.HTML(sizing_mode="stretch_width", stylesheets=[STYLE])
        self._found = album.find()
        for widget in (self._label, self._prediction, self._wrong):
            widget.param.watch(lambda _: self._filter(), "value")
        for widget in (self._sample, self._methods, self._own, self._percentile, self._threshold,
                       self._layer, self._by):  # fmt: skip
            widget.param.watch(lambda _: self._show(), "value")
        self._previous.on_click(lambda _: self._step(-1))
        self._next.on_click(lambda _: self._step(1))
        self._show()
        self.page = self._template()

    def _classes(self, name, numbers):
        options = {ANY: ANY, **{self.album.name_of(number): number for number in numbers}}
        return self.panel.widgets.Select(name=name, options=options, value=ANY, visible=bool(numbers), width=150)

    def _template(self):
        def row(*widgets):
            for widget in widgets:
                widget.stylesheets = [*widget.stylesheets, ARROWS]
            return self.panel.FlexBox(*widgets, align_items="end", sizing_mode="stretch_width")

        template = self.panel.Template(TEMPLATE)
        about = self.panel.pane.HTML(sources(self.album), sizing_mode="stretch_width", stylesheets=[STYLE])
        content = self.panel.Column(
            row(self._previous, self._next, self._sample, self._label, self._prediction, self._wrong),
            row(self._methods, self._own, self._percentile, self._threshold, self._layer, self._by),
            self._shown,
            about,
            sizing_mode="stretch_width",
        )
        template.add_panel("page", content)
        return template

    def _filter(self):
        label, prediction = (None if w.value == ANY else w.value for w in (self._label, self._prediction))
        self._found = self.album.find(label, prediction, bool(self._wrong.value))
        self._show()

    def _step(self, by):
        """Goes to the next sample, or to the one before."""
        if len(self._found):
            place = int(np.searchsorted(self._found, self._sample.value or 0))
            self._sample.value = int(self._found[(place + by) % len(self._found)])

    def _show(self):
        look = Look(
            100.0 if self._percentile.value is None else self._percentile.value,
            (self._threshold.value or 0) / 100,
            self._own.value,
        )
        layer = None if self._layer.value == NONE else self._layer.value
        place = min(int(np.searchsorted(self._found, self._sample.value or 0)), len(self._found) - 1)
        if place >= 0 and self._found[place] != self._sample.value:
            # The sample is none of those that fit. Its value shows the one behind it.
            self._sample.value = int(self._found[place])
            return
        try:
            shown = sheet(self.album, self._found, place, look, self._methods.value, layer, self._by.value)
        # The files may have been moved or replaced since the page was opened.
        except (OSError, ValueError, KeyError) as error:
            shown = f"<h2 role='status'>{html.escape(str(error))}</h2>"
        self._shown.object = shown
