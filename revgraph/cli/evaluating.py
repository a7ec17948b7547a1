"""`revgraph evaluate`: measures methods. It takes the parsed options."""

from argparse import Namespace
from pathlib import Path

import numpy as np

from revgraph import evaluate
from revgraph.cli.answers import UsageError, tell, wrong
from revgraph.cli.commands import model_of
from revgraph.evaluate.metric import named


def compare(options: Namespace) -> None:
    """`revgraph evaluate`."""
    out = Path(options.out)
    files = {end: out.with_name(f"{out.name}.{end}") for end in ("json", "csv", "png")}
    there = [str(path) for path in files.values() if path.exists()]
    if there and not options.overwrite:
        raise FileExistsError(f"{', '.join(there)} exist. Choose another --out, or pass --overwrite.")
    with wrong("--metrics"):
        metrics = [named(metric) for metric in options.metrics]
    x, y, truth = _arrays(options)
    model = model_of(options)
    # Scores are kept beside the results while they are computed. So the same command goes on after an interruption.
    part = out.with_name(f"{out.name}.part")
    result = evaluate.compare(
        model, x, y, analyzers=options.methods, metrics=metrics, truth=truth,
        batch_size=options.batch_size or 32, out=part,
    )  # fmt: skip
    for end in ("json", "csv"):
        result.save(files[end])
    result.plot().savefig(files["png"])
    part.unlink(missing_ok=True)
    means = {name: {metric: scores.mean for metric, scores in row.items()} for name, row in result.scores.items()}
    tell(options, {"means": means, "ranks": result.ranks, "files": [str(path) for path in files.values()]}, result)


def _arrays(options):
    """The samples, and the labels and the truth where the file has them."""
    path = Path(options.data)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if path.suffix == ".npy":
        return np.load(path), None, None
    if path.suffix != ".npz":
        raise UsageError(
            f"DATA is a .npz file with the arrays x, y and truth, or a .npy file of samples. Received: {path}"
        )
    with np.load(path) as arrays:
        x = {name: arrays[name] for name in arrays if name not in ("y", "truth")}
        if not x:
            raise UsageError(
                f"{path} has no array x, and none by the name of an input. It has {', '.join(arrays) or 'none'}."
            )
        return x.get("x", x), arrays.get("y"), arrays.get("truth")
