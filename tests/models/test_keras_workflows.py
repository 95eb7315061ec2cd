"""What people do with any functional Keras model, done with each of ours."""

import dataclasses
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

from keras_vit.layers.trainable import get_trainable
from keras_vit.models import BiTResNet, HybridVisionTransformer, VisionTransformer
from tests.models.test_models import BIT, HYBRID, VIT, images_for, predict, random_weights

# The same training step twice: sums in another order. In bfloat16 a gradient's last bit is 2^-8 of
# it, of which a rate of 0.01 leaves less than this in a weight; Adam would turn that bit into a
# whole step.
STEP_ATOL = {"float32": 1e-5, "mixed_bfloat16": 2e-4}
_TOKENLESS = {"class_token": False}
CASES = {
    "token": (VisionTransformer, VIT),
    "mean": (VisionTransformer, dataclasses.replace(VIT, pooling="mean", **_TOKENLESS)),
    "attention": (VisionTransformer, dataclasses.replace(VIT, pooling="attention", **_TOKENLESS)),
    "unpooled": (VisionTransformer, dataclasses.replace(VIT, pooling="none")),
    "sincos2d": (VisionTransformer, dataclasses.replace(VIT, position_embedding="sincos2d")),
    "representation": (VisionTransformer, dataclasses.replace(VIT, representation_size=5)),
    "hybrid": (HybridVisionTransformer, HYBRID),
    "bit": (BiTResNet, BIT),
    "bit_infinite": (BiTResNet, dataclasses.replace(BIT, root_pool_padding="infinite")),
}


@pytest.fixture(params=CASES)
def model(request):
    model_class, config = CASES[request.param]
    return random_weights(model_class(config))


def with_own_head(model):
    features = model.get_layer("pre_logits").output
    return keras.Model(model.inputs, keras.layers.Dense(2, name="own_head")(features))


def fit(model, images, epochs=1):
    """Trains on classes 0 and 1 in turn; models without pooling have one for each token."""
    shape = (len(images), *model.output_shape[1:-1])
    labels = np.arange(np.prod(shape)).reshape(shape) % 2
    model.fit(images, labels, batch_size=len(images), epochs=epochs, verbose=0)


def compiled(model, optimizer=None):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Eagerly: compiling takes most of the time of one small step.
    model.compile(optimizer or keras.optimizers.Adam(1e-3), loss, run_eagerly=True)
    return model


def assert_same_arrays(ours, theirs, atol=0):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=atol)


def assert_saved_alike(model, images, tmp_path):
    path = tmp_path / "saved.keras"
    model.save(path)
    copy = keras.models.load_model(path, safe_mode=True)
    np.testing.assert_equal(
        keras.tree.map_structure(keras.ops.convert_to_numpy, copy(images)),
        keras.tree.map_structure(keras.ops.convert_to_numpy, model(images)),
    )
    return copy


@pytest.mark.parametrize(
    ("case", "policy"),
    [*((case, "float32") for case in CASES), ("token", "mixed_bfloat16"), ("bit", "mixed_bfloat16")]
    + [("attention", "mixed_bfloat16"), ("hybrid", "mixed_bfloat16")],
)
def test_an_own_head_is_trained_saved_loaded_and_trained_on(case, policy, tmp_path):
    model_class, config = CASES[case]
    model = model_class(config, dtype=policy)
    images = images_for(model)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9) if policy == "mixed_bfloat16" else None
    head = compiled(with_own_head(model), optimizer)
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    shape = (2, *head.output_shape[1:-1])
    head.fit(images, np.ones(shape, int), callbacks=[checkpoint], verbose=0)
    np.testing.assert_array_equal(
        predict(keras.models.load_model(tmp_path / "1.keras"), images), predict(head, images)
    )
    copy = assert_saved_alike(head, images, tmp_path)
    assert [v.path for v in copy.weights] == [v.path for v in head.weights]
    assert_same_arrays(copy.optimizer.variables, head.optimizer.variables)
    fit(copy, images)
    fit(head, images)
    assert_same_arrays(copy.get_weights(), head.get_weights(), STEP_ATOL[policy])


def test_every_layer_has_a_configuration_that_makes_it_again(model):
    for layer in model.layers:
        config = layer.get_config()
        assert type(layer).from_config(config).get_config() == config


