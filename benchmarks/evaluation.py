"""Measures every analyzer on every problem whose answer is known, and writes the page with the results.

    python -m benchmarks.evaluation --out docs

The reference model of each problem is trained with several seeds. Each explains new samples that it solves.
"""

import argparse
import dataclasses
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

import revgraph
from revgraph import evaluate
from revgraph.analyzers.registry import ANALYZERS
from revgraph.evaluate import problems
from revgraph.reverse.pictures import Picture
from revgraph.saving.provenance import versions
from revgraph.visualize import heatmap


@dataclasses.dataclass(frozen=True)
class Task:
    """A problem and how it is measured.

    Args:
        title: The title of its section.
        make: Function of the number of samples and a seed.
        training: How many samples train the model.
        bounds: Bounds of the inputs, for rules that need them.
        absolute: Whether the size of relevance is compared with the truth, because the missing shape decides, too.
    """

    title: str
    make: Callable[..., problems.Problem]
    training: int
    bounds: tuple[float, float] | None = (-1.0, 1.0)
    absolute: bool = False


def _tetrominoes(difficulty, background):
    return lambda samples, seed: problems.tetrominoes(samples, difficulty, background, seed=seed)


TASKS = {
    **{
        f"{difficulty}_{background}": Task(
            f"Tetrominoes, {difficulty}, {background} background",
            _tetrominoes(difficulty, background),
            4000,
            absolute=True,
        )
        for difficulty in problems.DIFFICULTIES
        for background in problems.BACKGROUNDS
    },
    "shapes": Task("A question about coloured shapes", lambda n, seed: problems.shapes(n, seed=seed), 6000, (0.0, 1.0)),
    "clever_hans": Task("A planted Clever Hans", lambda n, seed: problems.clever_hans(n, seed=seed), 1500, (-1.0, 2.0)),
    "motif": Task("A motif in a series", lambda n, seed: problems.motif(n, seed=seed), 3000, (-3.0, 3.0)),
    "interactions": Task("A table with interactions", lambda n, seed: problems.interactions(n, seed=seed), 4000),
    "addition": Task("Two marked numbers of a series", lambda n, seed: problems.addition(n, seed=seed), 30000),
    "needle": Task("A needle among distractors", lambda n, seed: problems.needle(n, seed=seed), 20000, None),
}
"""All problems by a short name."""

LEFT_OUT = {
    "lrp.sequential_preset_b_flat_until_idx": "needs the number of a layer",
    "lrp": "is `lrp.epsilon` by another name",
    "expected_gradients": "needs references",
    "grad_cam++": "is `grad_cam_plus_plus` by another name",
}
"""Analyzers that are not measured, and why."""

CLASSES = ("relevance_rank", "relevance_mass", "pointing_game", "earth_movers_distance", "relevance_gain")
"""The metrics on problems whose answers are classes."""

EDGES = ("sobel", "laplace")
"""Filters that XAI-TRIS compares analyzers with."""

LARGEST = 512
"""The earth mover's distance is left out for samples of more units."""

PICTURED = ("gradient", "integrated_gradients", "lrp.epsilon", "lrp.epsilon_plus", "lrp.alpha_2_beta_1", "lrp.cp")
"""The analyzers in pictures."""


def _filtered(name):
    """A filter of SciPy as an analyzer that does not know the model: edges, as a control for pictures."""
    return lambda model, x, y: np.stack([getattr(ndimage, name)(picture[..., 0]) for picture in x])[..., None]


OVERVIEW = (
    "The mean place of each analyzer over the metrics of each problem, 1 for the best. A place says nothing of the "
    "distance to the next one, and analyzers that are the same on a problem share their place. Fourteen small problems "
    "are not all networks: measure your own. `lrp.flat` and the presets that end in `_flat` have their rule at the "
    "first layer. If that layer is dense it reads the whole picture, and shares relevance equally over all of it, as "
    "in the networks for tetrominoes. They are meant for convolutions with small kernels on photographs."
)
"""What is said of all problems together."""


