"""The command line, as a new user would try it."""

import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.cli import main
from revgraph.cli.methods import methods
from revgraph.datasets import Report

ROOT = Path(__file__).parent.parent
SIZE = (12, 10)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with models, images and datasets, which tests only read."""
    folder = tmp_path_factory.mktemp("made")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((*SIZE, 3), name="image"), layers.Conv2D(4, 3, activation="relu", name="conv"),
         layers.GlobalAveragePooling2D(), layers.Dense(5)],
        name="tiny",
    )  # fmt: skip
    model.save(folder / "model.keras")
    model.export(folder / "exported")
    rng = np.random.default_rng(0)
    for name in ("cat.png", "dog.jpg", "images/ant/0.png", "images/ant/1.png", "images/bee/2.png", "images/bee/3.png"):
        write_image(folder / name, rng.integers(0, 256, (*SIZE, 3)))
    write_image(folder / "big.png", rng.integers(0, 256, (24, 20, 3)))
    (folder / "broken.png").write_text("no image")
    x = rng.random((9, *SIZE, 3)).astype("float32")
    np.save(folder / "x.npy", x)
    np.savez_compressed(folder / "data.npz", x=x, y=np.arange(9) % 5)
    (folder / "classes.txt").write_text("ant\nbee\ncat\ndog\nEmu\n")
    (folder / "two.txt").write_text("ant\nbee\n")
    return folder


def write_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_jpeg if path.suffix == ".jpg" else tf.io.encode_png
    path.write_bytes(encode(pixels.astype("uint8")).numpy())


def read_image(path):
    return tf.io.decode_image(Path(path).read_bytes(), 3).numpy()


@pytest.fixture
def run(made, monkeypatch, tmp_path, capsys):
    """Runs a command in an empty directory: exit code, stdout, stderr. `{made}` stands for the directory `made`."""
    monkeypatch.chdir(tmp_path)

    def command(line, *more):
        try:
            code = main([part.format(made=made) for part in line.split()] + list(more))
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def assert_one_error(result, code, message):
    """The command failed with one line on stderr, and left nothing behind."""
    found, out, err = result
    assert (found, out) == (code, "")
    assert re.fullmatch(rf"revgraph[\w -]*: error: .*{message}.*\n", err), err
    assert not list(Path().iterdir())


def analyzer(made, name="lrp.epsilon_plus_flat", **arguments):
    return revgraph.create_analyzer(name, made / "model.keras", **arguments)


# explain


def test_explain_writes_pictures_and_the_relevance_of_analyze(run, made):
    code, out, err = run("explain {made}/model.keras {made}/cat.png --scale 1/255 --out explained")
    assert (code, err) == (0, "")
    names = ["cat.heatmap.png", "cat.json", "cat.overlay.png", "cat.relevance.npy"]
    assert sorted(os.listdir("explained")) == names
    assert sorted(re.findall(r"wrote explained/(.*)", out)) == names
    x = read_image(made / "cat.png")[None] / np.float32(255)
    relevance, report = analyzer(made).analyze(x)[0], analyzer(made).conservation(x)
    np.testing.assert_allclose(np.load("explained/cat.relevance.npy"), relevance, rtol=1e-4, atol=1e-7)
    predicted = int(analyzer(made).model(x)[0].numpy().argmax())
    assert f"predicted: class {predicted}, output " in out
    assert f"conservation: {report.start[0]:.4g} at the start, {report.input[0]:.4g} found at the input" in out
    # Pictures are enlarged until one can see them.
    times = 17
    for name in ("heatmap", "overlay"):
        assert read_image(f"explained/cat.{name}.png").shape == (times * SIZE[0], times * SIZE[1], 3)
    heatmap = revgraph.visualize.heatmap(relevance[None])[0].repeat(times, 0).repeat(times, 1)
    np.testing.assert_allclose(read_image("explained/cat.heatmap.png") / 255, heatmap, atol=1 / 255)
    told = json.loads(Path("explained/cat.json").read_text())
    assert told["method"] == "lrp.epsilon_plus_flat" and told["target"]["index"] == predicted
    assert told["model_file_sha256"] and told["versions"]["revgraph"] == revgraph.__version__ and told["rules"]


def test_the_overlay_is_gray_where_nothing_is_relevant():
    from revgraph.cli.pictures import pictures

    relevance = np.zeros((6, 8, 3), "float32")
    relevance[2, 3], relevance[4, 5] = 1, -0.5
    overlay = tf.io.decode_png(pictures(np.full((6, 8, 3), 255.0), relevance)["overlay"]).numpy().astype(int)
    assert overlay.shape == (150, 200, 3)
    overlay = overlay[::25, ::25]
    coloured = np.ptp(overlay, axis=-1) > 2
    assert np.argwhere(coloured).tolist() == [[2, 3], [4, 5]]
    assert len(np.unique(overlay[~coloured])) == 1


def test_json_is_all_that_stdout_gets(run, made):
    code, out, _ = run(
        "explain {made}/exported {made}/cat.png {made}/x.npy --target top2 --json --method lrp.gamma --param gamma=0.1 "
        "--classes {made}/classes.txt"
    )
    told = json.loads(out)
    assert code == 0 and told["method"] == "lrp.gamma" and len(told["results"]) == 10
    first, second = told["results"][:2]
    assert (Path(first["input"]).name, Path(second["input"]).name) == ("cat.png", "x.npy[0]")
    assert [t["target"]["value"] for t in second["explained"]] == sorted(
        (t["target"]["value"] for t in second["explained"]), reverse=True
    )
    assert second["explained"][0]["target"] == second["prediction"] and second["prediction"]["name"]
    files = [file for target in second["explained"] for file in target["files"]]
    relevance = np.load(next(file for file in files if file.endswith("relevance.npy")))
    x = np.load(made / "x.npy")[:1]
    np.testing.assert_allclose(relevance, analyzer(made, "lrp.gamma", gamma=0.1).analyze(x)[0], rtol=1e-3, atol=1e-6)
    assert all(Path(file).is_file() for file in files)


@pytest.mark.parametrize("target, index", [("3", 3), ("emu", 4), ("bee", 1)])
def test_a_class_can_be_named(target, index, run, made):
    code, _, _ = run(f"explain {{made}}/model.keras {{made}}/x.npy --target {target} --classes {{made}}/classes.txt")
    assert code == 0
    x = np.load(made / "x.npy")
    np.testing.assert_allclose(
        np.load("explained/x-2.relevance.npy"), analyzer(made).analyze(x, index)[2], rtol=1e-3, atol=1e-6
    )


def test_images_are_resized_and_preprocessed_as_told(run, made):
    options = "--size 10x12 --preprocess keras.applications.vgg16"
    assert run("explain {made}/model.keras {made}/big.png {made}/dog.jpg --method gradient " + options)[0] == 0
    x = tf.image.resize(read_image(made / "big.png"), SIZE, antialias=True).numpy()[None]
    x = keras.applications.vgg16.preprocess_input(x)
    expected = analyzer(made, "gradient").analyze(x)[0]
    np.testing.assert_allclose(np.load("explained/big.relevance.npy"), expected, rtol=1e-4, atol=1e-6)
    assert run("explain {made}/model.keras {made}/cat.png --scale 1/127.5 --offset -1 --method input")[0] == 0
    np.testing.assert_allclose(
        np.load("explained/cat.relevance.npy"), read_image(made / "cat.png") / 127.5 - 1, rtol=1e-5, atol=1e-6
    )


def test_images_of_one_other_size_are_resized_with_a_warning(run, made):
    code, _, err = run("explain {made}/model.keras {made}/big.png --scale 1/255")
    assert (code, err) == (0, "revgraph: warning: Images of 20x24 are resized to 10x12.\n")


def test_files_of_equal_names_do_not_replace_each_other(run, made):
    assert run("explain {made}/model.keras {made}/cat.png {made}/cat.png --scale 1/255")[0] == 0
    assert {"cat.relevance.npy", "cat~2.relevance.npy"} <= set(os.listdir("explained"))


def test_models_with_several_inputs_and_outputs(run, tmp_path):
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = layers.Concatenate()([a, b])
    model = keras.Model({"a": a, "b": b}, {"kind": layers.Dense(3, name="kind")(x), "size": layers.Dense(2)(x)})
    model.save(tmp_path / "two.keras")
    arrays = {"a": np.ones((2, 4), "float32"), "b": np.ones((2, 3), "float32")}
    np.savez(tmp_path / "two.npz", **arrays)
    name = model.output_names[0]
    code, _, err = run(f"explain two.keras two.npz --method lrp.epsilon --target 1 --output {name}")
    assert (code, err) == (0, "")
    expected = revgraph.create_analyzer("lrp.epsilon", model).analyze(arrays, {name: 1})
    np.testing.assert_allclose(np.load("explained/two-1.b.relevance.npy"), expected["b"][1], rtol=1e-5)
    assert run("explain two.keras two.npz --overwrite")[0] == 2
    np.savez(tmp_path / "one.npz", a=arrays["a"])
    assert "hand in an .npz with the arrays 'a', 'b'" in run(f"explain two.keras one.npz --output {name}")[2]


# explain-dataset


@pytest.mark.parametrize(
    "method, found", [("smoothgrad", True), ("random", True), ("integrated_gradients", False), ("gradient", False)]
)
def test_methods_without_a_ledger_say_so(method, found, run, made):
    code, out, _ = run(f"explain {{made}}/model.keras {{made}}/cat.png --scale 1/255 --method {method}")
    total = np.load("explained/cat.relevance.npy").sum()
    assert code == 0 and (f"not defined for this method; its values add up to {total:.4g}" in out) == found


@pytest.mark.parametrize("method", ["gradient", "guided_backprop"])
def test_nothing_is_said_of_shares_where_relevance_is_no_share(method, run, made):
    code, out, _ = run(f"explain {{made}}/model.keras {{made}}/cat.png --scale 1/255 --method {method}")
    total = np.load("explained/cat.relevance.npy").sum()
    assert code == 0 and f"adds up to {total:.4g}" in out and "%" not in out and "conservation" not in out
    assert json.loads(Path("explained/cat.json").read_text())["adds_up"] is False


def test_a_directory_of_images_goes_to_hdf5(run, made, tmp_path):
    line = "explain-dataset {made}/model.keras {made}/images --scale 1/255 --out out.h5 --target label"
    code, _, err = run(line)
    assert code == 1 and re.search("2 directories, and the model 5 outputs.*: --classes FILE", err) and not os.listdir()
    code, out, err = run(line + " --classes {made}/classes.txt")
    assert (code, out) == (0, "out.h5: all 4 samples explained\n") and "\x1b" not in err
    x = np.stack([read_image(p) for p in sorted((made / "images").rglob("*.png"))]) / np.float32(255)
    with h5py.File("out.h5") as file:
        relevance = np.moveaxis(file["attribution"][:], 1, -1)
        assert file["label"][:].tolist() == [0, 0, 1, 1]
        assert json.loads(file.attrs["class_names"]) == ["ant", "bee", "cat", "dog", "Emu"]
        assert file.attrs["model_file"].endswith("model.keras") and len(file.attrs["model_file_sha256"]) == 64
    np.testing.assert_allclose(relevance, analyzer(made).analyze(x, [0, 0, 1, 1]), rtol=1e-3, atol=1e-6)


def test_directories_have_the_numbers_of_their_classes(run, made, tmp_path):
    for i, name in enumerate(("dog", "bee", "Emu")):
        write_image(tmp_path / f"images/{name}/{i}.png", np.full((*SIZE, 3), 40 * i))
    line = "explain-dataset {made}/model.keras images --out out --target label --classes "
    assert run(line + "{made}/classes.txt")[0] == 0
    assert np.load("out/label-00000.npy").tolist() == [4, 1, 3]
    code, _, err = run("explain-dataset {made}/model.keras images --out other --target bee")
    assert code == 2 and "names of classes need --classes FILE" in err
    Path("images/dog").rename("images/wolf")
    code, _, err = run(line + "{made}/classes.txt --overwrite")
    assert code == 1 and "has 'wolf' in it, which is no name of a class. The names are 'ant', 'bee'" in err


def test_what_cannot_be_read_is_told_and_left_out(run, made, tmp_path):
    for i in range(5):
        write_image(tmp_path / f"images/{i}.png", np.full((*SIZE, 3), 40 * i))
    Path("images/2.png").write_bytes(Path("images/2.png").read_bytes()[:60])
    code, out, _ = run("explain-dataset {made}/model.keras images --out out.h5 --batch-size 2 --json")
    told = json.loads(out)
    assert code == 0 and (told["samples"], told["explained"]) == (5, 4) and list(told["failures"]) == ["2"]
    assert "2.png cannot be read as an image" in told["failures"]["2"]
    with h5py.File("out.h5") as file:
        assert file["index"][:].tolist() == [0, 1, 3, 4]
    code, _, err = run("explain-dataset {made}/model.keras images --out other.h5 --stop-on-failure")
    assert code == 1 and "Sample 2 failed" in err and not Path("other.h5").exists()


def test_workers_and_engine_are_those_of_explain_dataset(run, made, monkeypatch):
    given = {}

    def explain_dataset(*args, workers, engine, **options):
        given.update(workers=workers, engine=engine)
        return Report("out", 4, {})

    monkeypatch.setattr(revgraph, "explain_dataset", explain_dataset)
    line = "explain-dataset {made}/model.keras {made}/images --scale 1/255 --out out"
    for options, expected in (("", (1, None)), (" --workers 3", (3, None)), (" --workers 2 --engine ray", (2, "ray"))):
        code, _, _ = run(line + options)
        assert (code, given["workers"], given["engine"]) == (0, *expected)
    assert run(f"{line} --workers 0")[0] == 2 and run(f"{line} --engine dask")[0] == 2


def as_npz(x, y):
    np.savez_compressed("data.npz", x=x, y=y)
    return "data.npz"


def as_plain_npz(x, y):
    np.savez("data.npz", pixels=x, y=y, other=y)
    return "data.npz --inputs pixels"


def as_hdf5(x, y):
    with h5py.File("data.h5", "w") as file:
        file["data"], file["label"] = np.moveaxis(x, -1, 1), y.astype("uint16")
    return "data.h5"


def as_tfrecord(x, y, encode=lambda x: {"bytes_list": tf.train.BytesList(value=[tf.io.encode_png(x).numpy()])}):
    with tf.io.TFRecordWriter("data.tfrecord") as writer:
        for sample, label in zip(x, y, strict=True):
            features = {
                "image/encoded": tf.train.Feature(**encode(sample)),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return "data.tfrecord"


def as_tfrecord_of_numbers(x, y):
    return as_tfrecord(x, y, lambda x: {"float_list": tf.train.FloatList(value=x.astype("float32").ravel())})


@pytest.mark.parametrize("write", [as_npz, as_plain_npz, as_hdf5, as_tfrecord, as_tfrecord_of_numbers])
def test_datasets_in_files(write, run, made):
    x, y = np.random.default_rng(0).integers(0, 256, (9, *SIZE, 3)).astype("uint8"), np.arange(9) % 5
    data = write(x, y)
    code, out, err = run(f"explain-dataset {{made}}/model.keras {data} --scale 1/255 --batch-size 4 --out shards")
    assert (code, out) == (0, "shards: all 9 samples explained\n"), err
    np.testing.assert_array_equal(np.load("shards/label-00000.npy"), y)
    expected = analyzer(made).analyze(x / np.float32(255))
    np.testing.assert_allclose(np.load("shards/attribution-00000.npy"), expected, rtol=1e-3, atol=1e-6)


def test_a_damaged_tfrecord_ends_the_run(run, made):
    as_tfrecord(np.zeros((9, *SIZE, 3), "uint8"), np.arange(9) % 5)
    Path("data.tfrecord").write_bytes(Path("data.tfrecord").read_bytes()[:-30])
    code, _, err = run("explain-dataset {made}/model.keras data.tfrecord --batch-size 4 --out shards")
    assert code == 1 and "cut short: 8 records can be read" in err and not Path("shards").exists()


def test_resume_is_asked_for(run, made, monkeypatch):
    from revgraph.datasets.explain import Explanations

    command = "explain-dataset {made}/model.keras {made}/data.npz --out out.h5 --batch-size 2"
    compute = Explanations._compute

    def interrupted(self, batch):
        if batch.first >= 4:
            raise KeyboardInterrupt
        return compute(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Explanations, "_compute", interrupted)
        code, out, err = run(command)
    assert (code, out) == (1, "") and err.endswith(
        "revgraph: error: interrupted; finished batches are kept: go on with --resume\n"
    )
    code, _, err = run(command)
    assert code == 1 and "Pass --resume to go on with it, or --overwrite to begin anew." in err
    code, out, _ = run(command + " --resume --json")
    assert code == 0 and json.loads(out)["resumed"] == 4
    assert os.listdir() == ["out.h5"]
    code, _, err = run(command)
    assert (
        code == 1
        and err == "revgraph: error: 'out.h5' exists. Pass --overwrite to replace it, or name another output.\n"
    )
    assert json.loads(run(command + " --resume --json")[1])["resumed"] == 9
    assert run(command + " --overwrite")[0] == 0


def test_a_project_for_virelay(run, made):
    assert run("explain-dataset {made}/model.keras {made}/images --scale 1/255 --out out.h5 --project")[0] == 0
    assert sorted(os.listdir()) == ["out.h5", "out.input.h5", "out.label-map.json", "project.yaml"]
    assert [entry["name"] for entry in json.loads(Path("out.label-map.json").read_text())] == ["ant", "bee"]


# The other commands.


def test_methods_are_those_of_the_library(run):
    expected = {name: (method.computes, method.paper) for name, method in revgraph.ANALYZERS.items()}
    assert methods() == expected
    code, out, _ = run("methods")
    assert code == 0 and all(re.search(rf"^{re.escape(name)} ", out, re.MULTILINE) for name in expected)
    assert [row["name"] for row in json.loads(run("methods smooth --json")[1])] == ["smoothgrad", "beta_smooth"]
    assert run("methods nothing")[0] == 2


def test_check(run, tmp_path):
    class Odd(layers.Layer):
        def call(self, x):
            return tf.linalg.expm(x)

    keras.Sequential([keras.Input((4,)), layers.Dense(3, name="head")]).save(tmp_path / "good.keras")
    module = tf.Module()
    module.f = tf.function(lambda x: tf.linalg.det(x), input_signature=[tf.TensorSpec((None, 4, 4))])
    tf.saved_model.save(module, str(tmp_path / "odd"), signatures=module.f)
    code, out, _ = run("check good.keras --method lrp.epsilon")
    assert code == 0 and "supported" in out and "head" in out
    code, out, _ = run("check odd --method lrp.epsilon --json")
    told = json.loads(out)
    assert code == 1 and not told["supported"] and "MatrixDeterminant" in out


def test_summary(run):
    code, out, _ = run("summary {made}/model.keras --method lrp.epsilon --param epsilon=0.25")
    assert code == 0 and "Epsilon(epsilon=0.25)" in out and "conv" in out
    told = json.loads(run("summary {made}/exported --json")[1])
    assert told["rules"][0]["rule"].startswith("Flat(")


def test_export(run, made):
    code, _, err = run("export {made}/model.keras --method lrp.epsilon --out explainer --serving-version 3")
    assert (code, err) == (0, "")
    x = np.load(made / "x.npy")
    serve = tf.saved_model.load("explainer/3").signatures["serving_default"]
    relevance = serve(image=tf.constant(x), neuron_selection=tf.fill(9, -1))["relevance"]
    np.testing.assert_allclose(relevance, analyzer(made, "lrp.epsilon").analyze(x), rtol=1e-4, atol=1e-6)
    code, _, err = run("export {made}/model.keras --method lrp.epsilon --out explainer --serving-version 3")
    assert code == 1 and "Pass --overwrite" in err


def test_demo(run, monkeypatch):
    pytest.importorskip("sklearn")
    from revgraph import demo

    asked = []
    monkeypatch.setattr(demo, "run", lambda folder, epochs, verbose: asked.append((str(folder), epochs)) or [])
    code, out, _ = run("demo --out digits --epochs 2 --json")
    assert (code, asked, json.loads(out)) == (0, [("digits", 2)], {"out": "digits", "results": []})


def test_the_demo_is_plain_text_where_it_goes_to_a_file(run, monkeypatch):
    pytest.importorskip("sklearn")
    from revgraph import demo

    def train(folder, epochs, verbose):
        model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=verbose)

    monkeypatch.setattr(demo, "run", train)
    code, out, _ = run("demo --out digits")
    assert code == 0 and "loss" in out and "\x1b" not in out


# How it behaves.


def process(*arguments, code=None, **environment):
    """Runs the command in a process of its own."""
    environment = {
        name: value for name, value in {**os.environ, **environment}.items() if name != "TF_CPP_MIN_LOG_LEVEL"
    }
    how = ["-m", "revgraph"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *how, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )


def test_help_and_methods_do_not_wait_for_tensorflow():
    code = "import sys; from revgraph.cli import main; main(['methods']); sys.exit('tensorflow' in sys.modules)"
    result = process(code=code)
    assert result.returncode == 0 and "lrp.epsilon" in result.stdout
    result = process("--help")
    assert result.returncode == 0 and "explain-dataset" in result.stdout and "examples:" in result.stdout


@pytest.mark.parametrize(
    "command", "explain explain-dataset concepts view evaluate check summary methods export demo".split()
)
def test_every_command_has_help_with_examples(command, run):
    code, out, _ = run(f"{command} --help")
    assert code == 0 and f"  revgraph {command} " in out.split("examples:")[1]


def test_the_examples_are_legal():
    from revgraph.cli import parser

    def texts(command):
        yield command.epilog
        for action in command._subparsers._group_actions if command._subparsers else ():
            for inner in action.choices.values():
                yield from texts(inner)

    every = [line for text in texts(parser()) for line in text.splitlines()]
    lines = [line.split()[1:] for line in every if line.startswith("  revgraph ")]
    assert len(lines) > 20
    for line in lines:
        if "COMMAND" not in line and "--help" not in line:
            parser().parse_args(line)


def test_a_process_says_nothing_but_its_results(made, tmp_path):
    result = process("explain", made / "model.keras", made / "cat.png", "--scale", "1/255", "--out", tmp_path / "out")
    assert (result.returncode, result.stderr) == (0, "")
    assert "predicted: class" in result.stdout
    result = process("check", made / "nothing.keras", NO_COLOR="1")
    assert result.returncode == 1
    assert re.fullmatch(r"revgraph: error: There is no file or directory '.*nothing.keras'\.\n", result.stderr)


def test_ctrl_c_ends_in_one_line_and_can_be_resumed(made, tmp_path):
    """The interrupt comes while samples are computed, as a user sends it."""
    code = """
