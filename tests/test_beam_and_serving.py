"""The code of `docs/beam-and-serving.md`, run where there is no revgraph."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from tests.models import randomized

PAGE = (Path(__file__).parent.parent / "docs" / "beam-and-serving.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)

SERVER = """
import json
import tensorflow as tf

with open("requests.json") as file:
    requests = json.load(file)
serve = tf.saved_model.load("serving/explainer/1").signatures["serving_default"]
specs = serve.structured_input_signature[1]


def tensor(name, values):
    # The server refuses 3.0 for an integer, and lists of several lengths.
    whole = {type(leaf) for leaf in tf.nest.flatten(values)} == {int}
    if specs[name].dtype.is_integer and not whole:
        raise TypeError(name)
    return tf.constant(values, specs[name].dtype)


def rows(instances):
    if any(set(each) != set(specs) for each in instances):
        raise KeyError("names")
    answer = serve(**{name: tensor(name, [each[name] for each in instances]) for name in specs})
    answer = {name: values.numpy().tolist() for name, values in answer.items()}
    return {"predictions": [dict(zip(answer, each)) for each in zip(*answer.values())]}


def columns(inputs):
    answer = serve(**{name: tensor(name, inputs[name]) for name in specs})
    return {"outputs": {name: values.numpy().tolist() for name, values in answer.items()}}


def answered(request):
    (form, values), = request.items()
    try:
        return {"instances": rows, "inputs": columns}[form](values)
    except Exception as error:
        return {"error": str(error)}


with open("answers.json", "w") as file:
    json.dump([answered(json.loads(request)) for request in requests], file)
"""
"""Requests in JSON, read by the rules of `tensorflow_serving/util/json_tensor.cc`."""


def block(text):
    """The block of the page that has a text."""
    (found,) = [each for each in BLOCKS if text in each]
    return found


def run(program, folder):
    """Runs a program in a process that cannot import revgraph."""
    (folder / "program.py").write_text("import sys\nsys.modules['revgraph'] = None\n" + program)
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": ""}
    subprocess.run([sys.executable, "program.py"], check=True, cwd=folder, env=environment)


@pytest.fixture
def analyzer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    model = randomized(keras.Model(inputs, layers.Dense(10, name="digit")(layers.Flatten()(x)), name="net"))
    analyzer = revgraph.create_analyzer("lrp.epsilon_plus_flat", model)
    analyzer.export("serving/explainer", version=1)
    return analyzer


@pytest.fixture
def x(rng):
    return rng.random((40, 8, 8, 1)).astype("float32")


def test_requests_in_json(analyzer, x, tmp_path):
    names = {"x": x}
    for text in ("rows = ", "def of_rows", "columns = ", "def of_columns"):
        exec(block(text), names)
    rows, columns = json.loads(names["rows"]), json.loads(names["columns"])
    no_class = {"instances": [{"image": each["image"]} for each in rows["instances"]]}
    fraction = {"inputs": {**columns["inputs"], "neuron_selection": [-1.0, 3.0]}}
    not_there = {"inputs": {**columns["inputs"], "neuron_selection": [-1, 10]}}
    wrong = [json.dumps(each) for each in (no_class, fraction, not_there)]
    (tmp_path / "requests.json").write_text(json.dumps([names["rows"], names["columns"], *wrong]))
    run(SERVER, tmp_path)
    of_rows, of_columns, *errors = json.loads((tmp_path / "answers.json").read_text())
    top = analyzer.analyze(x[:2])
    np.testing.assert_allclose(names["of_rows"](json.dumps(of_rows)), top, rtol=1e-4, atol=1e-6)
    asked = np.concatenate([top[:1], analyzer.analyze(x[1:2], 3)])
    np.testing.assert_allclose(names["of_columns"](json.dumps(of_columns)), asked, rtol=1e-4, atol=1e-6)
    outputs = analyzer.model(x[:2])
    np.testing.assert_allclose([each["output"] for each in of_rows["predictions"]], outputs, rtol=1e-4, atol=1e-6)
    assert [set(each) for each in errors] == [{"error"}] * 3
    assert "[10] [10]" in errors[2]["error"]  # the class, and how many there are


@pytest.mark.slow
def test_requests_by_grpc(analyzer, x):
    pytest.importorskip("tensorflow_serving")
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    seen = []

    class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
        serve = tf.saved_model.load("serving/explainer/1").signatures["serving_default"]

        def Predict(self, request, context):
            seen.append((request.model_spec.name, request.model_spec.signature_name))
            answer = self.serve(**{name: tf.make_ndarray(values) for name, values in request.inputs.items()})
            response = predict_pb2.PredictResponse()
            for name in request.output_filter:
                response.outputs[name].CopyFrom(tf.make_tensor_proto(answer[name]))
            return response

    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", -1)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    names = {}
    exec(block("def relevance_of"), names)
    try:
        many = np.tile(x, (500, 1, 1, 1))  # 5 MB
        relevance = names["relevance_of"](f"localhost:{port}", many, [3] * len(many))
        with pytest.raises(grpc.RpcError, match="neuron_selection is a position"):
            names["relevance_of"](f"localhost:{port}", x[:2], [-1, 10])
    finally:
        server.stop(0)
    assert relevance.nbytes > 4 * 2**20
    np.testing.assert_allclose(relevance[:40], analyzer.analyze(x, 3), rtol=1e-4, atol=1e-6)
    assert set(seen) == {("explainer", "serving_default")}


@pytest.mark.slow
def test_a_pipeline_of_beam(analyzer, x, tmp_path):
    pytest.importorskip("apache_beam")
    names = {"x": x}
    exec(block('images.txt").write_text'), names)
    bad = x[0].copy()
    bad[4, 4] = np.nan
    np.save("images/3.npy", bad)
    np.save("images/5.npy", x[5, :7])
    Path("images/7.npy").write_bytes(b"no array")
    Path("images/39.npy").unlink()
    run(block("import apache_beam"), tmp_path)
    exec("import numpy as np\n" + block("import pyarrow.parquet"), names)
    table, failures = names["table"], names["failures"]
    assert sorted(table["id"].to_pylist()) == sorted(f"images/{i}.npy" for i in range(40))
    reasons = {3: "has NaN or infinity", 5: r"\(1, 7, 8, 1\)", 7: "ValueError", 39: "FileNotFoundError|BeamIOError"}
    assert set(failures) == {f"images/{i}.npy" for i in reasons}
    for i, reason in reasons.items():
        assert re.search(reason, failures[f"images/{i}.npy"])
    ids = [row["id"] for row in table.select(["id", "failure"]).to_pylist() if not row["failure"]]
    expected = dict(zip((f"images/{i}.npy" for i in range(40)), analyzer.analyze(x), strict=True))
    assert len(ids) == len(names["relevance"]) == 36
    for id, relevance in zip(ids, names["relevance"], strict=True):
        np.testing.assert_allclose(relevance, expected[id], rtol=1e-4, atol=1e-6)