def analyzers(model, task, train):
    """Analyzers of a model by name, and why the others cannot explain it. Patterns are estimated on training data."""
    made, refused = {}, dict(LEFT_OUT)
    if train.x.ndim == 4 and train.x.shape[-1] == 1:
        made.update({name: evaluate.FunctionAnalyzer(model, _filtered(name), name) for name in EDGES})
    for name in ANALYZERS:
        if name in refused:
            continue
        low, high = task.bounds or (0.0, 1.0)
        for options in ({}, {"low": low, "high": high}):
            try:
                analyzer = revgraph.create_analyzer(name, model, **options)
                made[name] = analyzer.fit(train.x, batch_size=256) if hasattr(analyzer, "fit") else analyzer
                break
            except (TypeError, ValueError, RuntimeError) as error:
                refused[name] = str(error).split(". ")[0]
    return made, {name: why for name, why in refused.items() if name not in made}


def metrics_of(task, test):
    """The metrics of a problem whose answers are classes."""
    for name in CLASSES:
        metric = evaluate.METRICS[name]
        if name != "earth_movers_distance" or test.truth[0].size <= LARGEST:
            yield metric(absolute=True) if task.absolute and hasattr(metric, "absolute") else metric()


def rows_of_classes(found, test, task):
    """For each analyzer a dict of values per sample, by metric."""
    channels = None if test.x.ndim == 2 else -1
    rows = {}
    for name, analyzer in found.items():
        explained = evaluate.metric.Explained(analyzer, test.x, test.y, test.truth, channel_axis=channels)
        rows[name] = {metric.name: metric.of(explained).values for metric in metrics_of(task, test)}
    return rows


def rows_of_values(found, test, task):
    """For each analyzer the correlation with the true contributions, one value per hundred samples."""
    rows = {}
    for name, analyzer in found.items():
        relevance = analyzer.analyze(test.x, 0)
        parts = np.array_split(np.arange(len(test)), 5)
        rows[name] = {"correlation": np.array([test[part].correlation(relevance[part]) for part in parts])}
    return rows


def measured(task, seeds, samples):
    """Values by analyzer and metric over all seeds, what was refused, the last model and its test samples, shares."""
    values, solved = {}, []
    for seed in seeds:
        train = task.make(task.training, seed=seed)
        model = train.fitted(seed)
        test = task.make(2 * samples, seed=1000 + seed)
        right = test.solved(model)
        solved.append(right.mean())
        test = test[np.flatnonzero(right)[:samples]]
        found, refused = analyzers(model, task, train)
        rows = (rows_of_classes if test.classes else rows_of_values)(found, test, task)
        for name, row in rows.items():
            for metric, per_sample in row.items():
                values.setdefault(name, {}).setdefault(metric, []).append(per_sample)
    joined = {name: {m: np.concatenate(v) for m, v in row.items()} for name, row in values.items()}
    return joined, refused, found, test, solved


def comparison(values):
    """The values as a `Comparison`."""
    return evaluate.Comparison(
        {
            name: {
                metric: evaluate.Scores(
                    metric, name, per_sample, getattr(evaluate.METRICS.get(metric), "higher_is_better", True)
                )
                for metric, per_sample in row.items()
            }
            for name, row in values.items()
        }
    )