import os, signal, sys
from revgraph.cli import main
from revgraph.datasets.staging import Staging
# Shells make what they start in the background deaf to interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
add = Staging.add
def added(self, record, arrays):
    add(self, record, arrays)
    if len(self.records) == 2:
        os.kill(os.getpid(), signal.SIGINT)
Staging.add = added
sys.exit(main(sys.argv[1:]))
"""
    command = [
        "explain-dataset",
        made / "model.keras",
        made / "data.npz",
        "--batch-size",
        "2",
        "--out",
        tmp_path / "o.h5",
    ]
    result = process(*command, code=code)
    assert result.returncode == 1 and result.stderr.splitlines()[-1].endswith("go on with --resume")
    assert "Traceback" not in result.stderr
    assert main([*map(str, command), "--resume", "--json"]) == 0
    assert os.listdir(tmp_path) == ["o.h5"]


def test_colours_are_for_terminals_that_want_them(monkeypatch, made, run):
    class Terminal(list):
        def write(self, text):
            self.append(text)

        def flush(self):
            pass

        def isatty(self):
            return True

    def printed():
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal := Terminal())
            main(["explain-dataset", f"{made}/model.keras", f"{made}/data.npz", "--out", "out.h5", "--overwrite"])
        return "".join(terminal)

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in printed()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in printed() and "1/1" in printed()


@pytest.mark.parametrize("more, code", [("nothing.png", 1), ("{made}/cat.png --target 9", 2)])
def test_debug_shows_where_an_error_comes_from(more, code, run):
    found, out, err = run(f"explain {{made}}/model.keras {more} --debug")
    assert (found, out) == (code, "") and err.startswith("Traceback") and 'revgraph/cli/commands.py", line' in err
    assert err.splitlines()[-1].startswith("revgraph: error: ")


def test_errors_are_json_where_that_is_asked_for(run):
    code, out, err = run("summary nothing.keras --json")
    assert code == 1 and json.loads(out) == {"error": "There is no file or directory 'nothing.keras'."} and err


@pytest.mark.parametrize(
    "command",
    [
        "", "explain", "explain-dataset", "concepts", "concepts collect", "concepts show", "concepts graph",
        "concepts clusters", "view", "evaluate", "check", "summary", "methods", "export", "demo",
    ],
)  # fmt: skip
def test_wrong_usage_is_json_where_that_is_asked_for(command, run):
    code, out, err = run(f"{command} --no-such-option --json")
    assert code == 2 and json.loads(out)["error"] in err and re.match("revgraph[a-z -]*: error: ", err)
    assert err.count("\n") == 1


def test_what_layers_print_is_no_json(run, tmp_path, capsys):
    (tmp_path / "noisy_layers.py").write_text(
        "import keras\n\n\nclass Noisy(keras.layers.Layer):\n"
        "    def call(self, x):\n        print('called')\n        return 3 * x\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        Noisy = __import__("noisy_layers").Noisy
        keras.Sequential([keras.Input((3,)), Noisy(), keras.layers.Dense(2)]).save(tmp_path / "noisy.keras")
        capsys.readouterr()
        code, out, err = run("summary noisy.keras --custom-objects noisy_layers --json")
    assert code == 0 and json.loads(out)["model"] == "noisy.keras" and "called" in err


def test_json_has_null_for_what_is_not_finite(run, tmp_path):
    keras.Sequential([keras.Input((3,)), layers.Dense(2)]).save("model.keras")
    np.savez("data.npz", x=np.full((2, 3), np.nan), y=[0, 1])
    code, out, _ = run("evaluate model.keras data.npz --methods gradient --metrics relevance_gain --json")

    def refused(constant):
        raise AssertionError(constant)

    assert code == 0 and json.loads(out, parse_constant=refused)["means"] == {"gradient": {"relevance_gain": None}}


def test_outputs_that_are_not_finite_are_not_explained(run, tmp_path):
    keras.Sequential([keras.Input((3,)), layers.Dense(2)]).save("model.keras")
    np.save("x.npy", np.full((1, 3), np.nan))
    code, _, err = run("explain model.keras x.npy --method gradient")
    assert code == 1 and "The output for 'x.npy' is not finite" in err and not Path("explained").exists()


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{shlex.quote(sys.executable)} -m revgraph methods | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert result.stderr == "" and result.stdout.startswith("name ")


# Bad input.


@pytest.mark.parametrize(
    "line, message",
    [
        ("", "COMMAND"),
        ("explain {made}/model.keras", "IMAGE"),
        ("explian {made}/model.keras x.png", "explain"),
        ("explain {made}/model.keras {made}/cat.png --method lrp.epsilonn", "did you mean lrp.epsilon"),
        ("explain {made}/model.keras {made}/cat.png --size 224", "'224' is not a width and a height"),
        ("explain {made}/model.keras {made}/cat.png --scale a", "'a' is not a number"),
        ("explain {made}/model.keras {made}/cat.png --scale 1/0", "'1/0' is not a number"),
        ("explain {made}/model.keras {made}/cat.png --scale 1 --preprocess vgg16", "not allowed with"),
        ("explain {made}/model.keras {made}/cat.png --param epsilon", "not of the form KEY=VALUE"),
        ("explain {made}/model.keras {made}/cat.png --param nothing=1", "does not take 'nothing'"),
        ("explain {made}/model.keras {made}/cat.png --method lrp.gamma --param gamma=-1", "--param: .*gamma must be"),
        ("check {made}/model.keras --param nothing=1", "does not take 'nothing'"),
        ("explain {made}/model.keras {made}/cat.png --preprocess keras.applications.vgg99", "no such module"),
        ("explain {made}/model.keras {made}/cat.png --preprocess vgg16 --offset 1", "goes with --scale"),
        ("explain {made}/model.keras {made}/cat.png --target tiger", "need --classes FILE"),
        ("explain {made}/model.keras {made}/cat.png --target ca --classes {made}/classes.txt", "Did you mean 'cat'"),
        ("explain {made}/model.keras {made}/cat.png --target 5", "has 5 outputs, 0 to 4"),
        ("explain {made}/model.keras {made}/cat.png --target top9", "has 5 outputs"),
        ("explain {made}/model.keras {made}/cat.png --output nothing", "no output 'nothing'"),
        ("explain-dataset {made}/model.keras {made}/images", "--out"),
        ("explain-dataset {made}/model.keras {made}/images --out o.h5 --target top3", "one class per sample"),
        ("explain-dataset {made}/model.keras {made}/images --out o --project", "goes with an HDF5 output"),
        ("explain-dataset {made}/model.keras {made}/images --out o.h5 --batch-size 0", "not a positive whole number"),
        ("explain {made}/model.keras {made}/cat.png --scale nan", "--scale: 'nan' is not a number"),
        ("explain {made}/model.keras {made}/cat.png --percentile 200", "--percentile: '200' is not a number above 0"),
        ("explain {made}/model.keras {made}/x.npy --size 10x12", "--size is for images, and .*x.npy' has arrays"),
        ("view o.h5 --port 65536", "--port: '65536' is not a port"),
        ("evaluate {made}/model.keras {made}/data.npz --metrics delete", "--metrics: There is no metric 'delete'"),
        ("evaluate {made}/model.keras {made}/data.npz --methods ,", "--methods: ',' has no names"),
        ("concepts show c.h5 --out c.jpg", "--out: 'c.jpg' does not end in .png"),
    ],
)  # fmt: skip
def test_wrong_usage(line, message, run):
    assert_one_error(run(line), 2, message)


@pytest.mark.parametrize(
    "line, message",
    [
        ("explain nothing.keras {made}/cat.png", "no file or directory 'nothing.keras'"),
        ("explain {made}/cat.png {made}/cat.png", "is not a model"),
        ("explain {made}/images {made}/cat.png", "is not a SavedModel"),
        ("explain {made}/exported {made}/cat.png --signature nothing", "has no signature 'nothing'"),
        ("explain {made}/model.keras {made}/cat.png --signature serve", "--signature is for SavedModel"),
        ("explain {made}/model.keras nothing.png", "no file 'nothing.png'"),
        ("explain {made}/model.keras {made}/images", "explain-dataset"),
        ("explain {made}/model.keras {made}/broken.png", "cannot be read as an image"),
        ("explain {made}/model.keras {made}/cat.png {made}/broken.png", "cannot be read as an image"),
        ("explain {made}/model.keras {made}/classes.txt", "cannot be read as an image"),
        ("explain {made}/model.keras {made}/cat.png {made}/big.png", "several sizes: .*Pass .*--size 10x12"),
        ("explain {made}/model.keras {made}/cat.png --size 30x30", "takes images of 10x12. Received the size 30x30"),
        ("explain {made}/model.keras {made}/cat.png --classes nothing.txt", "no file 'nothing.txt'"),
        ("explain {made}/model.keras {made}/cat.png --classes {made}/cat.png", "no names of classes"),
        ("explain {made}/model.keras {made}/cat.png --classes {made}/two.txt", "has 2 names, and the model 5 outputs"),
        ("explain {made}/model.keras {made}/cat.png --method lrp.epsilon_gamma_box", "--param low=..., --param high="),
        ("explain-dataset nothing.keras {made}/images --out o.h5", "no file or directory"),
        ("explain-dataset {made}/model.keras nothing --out o.h5", "no file or directory 'nothing'"),
        ("explain-dataset {made}/model.keras {made}/exported --out o.h5", "no images"),
        ("explain-dataset {made}/model.keras {made}/cat.png --out o.h5", "is no dataset, or is damaged"),
        ("explain-dataset {made}/model.keras {made}/data.npz --inputs z --out o.h5", "named 'z'. It has 'x', 'y'"),
        ("explain-dataset {made}/model.keras {made}/data.npz --out o.npy", "name one, such as 'o'"),
        ("explain-dataset {made}/model.keras {made}/x.npy --target label --out o.h5", "--target label needs labels"),
        ("explain {made}/model.keras {made}/cat.png --method pattern.net", "it is fitted to data in Python"),
        ("evaluate {made}/model.keras {made}/data.npz --metrics relevance_mass", "give DATA the array truth, True"),
        ("concepts show {made}/data.npz", "Write one with `revgraph concepts collect`"),
        ("view {made}/nothing.h5 --no-browser", "`revgraph explain-dataset` writes it"),
        ("summary nothing", "no file or directory"),
        ("export {made}/model.keras --out {made}/images", "exists. Pass --overwrite"),
    ],
)
def test_bad_input(line, message, run):
    assert_one_error(run(line), 1, message)


def test_images_of_several_sizes_need_one(run, made, tmp_path):
    write_image(tmp_path / "images/0.png", np.zeros((*SIZE, 3)))
    write_image(tmp_path / "images/1.png", np.zeros((24, 20, 3)))
    code, _, err = run("explain-dataset {made}/model.keras images --out out.h5")
    assert code == 1 and re.fullmatch("revgraph: error: .*several sizes: .*Pass .*--size 10x12.*\n", err)
    assert os.listdir() == ["images"]
    assert run("explain-dataset {made}/model.keras images --out out.h5 --size 10x12")[0] == 0


def test_damaged_models(run, made, tmp_path):
    (tmp_path / "cut.keras").write_bytes((made / "model.keras").read_bytes()[:-300])
    code, _, err = run("summary cut.keras")
    assert code == 1 and "damaged or cut short" in err and err.count("\n") == 1
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "silent"))
    code, _, err = run("summary silent")
    assert code == 1 and "has no signatures" in err and err.count("\n") == 1


def test_code_in_a_model_file_runs_only_where_that_is_allowed(run, tmp_path):
    marker = tmp_path / "it ran"
    path = str(marker)
    model = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: (open(path, "w").close(), x)[1])])
    model.add(layers.Dense(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "code.keras")
    marker.unlink()
    code, _, err = run("summary code.keras")
    assert code == 1 and "Pass --unsafe if you trust" in err and not marker.exists()
    run("summary code.keras --unsafe --param allow_lambda_layers=True")
    assert marker.exists()


def test_outputs_that_exist_stay(run, made):
    line = "explain {made}/model.keras {made}/cat.png --scale 1/255"
    assert run(line)[0] == 0
    before = {path.name: path.read_bytes() for path in Path("explained").iterdir()}
    code, out, err = run(line + " --target 2")
    assert (code, out) == (1, "") and "cat.relevance.npy' exists. Pass --overwrite" in err
    assert {path.name: path.read_bytes() for path in Path("explained").iterdir()} == before
    assert run(line + " --target 2 --overwrite")[0] == 0
    assert json.loads(Path("explained/cat.json").read_text())["target"]["index"] == 2


def test_a_full_disk_leaves_nothing_half_written(run, made):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    line = "explain {made}/model.keras {made}/cat.png --scale 1/255"
    # The relevance has more bytes than this.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        code, _, err = run(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1 and re.fullmatch(
        r"revgraph: error: File too large; nothing of it is kept: explained/cat\.\w+\.\w+\n", err
    )
    assert not list(Path("explained").iterdir())
    assert run(line)[0] == 0


def test_the_how_to_runs(run, made, tmp_path):
    (tmp_path / "images").symlink_to(made / "images")
    for name in ("model.keras", "exported", "classes.txt"):
        (tmp_path / name).symlink_to(made / name)
    (tmp_path / "digits.npy").symlink_to(made / "x.npy")
    (tmp_path / "test.npz").symlink_to(made / "data.npz")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "table.keras")
    (tmp_path / "houses.csv").write_text("age,price,rooms\n1,2,3\n4,5,6\n")
    text = (ROOT / "docs" / "command-line.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    for name in ("cat.png", "dog.png"):
        write_image(tmp_path / name, np.full((*SIZE, 3), 100))
    assert len(lines) == 17
    for line in lines:
        code, _, err = run(line.removeprefix("revgraph ").replace("32x32", "10x12"))
        assert code == 0, f"{line}: {err}"
    assert Path("explained/cat.heatmap.png").is_file() and Path("project/project.yaml").is_file()
    assert Path("relevance.csv").read_text().startswith("index,age,rooms,prediction,label\n0,")


def test_layers_of_ones_own(run, tmp_path):
    (tmp_path / "own_layers.py").write_text(
        "import keras\n\n\nclass Tripled(keras.layers.Layer):\n    def call(self, x):\n        return 3 * x\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        Tripled = __import__("own_layers").Tripled
        keras.Sequential([keras.Input((3,)), Tripled(), keras.layers.Dense(2)]).save(tmp_path / "own.keras")
        code, _, err = run("check own.keras --method gradient")
        assert code == 1 and "Pass --custom-objects MODULE, the module that has Tripled" in err
        assert run("check own.keras --method gradient --custom-objects own_layers")[0] == 0
        code, _, err = run("check own.keras --custom-objects no_such_module")
        assert code == 2 and "--custom-objects no_such_module: it cannot be imported" in err


def test_evaluate_measures_methods(run, tmp_path):
    from revgraph.evaluate import problems

    problem = problems.motif(20, 32)
    problem.model().save("model.keras")
    np.savez("test.npz", x=problem.x, y=problem.y, truth=problem.truth)
    line = "evaluate model.keras test.npz --methods gradient,random"
    code, out, err = run(f"{line} --metrics relevance_mass,entropy")
    assert code == 0 and "relevance mass" in out and "may be chance" in out
    assert {path.name for path in tmp_path.glob("comparison.*")} == {
        f"comparison.{end}" for end in ("json", "csv", "png")
    }
    code, out, err = run(line)
    assert code == 1 and "pass --overwrite" in err
    code, out, err = run(f"{line} --metrics entropy --overwrite --json")
    told = json.loads(out)
    assert code == 0 and set(told["means"]) == {"gradient", "random"} and set(told["ranks"]["random"]) == {"entropy"}
    for wrong, message in [
        ("--methods gradent", "did you mean gradient"),
        ("--metrics delete --out b", "no metric 'delete'"),
    ]:
        code, out, err = run(f"evaluate model.keras test.npz {wrong}")
        assert code and message in err
    np.savez("none.npz", y=problem.y)
    code, out, err = run("evaluate model.keras none.npz --out c")
    assert code == 2 and "has no array x" in err
    np.save("x.npy", problem.x)
    code, out, err = run(
        "evaluate", "model.keras", "x.npy", "--methods", "gradient", "--metrics", "entropy", "--out", "d"
    )
    assert code == 0
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    keras.Model([a, b], keras.layers.Dense(2)(keras.layers.Concatenate()([a, b]))).save("two.keras")
    np.savez("two.npz", a=np.ones((4, 2)), b=np.ones((4, 3)), y=np.zeros(4, int))
    code, out, err = run("evaluate two.keras two.npz --methods gradient --metrics deletion --out e --json")
    assert code == 0 and set(json.loads(out)["means"]["gradient"]) == {"deletion"}
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="sigmoid")]).save("binary.keras")
    np.savez("binary.npz", x=np.random.default_rng(0).normal(size=(6, 2)), y=[0, 1, 0, 1, 1, 0])
    code, out, err = run("evaluate binary.keras binary.npz --methods gradient --metrics deletion --out f --json")
    assert code == 0 and 0 < json.loads(out)["means"]["gradient"]["deletion"] < 1