def test_a_cut_model_and_one_with_several_outputs_are_saved(model, tmp_path):
    images = images_for(model)
    middle = model.layers[len(model.layers) // 2]
    assert_saved_alike(keras.Model(model.inputs, middle.output), images, tmp_path)
    outputs = {"middle": middle.output, "logits": model.output}
    assert_saved_alike(keras.Model(model.inputs, outputs), images, tmp_path)


def test_a_clone_computes_the_same_and_is_saved(model, tmp_path):
    images = images_for(model)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(predict(clone, images), predict(model, images))
    assert_saved_alike(clone, images, tmp_path)


def test_a_backbone_inside_another_model_is_saved(model, tmp_path):
    images = images_for(model)
    inputs = keras.Input(images.shape[1:])
    outer = keras.Model(inputs, keras.layers.Dense(2)(model(inputs)))
    copy = assert_saved_alike(compiled(outer), images, tmp_path)
    assert type(copy.get_layer(model.name)) is type(model)
    fit(copy, images)


# --- what is frozen stays frozen


def test_a_head_only_fine_tuning_is_saved_with_its_freeze_and_goes_on(model, tmp_path):
    images = images_for(model)
    model.trainable = False
    model.trainable = True
    for layer in model.layers[:-1]:
        layer.trainable = False
    compiled(model)
    assert len(model.trainable_weights) == 2
    fit(model, images)
    copy = assert_saved_alike(model, images, tmp_path)
    assert [v.path for v in copy.trainable_weights] == ["head/kernel", "head/bias"]
    assert_same_arrays(copy.optimizer.variables, model.optimizer.variables)
    before = {v.path: keras.ops.convert_to_numpy(v) for v in copy.non_trainable_weights}
    fit(model, images)
    fit(copy, images)
    for variable in copy.non_trainable_weights:
        np.testing.assert_array_equal(variable, before[variable.path])
    np.testing.assert_allclose(
        predict(copy, images), predict(model, images), atol=STEP_ATOL["float32"]
    )


FREEZES = {
    "all": lambda model: setattr(model, "trainable", False),
    "all_but_the_head": lambda model: (
        setattr(model, "trainable", False),
        setattr(model, "trainable", True),
        [setattr(layer, "trainable", False) for layer in model.layers[:-1]],
    ),
    "one_block": lambda model: setattr(model.get_layer("encoderblock_0"), "trainable", False),
    "a_part_of_a_block": lambda model: setattr(
        model.get_layer("encoderblock_0").attention, "trainable", False
    ),
    "all_of_a_block_but_a_part": lambda model: (
        setattr(model.get_layer("encoderblock_1"), "trainable", False),
        setattr(model.get_layer("encoderblock_1"), "trainable", True),
        setattr(model.get_layer("encoderblock_1").mlp, "trainable", False),
        setattr(model.get_layer("encoderblock_1").mlp.dense_2, "trainable", True),
    ),
}


@pytest.mark.parametrize("freeze", FREEZES)
def test_the_freeze_of_every_part_is_saved(freeze, tmp_path):
    model = VisionTransformer(VIT)
    FREEZES[freeze](model)
    images = images_for(model)
    flags = get_trainable(model)
    trained = [v.path for v in model.trainable_weights]
    copy = assert_saved_alike(model, images, tmp_path)
    assert get_trainable(copy) == flags
    assert [v.path for v in copy.trainable_weights] == trained
    clone = keras.models.clone_model(model)
    assert [v.path for v in clone.trainable_weights] == trained
    cut = assert_saved_alike(with_own_head(model), images, tmp_path)
    own_head = ["own_head/kernel", "own_head/bias"]
    in_body = [path for path in trained if not path.startswith("head/")]
    assert [v.path for v in cut.trainable_weights] == (
        [] if freeze == "all" else in_body
    ) + own_head


def test_a_frozen_backbone_inside_another_model_stays_frozen(tmp_path):
    model = random_weights(VisionTransformer(VIT))
    images = images_for(model)
    model.trainable = False
    inputs = keras.Input(images.shape[1:])
    outer = compiled(keras.Model(inputs, keras.layers.Dense(2, name="own")(model(inputs))))
    fit(outer, images)
    copy = assert_saved_alike(outer, images, tmp_path)
    assert [v.path for v in copy.trainable_weights] == ["own/kernel", "own/bias"]
    before = copy.get_layer(model.name).get_weights()
    fit(copy, images)
    fit(outer, images)
    for now, then in zip(copy.get_layer(model.name).get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    np.testing.assert_allclose(
        predict(copy, images), predict(outer, images), atol=STEP_ATOL["float32"]
    )


def test_a_flag_of_a_part_that_is_not_there_is_refused():
    model = VisionTransformer(VIT)
    with pytest.raises(ValueError, match="must name parts of .*Received: 'encoderblock_7'"):
        VisionTransformer.from_config({**model.get_config(), "trainable": {"encoderblock_7": True}})


# --- names

_OWN_LAYERS = """
    x = keras.layers.Dropout(0.2)(model.output)
    x = keras.layers.Dense(2)(keras.layers.Identity()(keras.layers.Reshape((-1,))(x)))
    words = keras.Input((None,), dtype="int32")
    embedded = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(5, 2)(words))
    both = keras.Model([model.input, words], keras.layers.Add()([x, embedded]))
    assert both.get_layer("embedding").__class__.__name__ != "Embedding"
"""


def _in_a_fresh_process(first_lines):
    program = "import keras, sys\n" + textwrap.dedent(first_lines) + textwrap.dedent(_OWN_LAYERS)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_layers_of_ones_own_have_other_names_in_a_fresh_process(tmp_path):
    model = VisionTransformer(VIT)
    model.save(tmp_path / "model.keras")
    _in_a_fresh_process(f"""
        import keras_vit
        model = keras.models.load_model({str(tmp_path / "model.keras")!r})
        cut = keras.Model(model.inputs, model.get_layer("pre_logits").output)
        cut.save({str(tmp_path / "cut.keras")!r})
        model = keras.models.load_model({str(tmp_path / "cut.keras")!r})
    """)


@pytest.mark.parametrize("case", CASES)
def test_no_layer_has_the_first_name_that_keras_gives(case):
    keras.backend.clear_session()
    model_class, config = CASES[case]
    names = {layer.name for layer in model_class(config).layers}
    for name in dir(keras.layers):
        kind = getattr(keras.layers, name)
        if isinstance(kind, type) and issubclass(kind, keras.layers.Layer):
            first = keras.src.utils.naming.to_snake_case(name)
            assert first not in names - {"embedding"}, name
    assert keras.layers.Embedding(2, 2).name not in names