def table(result):
    """A comparison as a table of Markdown."""
    ordered = sorted(result.scores, key=lambda name: result.mean_ranks[name])
    lines = ["| analyzer | mean place | " + " | ".join(_titled(result, m) for m in result.metrics) + " |"]
    lines.append("|---|---:|" + "---:|" * len(result.metrics))
    for name in ordered:
        cells = []
        for metric in result.metrics:
            scores = result.scores[name][metric]
            low, high = scores.interval()
            cells.append(f"{scores.mean:.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| `{name}` | {result.mean_ranks[name]:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _titled(result, metric):
    higher = next(iter(result.scores.values()))[metric].higher_is_better
    return f"{metric.replace('_', ' ')} {'↑' if higher else '↓'}"


def overview(places):
    """A table of all problems: the mean place of each analyzer on each.

    Args:
        places: For each problem by its short name, the mean places of analyzers by name.
    """
    names = dict.fromkeys(name for row in places.values() for name in row)
    means = {name: np.mean([row[name] for row in places.values() if name in row]) for name in names}
    lines = ["| analyzer | mean | " + " | ".join(places) + " |", "|---|---:|" + "---:|" * len(places)]
    for name in sorted(means, key=means.__getitem__):
        cells = [f"{row[name]:.0f}" if name in row else "" for row in places.values()]
        lines.append(f"| `{name}` | {means[name]:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(found, test, path):
    """Draws one sample, the truth, and what analyzers find."""
    shown = [name for name in PICTURED if name in found]
    figure = Picture(1.5 * (len(shown) + 2), 1.8)
    axes = figure.subplots(1, len(shown) + 2)
    sample, truth = test.x[0], test.truth[0].astype(float)
    if sample.ndim == 3:
        image = sample if sample.shape[-1] == 3 else sample[..., 0]
        axes[0].imshow(image, cmap="gray")
        axes[1].imshow(truth, cmap="gray")
        for each, name in zip(axes[2:], shown, strict=True):
            each.imshow(heatmap(found[name].analyze(test.x[:1], test.y[:1]))[0])
    else:
        series = sample if sample.ndim == 1 else sample[..., 0]
        axes[0].plot(series, color="0.3")
        axes[1].bar(range(len(truth)), truth, color="0.3")
        for each, name in zip(axes[2:], shown, strict=True):
            target = test.y[:1] if test.classes else 0
            relevance = found[name].analyze(test.x[:1], target)[0]
            relevance = relevance.reshape(len(truth), -1).sum(axis=1)
            each.bar(range(len(truth)), relevance, color=np.where(relevance > 0, "tab:red", "tab:blue"))
    for each, name in zip(axes, ["sample", "truth", *shown], strict=True):
        each.set_title(name, fontsize=7)
        each.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=TASKS, default=list(TASKS), metavar="PROBLEM", help=", ".join(TASKS)
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many models are trained for each problem")
    parser.add_argument("--samples", type=int, default=100, help="how many samples each model explains")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where evaluation_results.md and images/ are")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    images = options.out / "images" / "evaluation"
    images.mkdir(parents=True, exist_ok=True)
    used = ", ".join(f"{name} {version}" for name, version in versions().items() if name != "platform")
    sections = [
        "# Results on problems with known answers",
        "`make evaluate` wrote this page; the [page on evaluation](evaluation.md) says what it means. Each reference "
        f"model was trained with {options.seeds} seeds, and each explains up to {options.samples} new samples "
        "that it solves. In brackets is the 95 % bootstrap interval of the mean over samples. Analyzers are in the "
        f"order of their mean place. Used were {used}.",
    ]
    places = {}
    for name in options.only:
        began, task = time.time(), TASKS[name]
        values, refused, found, test, solved = measured(task, range(options.seeds), options.samples)
        picture(found, test, images / f"{name}.png")
        result = comparison(values)
        places[name.replace("_", " ")] = result.mean_ranks
        sections += [
            f"## {task.title}",
            f"The models solve {', '.join(f'{share:.1%}' for share in solved)} of new samples.",
            f"![A sample, the truth, and what analyzers find](images/evaluation/{name}.png)",
            table(result),
        ]
        if task.absolute:
            sections.append(
                "The size of relevance is compared with the truth. So the relevance rank is the precision of XAI-TRIS, "
                "and one minus the earth mover's distance is its EMD."
            )
        others = {n: why for n, why in refused.items() if n not in LEFT_OUT}
        if others:
            sections.append("Not measured: " + "; ".join(f"`{n}` ({why})" for n, why in others.items()) + ".")
        print(f"{name}: {time.time() - began:.0f} s", file=sys.stderr, flush=True)
    left = "; ".join(f"`{n}` {why}" for n, why in LEFT_OUT.items())
    sections.append(f"Left out everywhere: {left}.")
    sections[2:2] = ["## All problems", OVERVIEW, overview(places)]
    (options.out / "evaluation_results.md").write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
