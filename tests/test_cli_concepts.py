"""`revgraph concepts`, as a new user would try it."""

import json
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from revgraph import concepts
from revgraph.cli import main

READ = "--size 10x12 --scale 1/255"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with a model and images, which tests only read."""
    folder = tmp_path_factory.mktemp("made")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((12, 10, 3), name="image"), layers.Conv2D(4, 3, activation="relu", name="low"),
         layers.Conv2D(5, 3, activation="relu", name="high"), layers.GlobalAveragePooling2D(), layers.Dense(2)],
        name="tiny",
    )  # fmt: skip
    model.save(folder / "model.keras")
    model.set_weights([w + 0.1 for w in model.get_weights()])
    model.save(folder / "other.keras")
    rng = np.random.default_rng(0)
    for i in range(24):
        path = folder / "images" / ("ant" if i % 2 else "bee") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(rng.integers(0, 256, (12, 10, 3)).astype("uint8")).numpy())
    return folder


@pytest.fixture
def run(made, monkeypatch, tmp_path, capsys):
    """Runs `revgraph concepts` in an empty directory: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def command(line):
        try:
            code = main(["concepts", *(part.format(made=made, read=READ) for part in line.format(
                made=made, read=READ).split())])  # fmt: skip
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


COLLECT = "collect {made}/model.keras {made}/images --layers low,high --out c.h5 {read}"


def test_collect_and_show(run, made):
    code, out, err = run(COLLECT + " --samples 6 --batch-size 5")
    assert code == 0, err
    assert "low" in out and "24 samples" in out
    found = concepts.Collection("c.h5")
    assert found.layers == ("low", "high") and found.n == 6
    assert np.array_equal(found.labels, np.repeat([0, 1], 12))
    code, out, _ = run("show c.h5 --json")
    assert json.loads(out) == {"samples": 24, "channels": {"low": 4, "high": 5}}
    assert run("show c.h5")[1].startswith("c.h5: concepts of 'tiny' on 24 samples")
    code, out, _ = run("show c.h5 --layer high --channels 1,3 --samples 2 --by activation --json")
    told = json.loads(out)["channels"]
    assert [row["channel"] for row in told] == [1, 3]
    assert told[0]["samples"] == found.ranking("high", "activation").samples[:2, 1].tolist()
    assert run(f"show c.h5 --layer high --of-class {found.classes[0]}")[1].count("samples by relevance") == 4


def test_pictures_have_the_method_of_the_file(run, monkeypatch):
    assert run(COLLECT + " --method lrp.gamma --param gamma=0.1 --samples 3")[0] == 0
    asked = []
    references = concepts.references
    monkeypatch.setattr(concepts, "references", lambda *a, **options: asked.append(a[3]) or references(*a, **options))
    line = "show c.h5 --layer high --channels 1 --model {made}/model.keras --data {made}/images {read}"
    code, _, err = run(line + " --out high.png --param gamma=0.1")
    assert code == 0 and "ranked by" not in err, err
    assert asked[0].name == "lrp.gamma"
    code, _, err = run(line + " --out other.png")
    assert code == 0 and "heat maps are made by 'lrp.gamma' with other rules" in err
    code, _, err = run(line + " --out third.png --param gamma=0.1 --samples 4")
    assert code == 1 and "keeps 3: collect it with n=4" in err


def test_pictures_are_drawn(run):
    assert run(COLLECT)[0] == 0
    line = "show c.h5 --layer high --channels 1 --samples 3 --model {made}/model.keras --data {made}/images {read}"
    code, out, err = run(line + " --out high.png --heatmaps")
    assert code == 0 and out == "wrote high.png\n", err
    assert tf.io.decode_png(Path("high.png").read_bytes()).shape[2] == 4
    code, _, err = run(line + " --out high.png")
    assert code == 1 and "exists. Pass --overwrite" in err
    assert run(line + " --out high.png --overwrite --whole")[0] == 0
    code, _, err = run(line.replace("model.keras", "other.keras") + " --out other.png")
    assert code == 1 and "collected from another model" in err and not Path("other.png").exists()
    code, _, err = run("show c.h5 --layer high --out x.png")
    assert code == 2 and "--out draws samples, which needs --model and --data" in err
    code, _, err = run("show c.h5 --layer high --channels 9")
    assert code == 2 and "--channels: The layer 'high' has the channels 0 to 4. Received: [9]." in err
    code, _, err = run("show c.h5 --channels 1")
    assert code == 2 and "--layer is missing. There are low, high." in err


