"""Files that are cut short, damaged, or not ours: one clear ValueError, whatever is wrong with them.

`test_saving.py` has descriptions of analyzers that somebody crafted.
"""

import io
import json
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from tests.models import randomized

DEEP = "[" * 100_000
"""JSON that is nested too deep for Python."""


@pytest.fixture(scope="module")
def model():
    x = keras.Input((3,))
    return randomized(keras.Model(x, layers.Dense(2)(layers.Dense(4, activation="relu")(x))))


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """The bytes of the model and of an analyzer, by the ending of their files, and the folder of a SavedModel."""
    folder = tmp_path_factory.mktemp("whole")
    model.save(folder / "m.keras")
    model.save(folder / "m.h5")
    revgraph.create_analyzer("gradient", model).save(folder / "m.revgraph")
    found = {path.suffix: path.read_bytes() for path in folder.iterdir()}
    model.export(folder / "exported")
    return {**found, "savedmodel": folder / "exported"}


def read(path):
    return (revgraph.load_analyzer if path.suffix == ".revgraph" else revgraph.load_model)(path)


def refused(path, match=None):
    """Reading a file raises a ValueError, and no subclass of it, that names the file."""
    with pytest.raises(ValueError, match=match) as caught:
        read(path)
    assert caught.type is ValueError and path.name in str(caught.value)


@pytest.mark.parametrize("ending", [".revgraph", ".keras", ".h5"])
def test_cut_short(ending, saved, tmp_path):
    path, whole = tmp_path / f"m{ending}", saved[ending]
    for length in (0, 3, 8, *np.linspace(100, len(whole) - 1, 6).astype(int)):
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize("ending", [".revgraph", ".keras"])
def test_a_byte_that_is_another_is_an_error_or_does_no_harm(ending, saved, tmp_path):
    """Contents of zip archives have checksums, dates in them have none."""
    path, whole = tmp_path / f"m{ending}", saved[ending]
    for place in np.linspace(0, len(whole) - 1, 12).astype(int):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read(path)
        except ValueError as error:
            assert path.name in str(error)


def of_npy(path):
    np.save(path.open("wb"), np.zeros(3))


def of_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = 1


def of_npz(path):
    np.savez(path.open("wb"), a=np.zeros(3))


@pytest.mark.parametrize("write", [of_npy, of_hdf5, of_npz, lambda path: path.write_bytes(b"\x80\x04K*.")])
@pytest.mark.parametrize("ending", [".revgraph", ".keras", ".h5"])
def test_another_format(ending, write, tmp_path):
    write(tmp_path / f"m{ending}")
    refused(tmp_path / f"m{ending}")


def parts_of(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def write_parts(path, parts):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def npy_bytes(save, *arrays):
    file = io.BytesIO()
    save(file, *arrays)
    return file.getvalue()


PARTS = {
    ".revgraph": {
        "analyzer.json": [None, "", "{", "3", DEEP, b"\xff\xfe\xff", '{"format": 0, "analyzer": {}}'],
        "arrays.npz": [
            *(None, "", "junk" * 9, npy_bytes(np.save, np.zeros(3))),
            npy_bytes(np.savez, np.array([{}], dtype=object)),
        ],
        "model.keras": [None, "", "junk"],
    },
    ".keras": {
        "config.json": [None, "", "{", "[]", "3", "null", "{}", DEEP, b"\xff\xfe\xff", '{"class_name": 3}'],
        "metadata.json": [None, "", "{", "[]", "3", "null", '"x"', DEEP],
        "model.weights.h5": [None, "", "junk"],
    },
}


@pytest.mark.parametrize(("ending", "part"), [(ending, part) for ending, parts in PARTS.items() for part in parts])
def test_a_part_of_an_archive_is_missing_or_something_else(ending, part, saved, tmp_path):
    path, parts = tmp_path / f"m{ending}", parts_of(saved[ending])
    for content in PARTS[ending][part]:
        write_parts(path, {name: old for name, old in {**parts, part: content}.items() if old is not None})
        refused(path)


@pytest.mark.parametrize("version", [True, 0, -1, 1e300, "2", None, [2]])
def test_versions_that_are_none(version, saved, tmp_path):
    path, parts = tmp_path / "m.revgraph", parts_of(saved[".revgraph"])
    description = {**json.loads(parts["analyzer.json"]), "format": version}
    write_parts(path, {**parts, "analyzer.json": json.dumps(description)})
    refused(path, "not a file of an analyzer, or it is damaged")


def test_a_later_version(saved, tmp_path):
    path, parts = tmp_path / "m.revgraph", parts_of(saved[".revgraph"])
    description = {**json.loads(parts["analyzer.json"]), "format": 3}
    write_parts(path, {**parts, "analyzer.json": json.dumps(description)})
    refused(path, "written by a later revgraph")


@pytest.mark.parametrize("ending", [".revgraph", ".keras"])
def test_names_that_lead_out_of_the_archive_write_nothing(ending, saved, tmp_path):
    folder, parts = tmp_path / "in" / "side", parts_of(saved[ending])
    folder.mkdir(parents=True)
    escapes = {"../escaped": "x", "../../escaped": "x", str(tmp_path / "escaped"): "x", "C:\\escaped": "x"}
    write_parts(folder / f"m{ending}", {**parts, **escapes})
    read(folder / f"m{ending}")
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "side", f"m{ending}"}


