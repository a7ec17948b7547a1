"""The notebooks: stripped in the repository, and run from the first to the last cell."""

import ast
import json
import os
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

# What a notebook claims, checked in its kernel after its last cell.
CLAIMS = {
    "01_first_heatmap": "assert accuracy > 0.95 and relevance.shape == x_test[:4].shape",
    "02_rules_and_composites": """
areas = {name: curve.area.mean() for name, curve in curves.items()}
assert max(areas, key=areas.get) == "random order", areas
""",
    "03_canonization_and_conservation": """
def off(name):
    return np.linalg.norm(relevances[name] - reference) / np.linalg.norm(reference)
assert off("LRP, folded") < 1e-3 < 0.5 < off("LRP, not folded")
assert shares[1e-6]["stabiliser"] < 0.01 < shares[1.0]["stabiliser"]
""",
    "04_custom_rule": "assert np.all(report.input > 0.5 * report.start)",
    "05_savedmodel": """
assert np.allclose(relevance, original, atol=1e-4 * np.abs(original).max())
assert np.allclose(answer["relevance"][2:], expected, atol=1e-5) and done.stdout.startswith("takes ")
""",
    "06_pretrained_imagenet": "assert relevance.shape == (1, 224, 224, 3) and np.isfinite(relevance).all()",
    "07_time_series_and_tabular": """
assert np.mean(share) > 0.6 > 0.1 > inside.mean()
areas = [curves[order].area.mean() for order in ("most relevant first", "random order", "least relevant first")]
assert areas == sorted(areas), areas
""",
    "08_is_the_explanation_right": """
assert similarities["logits"] < 0.9 and min(similarities.values()) < 0.6
assert contrast["lrp.epsilon_plus"] < contrast["lrp.z_plus"]
assert ordered.mean < by_chance.mean
assert comparison.ranks["random"]["relevance_mass"] == 6
assert suspect == CLASS and row < 2 and column < 2
assert with_mark > 0.95 and without_mark < 0.5 and others_marked > 0.3 > 0.05 > others
assert share_after < 0.5 * share_before and mended_accuracy > accuracy
""",
    "09_coming_from_innvestigate": "assert np.array_equal(one, index.analyze(x, 3)) and scores[-1][1] < scores[0][1]",
    "10_transformers": """
needle = {name: counts["the needle"] for name, counts in hits.items()}
assert accuracy > 0.99 and vit_accuracy > 0.93
assert needle["lrp.cp"] > 0.97 and needle["lrp.attnlrp"] > max(needle["gradient"], needle["input_t_gradient"]) + 0.05
assert hits["attention, last layer"]["its thing"] > 0.9 > 0.1 > needle["attention, last layer"]
assert max(needle["attention, mean of layers"], needle["attention, rollout"]) < 0.5 and against > 0.9
others = [areas[name] for name in ("gradient", "attention, last layer", "attention, rollout", "random order")]
assert max(areas["lrp.cp"], areas["lrp.attnlrp"]) < min(others)
""",
    "11_sequences": """
signal, uniform = "LRP, signal takes all", "LRP, uniform"
assert error < 0.03 and found[signal] > 0.99 > 0.5 > max(found[uniform], found["gradient"])
assert abs(adds_up[signal] - 1) < 0.05 < 0.2 < adds_up["input times gradient"] - 1
assert agree[signal] > 0.75 > 0.3 > agree[uniform]
assert read > 0.97 and np.all(of_words[sample == 0] == 0) and of_words[1].sum() < 0 < of_words[0].sum()
assert watched > 0.95 and hits > 0.9
""",
    "12_concepts": """
assert read_digits > 0.9 and sorted(in_cluster)[0] < 0.1 and sorted(in_cluster)[1] > 0.9
assert sorted(in_prototype)[0] < 0.1 and sorted(in_prototype)[1] > 0.9
assert of_carrier > 0.7 and on_mark > 0.25 and fooled.mean() > 0.4 and nearest > 0.8
""",
    "13_kerashub": """
assert accuracy > 0.88 and min(found["lrp.cp"], found["lrp.attnlrp"]) > 0.95 > 0.6 > chance
assert max(gaps.values()) < 1e-3 and table.chances.min() > 0.8 and cities["lrp.attnlrp"] > 0.8 > 0.2 > is_city.mean()
""",
}


def cells(path, kind):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
    assert notebook["metadata"].keys() <= {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_starts_with_a_title_and_its_links_lead_somewhere(path):
    text = cells(path, "markdown")
    assert text[0].startswith("# ")
    for link in (part.split(")")[0] for cell in text for part in cell.split("](")[1:]):
        assert link.startswith("https://") or (FOLDER / link).is_file(), link
    for cell in cells(path, "code"):
        ast.parse(cell)


def test_every_notebook_is_checked():
    assert {path.stem for path in NOTEBOOKS} == set(CLAIMS)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_its_claims_hold(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    if any("import keras_hub" in cell for cell in cells(path, "code")):
        pytest.importorskip("keras_hub")
    # Nothing is downloaded: a proxy that nobody answers stands for the network.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(CLAIMS[path.stem]))
    started = time.perf_counter()
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    print(f"{path.stem}: {time.perf_counter() - started:.0f} s")
    pictures = sum(
        "image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert pictures
