"""Features of image files: the model's own, resumed, and searched."""

import importlib.util
import pathlib
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from keras_vit.cli import main
from keras_vit.data.images.preprocess import evaluation_image
from keras_vit.inference import feature_files, features
from tests import tiny

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "nearest_neighbours.py"


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (9 + number, 12, 3), np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def model():
    return tiny.make_model()


def _expected(model, photos, layout):
    images = []
    for path in sorted(photos.glob("*.png")):
        with Image.open(path) as image:
            images.append(evaluation_image(np.array(image), model.preprocessing))
    return features.extractor(model, layout).predict_on_batch(np.stack(images))


def _read_parquet(path):
    table = pytest.importorskip("pyarrow.parquet").read_table(path)
    return np.array(table["features"].to_pylist(), "float32"), table["path"].to_pylist()


@pytest.mark.parametrize("layout", features.LAYOUTS)
@pytest.mark.parametrize("ending", feature_files.ENDINGS)
def test_the_features_are_the_models(model, photos, tmp_path, layout, ending):
    output = tmp_path / f"out{ending}"
    count, errors = features.write_features(model, [photos], output, layout=layout, batch_size=2)
    assert (count, errors) == (5, [])
    assert not list(tmp_path.glob("*.parts"))
    if ending == ".npz":
        with np.load(output, allow_pickle=False) as file:
            found, paths = file["features"], file["paths"].tolist()
    elif ending == ".h5":
        with h5py.File(output) as file:
            found, paths = file["features"][:], file["paths"].asstr()[:].tolist()
    else:
        found, paths = _read_parquet(output)
    assert paths == [str(photos / f"{number}.png") for number in range(5)]
    # Batches of another size.
    np.testing.assert_allclose(found, _expected(model, photos, layout), atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_an_interrupted_call_goes_on(model, photos, tmp_path, monkeypatch, ending):
    output = tmp_path / f"out{ending}"
    monkeypatch.setattr(features, "_PART", 2)
    compute, seen = features._compute, []

    def failing(network, preprocessing, names, *rest):
        seen.append(names)
        if len(seen) == 2:
            raise InterruptedError
        return compute(network, preprocessing, names, *rest)

    monkeypatch.setattr(features, "_compute", failing)
    with pytest.raises(InterruptedError):
        features.write_features(model, [photos], output, dtype="float16")
    with pytest.raises(ValueError, match="begun with other work. Received: another dtype;"):
        features.write_features(model, [photos], output, dtype="float32")
    count, _ = features.write_features(model, [photos], output, dtype="float16")
    assert count == 5
    assert len(seen) == 4  # three parts, of which one was tried twice
    expected = _expected(model, photos, "embedding")
    if ending == ".parquet":
        np.testing.assert_allclose(_read_parquet(output)[0], expected, rtol=2e-3, atol=1e-3)
        return
    with np.load(output) as file:
        np.testing.assert_allclose(file["features"], expected, rtol=2e-3, atol=1e-3)
        assert file["features"].dtype == np.float16


def test_the_command_leaves_out_bad_files_and_the_example_searches(model, photos, tmp_path, capsys):
    model.save(tmp_path / "model.keras")
    (photos / "bad.jpg").write_bytes(b"nothing")
    (photos / "copy.png").write_bytes((photos / "3.png").read_bytes())
    output = tmp_path / "out.npz"
    arguments = ["features", str(tmp_path / "model.keras"), str(photos), f"--output={output}"]
    assert main.main(arguments) == 1
    assert "bad.jpg" in capsys.readouterr().err
    assert main.main(arguments) != 0  # it exists
    spec = importlib.util.spec_from_file_location("nearest_neighbours", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    capsys.readouterr()
    example.main([str(output), f"--query={photos / '3.png'}", "--number=2"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("1.0000")
    assert first.endswith("copy.png")
    assert float(second.split()[0]) <= 1


def test_another_ending_is_an_error(model, photos, tmp_path):
    with pytest.raises(
        ValueError, match=r"must end with .npz, .h5 or .parquet. Received: .*out.csv"
    ):
        features.write_features(model, [photos], tmp_path / "out.csv")


@pytest.mark.parametrize("dtype", features.DTYPES)
def test_a_parquet_file_has_lists_of_fixed_sizes(model, photos, tmp_path, dtype, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(features, "_PART", 2)
    output = tmp_path / "out.parquet"
    features.write_features(model, [photos], output, layout="grid", dtype=dtype)
    kind = pyarrow.list_(pyarrow.from_numpy_dtype(np.dtype(dtype)), 16)
    kind = pyarrow.list_(pyarrow.list_(kind, 2), 2)
    assert parquet.read_schema(output).field("features").type == kind
    assert parquet.read_schema(output).field("path").type == pyarrow.string()
    assert parquet.ParquetFile(output).num_row_groups == 3
    flat = parquet.read_table(output)["features"].combine_chunks()
    for _ in range(3):
        flat = flat.flatten()
    expected = _expected(model, photos, "grid").astype(dtype)
    # A last bit of 16 bits, where batches were of another size.
    atol = {"float32": 1e-5, "float16": 4e-3}[dtype]
    np.testing.assert_allclose(flat.to_numpy().reshape(expected.shape), expected, atol=atol)


def test_paths_that_are_no_text_are_bytes(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    np.savez(tmp_path / "part.npz", features=np.ones((2, 3), "f4"), paths=["a", "b\udcff"])
    feature_files.join([tmp_path / "part.npz"], tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet")["path"].to_pylist() == [b"a", b"b\xff"]


def test_a_missing_pyarrow_is_named_with_its_extra(model, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"need pyarrow; .*transformer\[parquet\]"):
        features.write_features(model, [photos], tmp_path / "out.parquet")
    output = f"--output={tmp_path / 'out.parquet'}"
    assert main.main(["features", "no-such-model", str(photos), output]) != 0
    assert "keras-vision-transformer[parquet]" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
