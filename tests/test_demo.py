"""The demo, with a network that is hardly trained."""

import json

import matplotlib.image
import numpy as np
import pytest

from revgraph import demo


@pytest.fixture(scope="module")
def data():
    return demo.digits()


def test_the_digits_are_split(data):
    assert data.x_train.shape == (1437, 8, 8, 1) and data.x_test.shape == (360, 8, 8, 1)
    assert data.x_train.min() == 0 and data.x_train.max() == 1
    assert np.unique(data.y_test).tolist() == list(range(10))


def test_a_run_measures_every_analyzer_and_leaves_one_picture(tmp_path):
    folder = tmp_path / "a new folder"
    results = demo.run(folder, epochs=2, verbose=0)

    assert [result.name for result in results] == list(demo.ANALYZERS)
    for result in results:
        assert result.relevance.shape == (demo.PICTURED, 8, 8, 1)
        assert np.isfinite(result.relevance).all() and np.abs(result.relevance).max() > 0
        assert result.milliseconds > 0
        if result.name.startswith("lrp"):
            assert np.isfinite(result.found) and result.error < 1e-4
        else:
            assert result.found is None and result.error is None

    # The network is piecewise linear, so LRP-0 is input times gradient.
    shown = {result.name: result.relevance for result in results}
    largest = np.abs(shown["lrp.z"]).max()
    np.testing.assert_allclose(shown["lrp.z"], shown["input_t_gradient"], rtol=1e-3, atol=1e-3 * largest)

    assert [path.name for path in folder.glob("*.png")] == ["digits.png"]
    height, width, _ = matplotlib.image.imread(folder / "digits.png").shape
    assert width == pytest.approx(110 * 1.15 * (1 + len(demo.ANALYZERS)), abs=1)
    assert height == pytest.approx(110 * (1.12 * demo.PICTURED + 1.2), abs=1)


def test_the_table_has_a_row_per_analyzer():
    nothing = np.zeros((1, 8, 8, 1))
    results = [
        demo.Measured("gradient", nothing, 0.25, None, None),
        demo.Measured("lrp.z", nothing, 0.5, 0.876543, 1.234e-7),
    ]
    rows = zip(*(column.cells for column in demo.tabulate(results).columns), strict=True)
    assert list(rows) == [("gradient", "0.250", "-", "-"), ("lrp.z", "0.500", "0.877", "1.2e-07")]


@pytest.fixture
def trainings(monkeypatch):
    """Has `demo.trained` leave an untrained network, and lists the epochs of every training."""
    epochs = []

    def train(data, number, verbose):
        epochs.append(number)
        return demo.build_model()

    monkeypatch.setattr(demo, "train", train)
    return epochs


def test_a_second_run_uses_the_trained_network(data, tmp_path, trainings):
    first = demo.trained(data, tmp_path)
    second = demo.trained(data, tmp_path)
    assert trainings == [demo.EPOCHS]
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("damage", ["other version", "cut short", "no receipt", "unreadable receipt", "other epochs"])
def test_a_network_that_is_not_of_this_demo_is_trained_again(data, tmp_path, trainings, damage):
    demo.trained(data, tmp_path)
    model, receipt = tmp_path / "digits.keras", tmp_path / "digits.json"
    if damage == "other version":
        receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "demo": "0"}))
    elif damage == "cut short":
        model.write_bytes(model.read_bytes()[:-100])
    elif damage == "no receipt":
        receipt.unlink()
    elif damage == "unreadable receipt":
        receipt.write_text(receipt.read_text()[:-5])
    epochs = 3 if damage == "other epochs" else demo.EPOCHS
    demo.trained(data, tmp_path, epochs)
    demo.trained(data, tmp_path, epochs)
    assert trainings == [demo.EPOCHS, epochs]


def test_misread_digits_come_last():
    labels = np.arange(20) % 10
    predicted = labels.copy()
    predicted[[4, 11, 15]] = 0
    assert demo.choose(labels, predicted, 8).tolist() == [0, 1, 2, 3, 14, 5, 4, 11]


@pytest.mark.slow
def test_the_network_reads_97_percent(data, tmp_path):
    model = demo.trained(data, tmp_path, verbose=0)
    predicted = model.predict(data.x_test, verbose=0).argmax(axis=-1)
    assert np.mean(predicted == data.y_test) >= 0.97
