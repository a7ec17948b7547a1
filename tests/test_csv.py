"""Tables in CSV files: read as datasets, and relevance written as CSV."""

import csv
import json

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import cli
from revgraph.datasets import CSV, open_dataset, summarize

COLUMNS = ["age", "income, net", "rooms"]
TABLE = np.random.default_rng(0).normal(size=(5, 3)).astype("float32").round(3)
LABELS = np.array([0, 1, 1, 0, 1])


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="relu"), layers.Dense(2)], name="houses")


@pytest.fixture
def analyzer(model):
    return revgraph.create_analyzer("lrp.epsilon", model)


@pytest.fixture
def written(tmp_path):
    """A file with the labels between the features."""
    path = tmp_path / "houses.csv"
    with open(path, "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([COLUMNS[0], "sold", *COLUMNS[1:]])
        lines.writerows([row[0], label, *row[1:]] for row, label in zip(TABLE, LABELS, strict=True))
    return path


def read(path):
    with open(path, newline="") as file:
        header, *lines = csv.reader(file)
    return header, np.array(lines, float)


def test_relevance_has_the_names_of_the_columns(analyzer, model, written, tmp_path):
    x, y = open_dataset(written, analyzer, labels="sold")
    np.testing.assert_array_equal(x, TABLE)
    np.testing.assert_array_equal(y, LABELS)
    out = tmp_path / "relevance.csv"
    report = revgraph.explain_dataset(analyzer, (x, y), CSV(out, tuple(COLUMNS)), "label", batch_size=2)
    assert report.path == str(out)
    header, lines = read(out)
    assert header == ["index", *COLUMNS, "prediction 0", "prediction 1", "label"]
    np.testing.assert_allclose(lines[:, 1:4], analyzer.analyze(TABLE, LABELS), rtol=1e-6)
    np.testing.assert_allclose(lines[:, 4:6], model.predict(TABLE, verbose=0), rtol=1e-5)
    np.testing.assert_array_equal(lines[:, [0, 6]], np.stack([np.arange(5), LABELS], 1))
    assert json.loads((tmp_path / "relevance.provenance.json").read_text())["method"] == "lrp.epsilon"


def test_a_finished_run_is_known_again(analyzer, tmp_path):
    out = tmp_path / "relevance.csv"
    revgraph.explain_dataset(analyzer, TABLE, out)
    with pytest.raises(FileExistsError):
        revgraph.explain_dataset(analyzer, TABLE, out)
    assert revgraph.explain_dataset(analyzer, TABLE, out, resume=True).resumed
    assert read(out)[0][:4] == ["index", "feature 0", "feature 1", "feature 2"]


def test_every_column_has_a_name(analyzer, tmp_path):
    one_hot = np.eye(2)[LABELS]
    revgraph.explain_dataset(analyzer, (TABLE, one_hot), tmp_path / "out.csv", ledger=True)
    header, lines = read(tmp_path / "out.csv")
    assert lines.shape == (5, len(header)) and len(set(header)) == len(header)
    column = dict(zip(header, lines.T, strict=True))
    np.testing.assert_array_equal([column["label 0"], column["label 1"]], one_hot.T)
    ledger = analyzer.conservation(TABLE)
    np.testing.assert_allclose(column["ledger bias"], ledger.bias, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(column["ledger start"], ledger.start, rtol=1e-5)


def test_rows_with_missing_values_fail(analyzer, tmp_path):
    (tmp_path / "x.csv").write_text("a;b;c\n1;2;3\n4;;6\n7;8;9\n")
    report = revgraph.explain_dataset(analyzer, open_dataset(tmp_path / "x.csv", analyzer), tmp_path / "out.csv")
    assert list(report.failures) == [1] and read(tmp_path / "out.csv")[1][:, 0].tolist() == [0, 2]


def test_files_without_names(analyzer, tmp_path):
    (tmp_path / "x.csv").write_text("1,2,3\n4,5,6e-1\n")
    np.testing.assert_allclose(open_dataset(tmp_path / "x.csv", analyzer), [[1, 2, 3], [4, 5, 0.6]])


def numbered():
    """An analyzer of the same inputs, the second of which has numbers in place of words."""
    age, town = keras.Input((1,), name="age"), keras.Input((1,), name="town")
    output = layers.Dense(1)(layers.Concatenate()([age, town]))
    return revgraph.create_analyzer("lrp.epsilon", keras.Model([age, town], output))


def test_several_inputs_have_the_names_of_columns(tmp_path):
    age, town = keras.Input((1,), name="age"), keras.Input((), dtype="string", name="town")
    known = layers.StringLookup(vocabulary=["Bonn", "Ulm"], output_mode="int")(town)
    embedded = layers.Embedding(3, 2)(known)
    model = keras.Model([age, town], layers.Dense(1)(layers.Concatenate()([age, embedded])))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    (tmp_path / "x.csv").write_text("town,age\nUlm,3\nBonn,4\nRom,5\n")
    x = open_dataset(tmp_path / "x.csv", analyzer)
    np.testing.assert_array_equal(x["age"], [[3], [4], [5]])
    assert x["town"].tolist() == ["Ulm", "Bonn", "Rom"]
    for given, names in ((None, ["age", "town"]), (("years", "city"), ["years", "city"])):
        numbers = [x["age"], np.array([[1], [2], [0]])]
        revgraph.explain_dataset(numbered(), numbers, CSV(tmp_path / "out.csv", given), overwrite=True)
        assert read(tmp_path / "out.csv")[0] == ["index", *names, "prediction", "label"]


def test_the_command_writes_what_the_function_writes(analyzer, model, written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    command = f"explain-dataset model.keras {written} --labels sold --method lrp.epsilon --out out.csv"
    assert cli.main(command.split()) == 0
    header, lines = read("out.csv")
    assert header[1:4] == COLUMNS
    np.testing.assert_allclose(lines[:, 1:4], analyzer.analyze(TABLE), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b,c\n1,2,3\n1,2\n", "3 columns, and 2 in its row 1"),
        ("a,b,a\n1,2,3\n", "two columns named 'a'"),
        ("a,b,c\n1,big,3\n", "'b'.*'big' in its row 0.*labels='b'"),
    ],
)
def test_files_that_are_no_tables(analyzer, tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path / "x.csv", analyzer)


def test_what_does_not_fit(analyzer, written, tmp_path):
    with pytest.raises(ValueError, match="no column 'price'.*'age'"):
        open_dataset(written, analyzer, labels="price")
    with pytest.raises(ValueError, match="leave out inputs"):
        open_dataset(written, analyzer, inputs="age")
    with pytest.raises(ValueError, match="2 feature names"):
        revgraph.explain_dataset(analyzer, TABLE, CSV(tmp_path / "out.csv", ("a", "b")))
    images = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"ends in .h5"):
        revgraph.explain_dataset(
            revgraph.create_analyzer("gradient", images), np.ones((2, 4, 4, 1)), tmp_path / "out.csv"
        )
    revgraph.explain_dataset(analyzer, TABLE, tmp_path / "out.csv")
    with pytest.raises(ValueError, match=r"pandas.read_csv"):
        summarize(tmp_path / "out.csv")
