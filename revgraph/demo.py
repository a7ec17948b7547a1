"""Train a small network on handwritten digits and explain its predictions: `python -m revgraph.demo`.

Needs the extra `demo`: `pip install "revgraph[demo]"`.
"""

import argparse
import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import revgraph

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ImportError as error:
    raise ImportError('The demo needs matplotlib and scikit-learn: pip install "revgraph[demo]".') from error

EPOCHS = 12
"""Epochs of training."""

EXPLAINED = 128
"""Number of digits that are explained, to measure times."""

PICTURED = 5
"""Number of digits that are drawn."""

ANALYZERS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "input_t_gradient": {},
    "deconvnet": {},
    "guided_backprop": {},
    "lrp.z": {},
    "lrp.epsilon": {"epsilon": 0.1},
    "lrp.alpha_1_beta_0": {},
    "lrp.alpha_2_beta_1": {},
    "lrp.sequential_preset_a_flat": {},
    "lrp.epsilon_plus_flat": {},
    "lrp.epsilon_gamma_box": {"low": 0.0, "high": 1.0},
}
"""The analyzers that are shown, with their arguments."""


@dataclass(frozen=True)
class Digits:
    """Images `(samples, 8, 8, 1)` between 0 and 1 with their labels, split for training and testing."""

    x_train: np.ndarray
    x_test: np.ndarray
    y_train: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True)
class Measured:
    """The measurements of one analyzer. `found` and `error` are None for analyzers other than LRP.

    Args:
        name: Name of the analyzer.
        relevance: Relevance of the pictured digits, `(pictured, 8, 8, 1)`.
        milliseconds: Time per image in a batch, compiled.
        found: The mean of the relevance found at the input, divided by the logit from which it started.
        error: The largest share of relevance for which `conservation` cannot account.
    """

    name: str
    relevance: np.ndarray
    milliseconds: float
    found: float | None
    error: float | None