def test_collect_can_be_resumed(run, monkeypatch):
    from revgraph.concepts.collecting import Collecting

    compute = Collecting._compute

    def interrupted(self, batch):
        if batch.first >= 10:
            raise KeyboardInterrupt
        return compute(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Collecting, "_compute", interrupted)
        code, _, err = run(COLLECT + " --batch-size 5")
    assert code == 1 and err.endswith("go on with --resume\n")
    code, _, err = run(COLLECT + " --batch-size 5")
    assert code == 1 and "--resume" in err and "--overwrite" in err
    code, out, _ = run(COLLECT + " --batch-size 5 --resume --json")
    assert code == 0 and json.loads(out) == {"out": "c.h5", "samples": 24, "layers": ["low", "high"], "failures": {}}


def test_the_graph_of_an_image(run):
    line = "graph {made}/model.keras {made}/images/ant/01.png --layers low,high --widths 2 {read}"
    code, out, err = run(line + " --out graph.png --json")
    assert code == 0, err
    told = json.loads(out)
    assert {node["layer"] for node in told["nodes"]} >= {"low", "high"} and told["edges"]
    assert tf.io.decode_png(Path("graph.png").read_bytes()).shape[2] == 4
    code, out, _ = run(line)
    assert code == 0 and "high" in out
    concept = next(edge["from"][1] for edge in told["edges"] if edge["from"][0] == "high")
    code, out, err = run(line + f" --concepts {concept} --around --json")
    assert code == 0 and {tuple(edge["to"]) for edge in json.loads(out)["edges"]} == {("high", concept)}, err
    code, _, err = run(line + " --target top2")
    assert code == 2 and "a graph is that of one class" in err
    code, _, err = run(line.replace("low,high", "low,hihg"))
    assert code == 1 and "'high'" in err


def test_clusters_of_attributions(run, made):
    assert main(["explain-dataset", f"{made}/model.keras", f"{made}/images", *READ.split(), "--out", "r.h5"]) == 0
    code, out, err = run("clusters r.h5 --k 2,3 --picture none --figures strategies")
    assert code == 0, err
    assert "wrote r.spectral.h5" in out and "wrote strategies/00000001.png" in out.replace("\\", "/")
    with h5py.File("r.spectral.h5") as file:
        assert set(file) == {"00000000", "00000001"} and "spectral-03" in file["00000000/cluster"]
    code, _, err = run("clusters r.h5 --picture none")
    assert code == 1 and "Pass --overwrite" in err
    code, out, _ = run("clusters r.h5 --picture none --by none --k 2 --overwrite --json")
    assert json.loads(out)["classes"]["all"]["samples"] == 24
    code, _, err = run("clusters r.h5 --picture none --overwrite --k 2,20")
    assert code == 1 and "Fewer clusters (--k ...) need fewer; --by none takes all." in err
    code, _, err = run("clusters {made}/model.keras")
    assert code == 1 and "has no attributions" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("collect {made}/model.keras {made}/images --layers mid --out c.h5 {read}", "has no layer 'mid'"),
        ("collect {made}/model.keras {made}/images --layers , --out c.h5", "',' has no names"),
        ("show none.h5", "There is no file 'none.h5'"),
        ("show {made}/model.keras", "is not a collection of concepts"),
        ("clusters none.h5 --k 2,x", "'2,x' is not a list of whole numbers"),
    ],
)
def test_errors_are_one_line(run, line, message):
    code, out, err = run(line)
    assert code in (1, 2) and message in err and err.count("\n") == 1 and not out
