"""What the tests share: the backend's marker, reference data, and the contract of every layer."""

import gc
import json
import pathlib

import keras
import numpy as np
import pytest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # Two devices for the tests of strategies; it must be said before anything is computed.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )

REFERENCE = pathlib.Path(__file__).parent / "reference"


def pytest_collection_modifyitems(items):
    """Leaves out what needs TensorFlow as the backend where another one runs."""
    if keras.backend.backend() == "tensorflow":
        return
    skip = pytest.mark.skip(reason="needs the TensorFlow backend")
    for item in items:
        if "tensorflow_only" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _fixed_seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _no_old_iterators():
    """Collects the iterators of data sets that stopped trainings hold in cycles, while new.

    TensorFlow 2.21's may take as long to end as they have lived, up to a minute, wherever the
    collector happens to find them (`keras_vit.data.batches.make_options` says why).
    """
    yield
    gc.collect()
    # What is still there stays to the end: the next collections need not look at it again.
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_home(monkeypatch, tmp_path):
    """No test reads or writes the caches of the person who runs it."""
    monkeypatch.setenv("KERAS_VIT_HOME", str(tmp_path / "keras_vit_home"))


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """Where the embedded data set is prepared once for the session."""
    return tmp_path_factory.mktemp("tensorflow_datasets")


class ReferenceCase:
    """One case of `tests/reference`: a checkpoint and what the reference computes with it."""

    def __init__(self, name):
        self.path = REFERENCE / f"{name}.npz"
        self.facts = json.loads((REFERENCE / f"{name}.json").read_text())
        with np.load(REFERENCE / f"{name}.ref.npz") as file:
            self.outputs = {key: file[key] for key in file.files}
        self.image_size = tuple(self.facts["image_size"])
        self.images = self.outputs["images"]

    def arrays(self):
        with np.load(self.path) as file:
            return {key: file[key] for key in file.files}


@pytest.fixture
def reference_case():
    return ReferenceCase


def relative_error(actual, expected):
    """max|actual - expected| / max|expected|: what the tolerances of this project are about."""
    actual = keras.ops.convert_to_numpy(actual)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.fixture
def assert_close():
    def check(actual, expected, tolerance):
        error = relative_error(actual, expected)
        assert error <= tolerance, f"{error:.2e} > {tolerance:.0e} of max|reference|"

    return check


@pytest.fixture
def check_layer_contract():
    """Shape, dtype policies, configuration round trip and one training step of a layer."""

    def check(layer_class, arguments, input_shape, output_shape):
        inputs = np.random.default_rng(0).uniform(-1, 1, input_shape).astype("float32")
        for policy in ("float32", "mixed_bfloat16", "bfloat16"):
            layer = layer_class(**arguments, dtype=policy)
            outputs = layer(inputs)
            assert tuple(outputs.shape) == output_shape
            assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
            assert tuple(layer.compute_output_shape(input_shape)) == output_shape
            for variable in layer.weights:
                assert keras.backend.standardize_dtype(variable.dtype) == layer.variable_dtype

        layer = layer_class(**arguments)
        expected = keras.ops.convert_to_numpy(layer(inputs))
        config = layer.get_config()
        copy = layer_class.from_config(json.loads(json.dumps(config)))
        assert json.dumps(copy.get_config()) == json.dumps(config)
        copy.build(input_shape)
        assert [v.path.split("/", 1)[1:] for v in copy.weights] == [
            v.path.split("/", 1)[1:] for v in layer.weights
        ]
        copy.set_weights(layer.get_weights())
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(copy(inputs)), expected)

        symbolic = keras.Input(input_shape[1:])
        model = keras.Model(symbolic, keras.layers.Flatten()(layer(symbolic)))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        before = [w.copy() for w in layer.get_weights()]
        targets = np.ones((input_shape[0], int(np.prod(output_shape[1:]))), "float32")
        model.fit(inputs, targets, batch_size=input_shape[0], verbose=0)
        trained = zip(before, layer.get_weights(), strict=True)
        if before:
            assert any((old != new).any() for old, new in trained)

    return check