def digits() -> Digits:
    """scikit-learn's handwritten digits, a fifth of them held out."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    return Digits(*train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0))


def build_model() -> keras.Model:
    """A convolutional network with BatchNormalization, a residual Add and AveragePooling that ends in logits."""

    def convolve(x, filters):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        # The default momentum of 0.99 needs more steps than this training has.
        return layers.BatchNormalization(momentum=0.9)(x)

    image = keras.Input((8, 8, 1), name="image")
    x = layers.ReLU()(convolve(image, 32))
    x = layers.ReLU()(layers.Add()([x, convolve(x, 32)]))
    x = layers.AveragePooling2D(2)(x)
    x = layers.ReLU()(convolve(x, 64))
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu")(x)
    x = layers.Dropout(0.3)(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="digits")


def train(data: Digits, epochs: int = EPOCHS, verbose: int = 1) -> keras.Model:
    """A network of `build_model`, trained on the digits."""
    keras.utils.set_random_seed(1)
    model = build_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(data.x_train, data.y_train, batch_size=64, epochs=epochs, verbose=verbose)
    return model


def trained(data: Digits, folder: Path, epochs: int = EPOCHS, verbose: int = 1) -> keras.Model:
    """The trained model. It is loaded from `folder` if this version of the demo has saved a complete one there."""
    path, receipt = folder / "digits.keras", folder / "digits.json"
    made_by = {"demo": _digest(Path(__file__)), "keras": keras.__version__, "epochs": epochs}
    try:
        if json.loads(receipt.read_text()) == {**made_by, "model": _digest(path)}:
            print(f"Using the network trained before: {path}")
            return keras.models.load_model(path)
    except (OSError, ValueError):
        pass
    print(f"Training a small convolutional network on {len(data.x_train)} handwritten digits.", flush=True)
    model = train(data, epochs, verbose)
    model.save(path)
    receipt.write_text(json.dumps({**made_by, "model": _digest(path)}))
    return model


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def choose(labels: np.ndarray, predicted: np.ndarray, count: int = PICTURED) -> np.ndarray:
    """Indices of digits to show: one of each class in turn, and at the end up to two that are predicted wrongly."""
    misread = np.flatnonzero(labels != predicted)[:2]
    read = [np.flatnonzero((labels == c) & (predicted == c))[:1] for c in range(10)]
    return np.concatenate([np.concatenate(read)[: count - len(misread)], misread])


def measure(name: str, model: keras.Model, x: np.ndarray, pictured: int, **kwargs: Any) -> Measured:
    """Explains `x` with one analyzer, and keeps the relevance of the first `pictured` samples."""
    analyzer = revgraph.create_analyzer(name, model, **kwargs)
    relevance = analyzer.analyze(x)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        analyzer.analyze(x)
        seconds.append(time.perf_counter() - start)
    found = error = None
    if name.startswith("lrp"):
        logits = model.predict(x, verbose=0).max(axis=-1)
        found = float(np.mean(relevance.sum(axis=(1, 2, 3)) / logits))
        report = analyzer.conservation(x)
        error = float(np.max(np.abs(report.other) / np.abs(report.start)))
    return Measured(name, relevance[:pictured], 1000 * min(seconds) / len(x), found, error)


def draw(images: np.ndarray, labels: np.ndarray, predicted: np.ndarray, results: list[Measured]) -> Figure:
    """Draws a row per digit: the input, then the relevance from every analyzer. Red is for the class, blue against."""
    rows, columns = len(images), 1 + len(results)
    figure = Figure(figsize=(1.15 * columns, 1.12 * rows + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("0.8")
    for axis, name in zip(axes[0], ["input", *(result.name for result in results)], strict=True):
        axis.set_title(_broken(name), fontsize=10)
    for row, (image, label, guess) in enumerate(zip(images, labels, predicted, strict=True)):
        axes[row, 0].imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
        axes[row, 0].set_ylabel(
            f"true {label}\npredicted {guess}", fontsize=10, color="black" if label == guess else "firebrick"
        )
        for axis, result in zip(axes[row, 1:], results, strict=True):
            relevance = result.relevance[row].sum(axis=-1)
            limit = np.abs(relevance).max() or 1.0
            shown = axis.imshow(relevance, cmap="RdBu_r", vmin=-limit, vmax=limit)
    bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.3, aspect=40, pad=0.02)
    bar.set_ticks([-limit, 0, limit], labels=["against", "0", "for the predicted digit"])
    bar.outline.set_visible(False)
    return figure


def _broken(name: str) -> str:
    """The name on short lines, broken after its dot and after underscores."""
    lines = [""]
    for word in re.findall(r"[^._]+[._]?", name):
        if len(lines[-1] + word) > 11 or (len(name) > 11 and lines[-1].endswith(".")):
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def tabulate(results: list[Measured]) -> Table:
    """The measurements as a table."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("analyzer", no_wrap=True)
    table.add_column("ms / image", justify="right")
    table.add_column("relevance found\n/ logit", justify="right")
    table.add_column("largest error\nof the ledger", justify="right")
    for result in results:
        found = "-" if result.found is None else f"{result.found:.3f}"
        error = "-" if result.error is None else f"{result.error:.1e}"
        table.add_row(result.name, f"{result.milliseconds:.3f}", found, error)
    return table


def run(folder: Path, epochs: int = EPOCHS, verbose: int = 1) -> list[Measured]:
    """Trains or loads the network, explains test digits and writes `digits.png` into `folder`."""
    started = time.perf_counter()
    console = Console()
    folder.mkdir(parents=True, exist_ok=True)
    data = digits()
    model = trained(data, folder, epochs, verbose)
    predicted = model.predict(data.x_test, verbose=0).argmax(axis=-1)
    accuracy = np.mean(predicted == data.y_test)
    print(f"It reads {accuracy:.1%} of {len(predicted)} digits right that it has never seen.", flush=True)

    shown = choose(data.y_test, predicted)
    others = np.setdiff1d(np.arange(EXPLAINED), shown)[: EXPLAINED - len(shown)]
    x = data.x_test[np.concatenate([shown, others])]
    results = []
    for name, kwargs in ANALYZERS.items():
        with console.status(f"Explaining {len(x)} of them with {name}"):
            results.append(measure(name, model, x, len(shown), **kwargs))
    picture = folder / "digits.png"
    draw(data.x_test[shown], data.y_test[shown], predicted[shown], results).savefig(picture, dpi=110)
    console.print(tabulate(results))
    print(f"Picture: {picture.resolve()}  ({time.perf_counter() - started:.0f} s)")
    return results


def main(arguments: list[str] | None = None) -> None:
    """Runs the demo with the arguments of a command line, by default those of this process."""
    parser = argparse.ArgumentParser(prog="python -m revgraph.demo", description=__doc__.split(":")[0])
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder to write to (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of training (%(default)s)")
    options = parser.parse_args(arguments)
    run(options.out, options.epochs)


if __name__ == "__main__":
    main()