CONFIGS = ["", "{", "[]", "3", "{}", DEEP[:10_000], b"\xff\xfe", 7, np.zeros(2), h5py.Empty("f")]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_the_configuration_in_hdf5_is_something_else(config, saved, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(saved[".h5"])
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = config
    refused(path)


@pytest.mark.parametrize("change", ["gone", "empty", "junk", "half"])
@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index", "variables/variables.data*"])
def test_a_file_of_a_savedmodel_is_damaged(name, change, saved, tmp_path):
    shutil.copytree(saved["savedmodel"], tmp_path / "m")
    (path,) = (tmp_path / "m").glob(name)
    whole = path.read_bytes()
    path.unlink()
    if change != "gone":
        path.write_bytes({"empty": b"", "junk": b"junk" * 50, "half": whole[: len(whole) // 2]}[change])
    refused(tmp_path / "m", "cannot be read|is not a SavedModel")


# What `explain_dataset` has written, of a run that was interrupted and of one that had finished.

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")


@pytest.fixture(scope="module")
def analyzer(model):
    return revgraph.create_analyzer("gradient", model)


def run(analyzer, sink, until=None, **options):
    """Explains the samples in batches of two; until a sample, where that is given."""

    def batches():
        for first in range(0, len(X), 2):
            if first == until:
                raise KeyboardInterrupt
            yield X[first : first + 2]

    return revgraph.explain_dataset(analyzer, batches(), sink, verbose=0, **options)


@pytest.fixture
def interrupted(analyzer, tmp_path):
    """The output of a run that has finished two of four batches, and its folder."""
    with pytest.raises(KeyboardInterrupt):
        run(analyzer, tmp_path / "out", until=4)
    return tmp_path / "out", tmp_path / "out.partial"


def is_whole(analyzer, out):
    found = np.concatenate([np.load(path) for path in sorted(out.glob("attribution-*.npy"))])
    np.testing.assert_allclose(found, analyzer.analyze(X), rtol=1e-6)


@pytest.mark.parametrize("head", ["", "{", "[]", "3", "null", "{}", '{"format": 1}', b"\xff\xfe\xff", DEEP])
def test_a_run_whose_head_is_damaged_begins_anew(head, analyzer, interrupted):
    out, folder = interrupted
    (folder / "run.json").write_bytes(head if isinstance(head, bytes) else head.encode())
    assert run(analyzer, out).resumed == 0
    is_whole(analyzer, out)


def test_a_run_of_another_version_is_kept(analyzer, interrupted):
    out, folder = interrupted
    head = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**head, "format": 2}))
    with pytest.raises(ValueError, match="is of format 2, and this revgraph reads format 1"):
        run(analyzer, out)
    assert len(list(folder.glob("batch-*"))) == 2
    assert run(analyzer, out, overwrite=True).resumed == 0


RECORDS = ["{", "[]", "3", "null", '{"first": 0}', '{"first": 0, "count": 2, "digest": "x", "failures": []}']


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"junk" * 9, npy_bytes(np.save, np.zeros(3)), npy_bytes(np.savez, np.zeros(3))),
        *(npy_bytes(lambda file, record: np.savez(file, record=record), record) for record in [*RECORDS, np.array(3)]),
    ],
    ids=[*"empty junk npy npz".split(), *RECORDS, "number"],
)
def test_a_batch_that_is_damaged_is_computed_again(content, analyzer, interrupted):
    out, folder = interrupted
    (folder / "batch-00000001.npz").write_bytes(content)
    assert run(analyzer, out).resumed == 2
    is_whole(analyzer, out)


def test_a_batch_with_another_byte_says_which_file_to_delete(analyzer, interrupted):
    out, folder = interrupted
    path = folder / "batch-00000000.npz"
    whole = path.read_bytes()
    place = whole.index(b"attribution.npy") + 180
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    with pytest.raises(ValueError, match=r"batch-00000000\.npz' is damaged.*Delete this file"):
        run(analyzer, out)
    path.unlink()
    run(analyzer, out)
    is_whole(analyzer, out)


DAMAGES = {
    "cut short": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "junk": lambda whole: b"junk" * 50,
    "another object": lambda whole: b"[]",
    "an empty object": lambda whole: b"{}",
    "bytes": lambda whole: b'\xff\xfe"',
    "deep": lambda whole: DEEP.encode(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("name", "part"), [("out.h5", ""), ("out.zarr", "zarr.json"), ("out", "provenance.json")])
def test_an_output_that_is_damaged_is_not_taken_for_finished(name, part, damage, analyzer, tmp_path):
    if name == "out.zarr":
        pytest.importorskip("zarr")
    out = tmp_path / name
    run(analyzer, out)
    path = out / part if part else out
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(FileExistsError, match=rf"{name}' exists. Pass overwrite=True"):
        run(analyzer, out, resume=True)
    assert run(analyzer, out, overwrite=True).resumed == 0
    assert run(analyzer, out, resume=True).resumed == len(X)


def test_hdf5_without_the_attributes_of_a_run_is_not_taken_for_finished(analyzer, tmp_path):
    run(analyzer, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5", "a") as file:
        del file.attrs["failures"]
    with pytest.raises(FileExistsError, match="exists"):
        run(analyzer, tmp_path / "out.h5", resume=True)
