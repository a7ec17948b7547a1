"""Draws a ledger. Needs matplotlib."""

from typing import TYPE_CHECKING

import numpy as np

from revgraph.reverse import ledger
from revgraph.reverse.pictures import Picture

if TYPE_CHECKING:
    from revgraph.reverse.ledger import Conservation

COLOURS = {
    "bias": "#0072b2",
    "constants": "#009e73",
    "rule": "#56b4e9",
    "softmax": "#f0e442",
    "stabiliser": "#e69f00",
    "condition": "#d55e00",
    "other": "#cc79a7",
}
"""The colours of these columns in `plot`, from Okabe and Ito, because colour-blind people can tell them apart."""


def draw(report: "Conservation") -> Picture:
    """Draws a ledger; see `Conservation.plot`."""
    mean = "mean " if len(report) > 1 else ""

    def per_cent(relevance):
        return 100 * report.mean_share(relevance)

    left = per_cent(report.start) - np.cumsum([per_cent(entry.lost) for entry in report.layers])
    drawn = set(report.sorted_layers()[: ledger.LISTED])
    left = [x for x, entry in zip(left, report.layers, strict=True) if entry in drawn]
    entries = [entry for entry in report.layers if entry in drawn]
    rows = np.arange(len(entries))
    picture = Picture(9, 1.6 + 0.22 * max(len(entries), 4))
    remaining, absorbed = picture.subplots(1, 2, sharey=True)
    remaining.barh(rows, left, color="0.75", height=0.8)
    remaining.axvline(100, color="0.4", linewidth=0.8, linestyle=":")
    remaining.set(xlabel=f"{mean}relevance left after the site, % of the start", yticks=rows)
    remaining.set_yticklabels([e.path for e in entries], fontsize=8)
    drawn_columns = [name for name in COLOURS if name != "condition" or np.any(report.condition)]
    _stack(absorbed, rows, {name: [per_cent(getattr(e, name)) for e in entries] for name in drawn_columns})
    absorbed.axvline(0, color="0.4", linewidth=0.8)
    absorbed.set_xlabel(f"{mean}relevance absorbed by the site, % of the start")
    absorbed.use_sticky_edges = False
    absorbed.autoscale_view()
    low, high = absorbed.get_xlim()
    # A narrower range would let rounding errors look like losses.
    absorbed.set_xlim(min(low, -1), max(high, 1))
    absorbed.legend(
        fontsize=8,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=len(drawn_columns),
        frameon=False,
        columnspacing=1.0,
        handlelength=1.2,
    )
    remaining.set_ylim(len(entries) - 0.4, -0.6)
    for axes in (remaining, absorbed):
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_size(9)
        axes.spines[["top", "right"]].set_visible(False)
    picture.suptitle(f"From output to input: {report.found()} of the relevance arrives", fontsize=10)
    return picture


def _stack(axes, rows, shares):
    """Draws stacked horizontal bars: positive shares to the right of zero, negative ones to the left."""
    right, left = np.zeros(len(rows)), np.zeros(len(rows))
    for name, values in shares.items():
        values = np.asarray(values)
        axes.barh(rows, values, left=np.where(values >= 0, right, left), color=COLOURS[name], label=name, height=0.8)
        right += np.maximum(values, 0)
        left += np.minimum(values, 0)
