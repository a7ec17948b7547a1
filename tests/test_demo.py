"""The demo, with a network that is hardly trained."""

import json

import matplotlib.image
import numpy as np
import pytest

from revgraph import demo


@pytest.fixture(scope="module")
def data():
    return demo.digits()


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a folder")
    return folder, demo.run(folder, epochs=2, verbose=0)


def test_the_digits_are_split_without_overlap(data):
    assert data.x_train.shape == (1437, 8, 8, 1) and data.x_test.shape == (360, 8, 8, 1)
    assert data.x_train.min() == 0 and data.x_train.max() == 1


def test_a_run_measures_every_analyzer(first_run):
    _, results = first_run
    assert [result.name for result in results] == list(demo.ANALYZERS)
    for result in results:
        assert result.relevance.shape == (demo.PICTURED, 8, 8, 1)
        assert np.isfinite(result.relevance).all() and np.abs(result.relevance).max() > 0
        assert result.milliseconds > 0
        if result.name.startswith("lrp"):
            assert result.error < 1e-3
        else:
            assert result.found is None and result.error is None


def test_a_run_leaves_one_picture(first_run):
    folder, _ = first_run
    assert [path.name for path in folder.glob("*.png")] == ["digits.png"]
    height, width, _ = matplotlib.image.imread(folder / "digits.png").shape
    assert width == round(110 * 1.15 * (1 + len(demo.ANALYZERS))) and height == round(
        110 * (1.12 * demo.PICTURED + 1.2)
    )


def test_a_second_run_uses_the_trained_network(first_run, data, monkeypatch):
    folder, _ = first_run
    monkeypatch.setattr(demo, "train", None)
    model = demo.trained(data, folder, epochs=2)
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize("damage", ["other version", "cut short", "receipt missing", "receipt unreadable", "epochs"])
def test_a_network_that_is_not_this_version_of_the_demo_is_trained_again(
    first_run, data, tmp_path, monkeypatch, damage
):
    folder, _ = first_run
    content = (folder / "digits.keras").read_bytes()
    receipt = (folder / "digits.json").read_text()
    if damage == "cut short":
        content = content[:-100]
    elif damage == "other version":
        receipt = json.dumps({**json.loads(receipt), "demo": "0"})
    elif damage == "receipt unreadable":
        receipt = receipt[:-5]
    (tmp_path / "digits.keras").write_bytes(content)
    if damage != "receipt missing":
        (tmp_path / "digits.json").write_text(receipt)
    monkeypatch.setattr(demo, "train", lambda data, epochs, verbose: demo.build_model())
    epochs = 3 if damage == "epochs" else 2
    demo.trained(data, tmp_path, epochs)
    written = json.loads((tmp_path / "digits.json").read_text())
    assert written["epochs"] == epochs and written["demo"] != "0"
    assert (tmp_path / "digits.keras").read_bytes() != content


def test_misread_digits_come_last():
    labels = np.arange(20) % 10
    predicted = labels.copy()
    predicted[[4, 11, 15]] = 0
    assert demo.choose(labels, predicted, 8).tolist() == [0, 1, 2, 3, 14, 5, 4, 11]


def test_the_table_has_a_row_per_analyzer(first_run):
    _, results = first_run
    table = demo.tabulate(results)
    assert table.row_count == len(demo.ANALYZERS) >= 8
    assert [column.header for column in table.columns][0] == "analyzer" and len(table.columns) == 4
    found = dict(zip(table.columns[0].cells, table.columns[2].cells, strict=True))
    assert found["gradient"] == "-" and float(found["lrp.epsilon"]) == pytest.approx(1, abs=0.5)


@pytest.mark.slow
def test_the_network_reads_97_percent(data, tmp_path):
    model = demo.trained(data, tmp_path, verbose=0)
    predicted = model.predict(data.x_test, verbose=0).argmax(axis=-1)
    assert np.mean(predicted == data.y_test) >= 0.97
