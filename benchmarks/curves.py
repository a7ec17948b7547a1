"""Scaling as a picture: time and memory over batch size, image size and depth."""

from pathlib import Path

GRADIENT = "plain gradient"
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's, which colour-blind people can tell apart."""


def draw(rows: list[dict], path: Path):
    """Draws the rows of the section `scaling`, if anything could be measured."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if "error" not in row]
    if not rows:
        return
    curves = list(dict.fromkeys(row["curve"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(3.6 * len(curves), 5.6), layout="constrained")
    panels = figure.subplots(2, len(curves), squeeze=False)
    for column, curve in enumerate(curves):
        for method, colour in zip(methods, COLOURS, strict=False):
            found = [row for row in rows if (row["curve"], row["method"]) == (curve, method)]
            at = [_position(row["value"]) for row in found]
            for axes, key in zip(panels[:, column], ("seconds", "megabytes"), strict=True):
                axes.plot(at, [row[key] for row in found], "o-", color=colour, label=method, markersize=4)
                axes.set_xticks(at, [str(row["value"]) for row in found])
        for axes in panels[:, column]:
            # Only now: it ends the scaling of the axis to what is drawn.
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
        first = next(row for row in rows if row["curve"] == curve)
        fixed = {"network": first["network"], "batch": first["batch"], "image": first["image_size"] or 224}
        varied = {"batch size": "batch", "image size": "image"}.get(curve, curve)
        held = ", ".join(
            f"{value}" if key == "network" else f"{key} {value}" for key, value in fixed.items() if key != varied
        )
        panels[0, column].set_title(f"{curve} ({held})", fontsize=9)
        panels[1, column].set_xlabel(curve, fontsize=9)
    panels[0, 0].set_ylabel("seconds", fontsize=9)
    panels[1, 0].set_ylabel("peak memory, MB", fontsize=9)
    panels[0, 0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _position(value):
    """Where a value stands on the axis; networks by the number in their name."""
    return value if isinstance(value, int) else int("".join(c for c in value if c.isdigit()) or 0)
