"""What is trained, and how fast each depth moves."""

import json
import pathlib

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.distribution.strategy import mirrored_strategy
from keras_vit.layers.lora import LowRank
from keras_vit.training import run_folder
from keras_vit.training.losses import SoftmaxCrossentropy
from keras_vit.training.optimizers import SGD, AdamW, averaged_weights
from keras_vit.training.recipe import Recipe
from keras_vit.training.recipe_overrides import parse_overrides
from keras_vit.training.run import finetune, pretrain
from keras_vit.training.tuning import merge_lora, rate_factors, set_tune
from keras_vit.zoo.adapters import load_adapter
from tests import tiny
from tests.train_step.replica_cases import EPSILON, WEIGHTS, examples

REFERENCE = pathlib.Path(__file__).parents[1] / "reference" / "evaluation" / "tuning"
# float32, the same sum in another order; logits are about 0.1.
MERGED = 1e-6


def make_model(**config):
    return tiny.make_model(**{"depth": 2, **config})


def make_hybrid(**config):
    return keras_vit.create_model(
        "R26+ViT-S/32",
        image_size=32,
        num_classes=3,
        stage_depths=(1,),
        width_factor=0.5,
        patch_size=1,
        **{k: v for k, v in tiny.ARCHITECTURE.items() if k not in ("patch_size", "depth")},
        depth=2,
        **config,
    )


def make_bit():
    return keras_vit.create_model(
        "BiT-R50x1", image_size=32, num_classes=3, stage_depths=(1, 1), width_factor=0.5
    )


def values(variables):
    return {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in variables}


def logits(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def fit(model, optimizer=None, **arguments):
    images, labels = examples(24)
    model.compile(optimizer or SGD(0.1), SoftmaxCrossentropy(), **arguments)
    model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    return model


# tune -> what is trained beside the head, of two blocks with 16 variables each
COUNTS = {
    "all": 2 * 16 + 4 + 2,
    "head": 0,
    "last:1": 16 + 2,
    "norms": 2 * 4 + 2,
    "bias": 2 * (2 + 4 + 2) + 1 + 1,
    "lora:2": 2 * 6 * 2,
}


@pytest.mark.parametrize("tune", COUNTS)
def test_what_is_not_tuned_keeps_its_bits_and_has_no_state(tune):
    model, images = make_model(), examples(4)[0]
    start = logits(model, images)
    set_tune(model, tune, **({"lora_dropout": 0.1} if tune == "lora:2" else {}))
    np.testing.assert_array_equal(logits(model, images), start)
    assert len(model.trainable_variables) == COUNTS[tune] + 2
    frozen, trained = values(model.non_trainable_variables), values(model.trainable_variables)
    fit(model)
    after = values(model.variables)
    for path, value in frozen.items():
        if not path.endswith("seed_generator_state"):
            np.testing.assert_array_equal(after[path], value, err_msg=path)
    still = [path for path, value in trained.items() if np.array_equal(after[path], value)]
    # The keys' biases have no gradient.
    assert all(path.endswith("key_bias") for path in still), still
    # A count, a rate, a norm, and a moment of each variable.
    assert len(model.optimizer.variables) == 3 + COUNTS[tune] + 2


def test_last_trains_the_end_of_the_model_alone():
    model = make_model(depth=3, pooling="mean", representation_size=8)
    set_tune(model, "last:2")
    first = {v.path.split("/")[0] for v in model.trainable_variables}
    assert first == {"encoderblock_1", "encoderblock_2", "encoder_norm", "pre_logits", "head"}
    set_tune(model, "all")
    assert len(model.trainable_variables) == len(model.weights)


def test_a_function_of_paths_chooses_single_variables_and_files_keep_it(tmp_path):
    model = make_model()
    set_tune(model, lambda path: path.startswith("head/") or path.endswith("query_kernel"))
    expected = ["encoderblock_0/attention/query_kernel", "encoderblock_1/attention/query_kernel"]
    expected += ["head/kernel", "head/bias"]
    assert [v.path for v in model.trainable_variables] == expected
    assert not model.get_layer("embedding").trainable
    model.save(tmp_path / "model.keras")
    for copy in (
        keras.saving.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
    ):
        assert [v.path for v in copy.trainable_variables] == expected


def test_low_rank_matrices_are_peft_and_paper():
    model = make_model()
    set_tune(model, "lora:2", lora_alpha=6, lora_targets=("query", "mlp"))
    adapters = {v.path: v for v in model.trainable_variables if v.path.startswith("encoderblock_0")}
    names = ("attention/query_kernel", "mlp/dense_1/kernel", "mlp/dense_2/kernel")
    assert list(adapters) == [f"encoderblock_0/{n}_lora/{m}" for n in names for m in "ab"]
    a, b = (adapters[f"encoderblock_0/mlp/dense_1/kernel_lora/{m}"] for m in "ab")
    assert (tuple(a.shape), tuple(b.shape)) == ((16, 2), (2, 32))
    # PEFT: kaiming_uniform(a=sqrt(5)), which is within 1 / sqrt(I); and zeros.
    assert 0.5 * 16**-0.5 < np.abs(np.array(a)).max() <= 16**-0.5
    assert not np.any(np.array(b))
    layer = LowRank(2, 3, alpha=6)
    layer.build((None, 4))
    x, product = np.ones((1, 4), "float32"), np.ones((2, 3), "float32")
    layer.b.assign(product)
    np.testing.assert_allclose(layer(x), 3 * x @ np.array(layer.a) @ product, atol=1e-6)


@pytest.mark.parametrize("make", [make_model, make_hybrid])
def test_merged_is_unmerged_and_an_ordinary_model(make, tmp_path):
    images = np.random.default_rng(0).uniform(-1, 1, (2, *make().config.image_size, 3))
    model = make()
    paths = [v.path for v in model.weights]
    set_tune(model, "lora:3")
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) * 0.1)
    unmerged = logits(model, images)
    traced = model.predict(images, verbose=0)
    path = keras_vit.save_pretrained(model, tmp_path / "checkpoint.npz", format="vit_jax")
    merge_lora(model)
    np.testing.assert_allclose(logits(model, images), unmerged, atol=MERGED)
    for variable, value in values(keras_vit.from_pretrained(path).weights).items():
        np.testing.assert_array_equal(value, values(model.weights)[variable])
    np.testing.assert_allclose(model.predict(images, verbose=0), traced, atol=MERGED)
    assert [v.path for v in model.weights] == paths
    set_tune(model, "lora:1")  # and again


def test_lora_of_keras_adapts_an_attention_and_an_mlp_and_freezes_their_kernels():
    model = make_model()
    paths = [v.path for v in model.weights]
    images, _ = examples(2)
    expected = logits(model, images)
    block = model.get_layer("encoderblock_0")
    block.attention.enable_lora(2, lora_alpha=4)
    block.mlp.dense_1.enable_lora(3)
    np.testing.assert_array_equal(logits(model, images), expected)
    before = values(model.weights)
    fit(model)
    after = values(model.weights)
    names = [f"attention/{n}_kernel" for n in ("query", "key", "value", "out")]
    kernels = {f"encoderblock_0/{n}" for n in (*names, "mlp/dense_1/kernel")}
    same = {path for path in after if np.array_equal(before[path], after[path])}
    assert same == kernels
    unmerged = logits(model, images)
    assert np.abs(unmerged - expected).max() > 1e-3
    merge_lora(model)
    assert [v.path for v in model.weights] == paths
    np.testing.assert_allclose(logits(model, images), unmerged, atol=MERGED)
    for layer, message in ((block.attention, None), (type(block.attention)(2, name="a"), "is not")):
        if message is None:
            layer.enable_lora(1)
        with pytest.raises(ValueError, match=message or "has some"):
            layer.enable_lora(1)


def test_blocks_that_are_computed_again_draw_the_same_masks():
    trained = []
    for remat in (False, True):
        model = make_model(dropout=0.1, depth=1)
        model.set_remat(remat)
        set_tune(model, "lora:2", lora_dropout=0.3)
        trained.append(values(fit(model).trainable_variables))
    for path, value in trained[0].items():
        np.testing.assert_allclose(trained[1][path], value, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(("tune", "number"), [("last:1", 10), ("norms", 14), ("head", 2)])
def test_residual_networks_have_stages_and_norms(tune, number):
    model = make_bit()
    set_tune(model, tune)
    paths = [v.path for v in model.trainable_variables]
    assert len(paths) >= number
    assert not any(path.startswith("block1_") for path in paths if tune != "norms")
    assert all(path.endswith(("gamma", "beta")) for path in paths[:-2] if tune == "norms")
    set_tune(make_hybrid(), "last:2")


@pytest.mark.parametrize(
    ("make", "tune", "options", "message"),
    [
        (make_model, "last:99", {}, "at most the 2 encoder blocks .* Received: 'last:99'"),
        (make_bit, "last:3", {}, "at most the 2 stages"),
        (make_bit, "lora:2", {}, "LoRA adapts the attention"),
        (make_model, "some", {}, "`tune` must be one of"),
        (make_model, "lora:0", {}, "`tune` must be one of"),
        (make_model, "lora:2", {"lora_targets": ("queries",)}, "`lora_targets` must be of"),
        (make_model, "lora:2", {"lora_alpha": 0}, "`lora_alpha` must be positive"),
        (make_model, "lora:2", {"lora_dropout": 1}, r"`lora_dropout` must be in \[0, 1\)"),
        (make_model, "head", {"lora_alpha": 2}, "`lora_alpha` is of the tune 'lora:R'"),
        (make_model, lambda path: False, {}, "must leave something to train"),
        (
            lambda: make_model().feature_extractor(),
            "head",
            {},
            "must leave something to train",
        ),
        (
            lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]),
            "head",
            {},
            "must have the encoder blocks or the stages",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, tune, options, message):
    with pytest.raises(ValueError, match=message):
        set_tune(make(), tune, **options)


def test_a_second_adapter_is_refused():
    model = make_model()
    set_tune(model, "lora:2")
    with pytest.raises(ValueError, match="call `merge_lora` first"):
        set_tune(model, "lora:2")


def test_recipes_check_what_is_tuned():
    fields = parse_overrides(
        ["tune=lora:8", "lora_targets=query,value", "layer_decay=0.75", "head_rate_factor=10"]
    )
    recipe = Recipe(steps=1, **fields)
    assert recipe.lora_targets == ("query", "value")
    assert Recipe(**json.loads(json.dumps(recipe.describe()))) == recipe
    for wrong, message in (
        ({"tune": "last"}, "`tune` must be one of"),
        ({"tune": 3}, "`tune` must be a name, a function"),
        ({"lora_alpha": 4}, "is of the tune 'lora:R'"),
        ({"tune": "lora:2", "lora_dropout": 1.0}, "`lora_dropout` must be"),
        ({"tune": "lora:2", "lora_targets": ("q",)}, "`lora_targets` must be of"),
        ({"layer_decay": 1.1}, r"`layer_decay` must be in \[0, 1\]"),
        ({"head_rate_factor": -1}, "`head_rate_factor` must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe(steps=1, **wrong)


OURS = {  # of the reference's names
    "backbone.net.pos_embed": "posembed_input/embedding",
    "backbone.net.patch_embed.proj.weight": "embedding/kernel",
    "roi_heads.box_head.fc1.weight": "head/kernel",
    "backbone.net.blocks.{}.attn.qkv.weight": "encoderblock_{}/attention/query_kernel",
}


def test_layer_decay_is_that_of_vitdet():
    reference = json.loads((REFERENCE / "vitdet_layer_decay.json").read_text())
    model = make_model(depth=reference["num_layers"])
    received = rate_factors(model, reference["lr_decay_rate"])
    blocks = {key.format(i): path.format(i) for key, path in OURS.items() for i in range(12)}
    compared = {blocks[key]: v for key, v in reference["multipliers"].items() if key in blocks}
    assert len(compared) == 15
    for path, multiplier in compared.items():
        assert received[path] == pytest.approx(multiplier, rel=1e-12)
    # As in MAE and BEiT, what follows the blocks has the whole rate.
    assert received["encoder_norm/gamma"] == received["head/bias"] == 1
    assert received["cls/token"] == received["embedding/bias"]


def test_layer_decay_counts_the_blocks_of_every_model():
    factors = rate_factors(make_model(depth=24), 0.5)
    assert factors["embedding/kernel"] == 0.5**25
    assert factors["encoderblock_23/mlp/dense_1/kernel"] == 0.5
    factors = rate_factors(make_hybrid(), 0.5, head_rate_factor=10)
    assert factors["conv_root/kernel"] == factors["block1_unit1/conv1/kernel"] == 0.5**3
    assert factors["encoderblock_0/norm_1/beta"] == 0.25
    assert (factors["encoder_norm/gamma"], factors["head/kernel"]) == (1, 10)
    factors = rate_factors(make_bit(), 0.5)
    assert factors["root_conv/kernel"] == 0.125
    assert factors["block2_unit1/conv1/kernel"] == 0.5
    model = make_model()
    set_tune(model, "lora:1")
    factors = rate_factors(model, 0.5)
    assert set(factors) == {v.path for v in model.trainable_variables}
    assert factors["encoderblock_1/mlp/dense_1/kernel_lora/a"] == 0.5
    assert rate_factors(model) is rate_factors(model, 1.0) is None
    with pytest.raises(ValueError, match="`layer_decay` must be"):
        rate_factors(model, 2.0)


@pytest.mark.parametrize("make_optimizer", [SGD, pytest.param(AdamW, marks=pytest.mark.slow)])
def test_factors_act_on_update_and_decay_after_clipping_the_whole_gradient(make_optimizer):
    images, labels = examples(8)
    changes, norms = [], []
    for decay in (None, 0.25):
        model = make_model(depth=1)
        factors = rate_factors(model, decay)
        before = values(model.trainable_variables)
        optimizer = make_optimizer(
            0.01, weight_decay=0.1, global_clipnorm=0.01, rate_factors=factors
        )
        model.compile(optimizer, SoftmaxCrossentropy())
        norms.append(model.train_on_batch(images, labels, return_dict=True)["gradient_norm"])
        after = values(model.trainable_variables)
        changes.append({path: after[path] - before[path] for path in before})
    assert norms[0] == norms[1] > 0.01
    for path, factor in factors.items():
        # Weights are about 1, of which a change is the difference.
        np.testing.assert_allclose(changes[1][path], factor * changes[0][path], atol=3e-7)


def test_a_factor_of_zero_moves_nothing_to_the_bit():
    model = make_model(depth=1)
    before = values(model.trainable_variables)
    factors = rate_factors(model, 0.0)
    options = {"use_ema": True, "ema_momentum": 0.9, "weight_decay": 0.1}
    fit(model, AdamW(0.01, rate_factors=factors, **options))
    moved = {"encoder_norm/gamma", "encoder_norm/beta", "head/kernel", "head/bias"}
    with averaged_weights(model):
        averaged = values(model.trainable_variables)
    for after in (averaged, values(model.trainable_variables)):
        assert {path for path in before if not np.array_equal(after[path], before[path])} == moved


def test_factors_are_of_variables_that_are_trained():
    model = make_model()
    factors = rate_factors(model, 0.5)
    optimizer = SGD(rate_factors=factors)
    assert SGD.from_config(optimizer.get_config()).rate_factors == factors
    assert "rate_factors" not in SGD().get_config()
    set_tune(model, "head")
    with pytest.raises(ValueError, match="`rate_factors` must be of variables that are trained"):
        optimizer.build(model.trainable_variables)


def train_with_factors(tune):
    model = make_model(depth=1)
    set_tune(model, tune)
    options = {"weight_decay": 0.1, "global_clipnorm": 0.5}
    factors = rate_factors(model, 0.5)
    optimizer = AdamW(0.01, epsilon=EPSILON, rate_factors=factors, **options)
    return values(fit(model, optimizer).trainable_variables)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("tune", ["lora:2", pytest.param("bias", marks=pytest.mark.slow)])
def test_two_replicas_come_to_what_one_device_comes_to(tune):
    expected = train_with_factors(tune)
    with mirrored_strategy().scope():
        received = train_with_factors(tune)
    for path, value in expected.items():
        np.testing.assert_allclose(received[path], value, atol=WEIGHTS, err_msg=path)


class Kill(keras.callbacks.Callback):
    """Stands for a process that is killed at a step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise InterruptedError


RUN = {
    "image_size": 8,
    "steps": 4,
    "warmup_steps": 0,
    "batch_size": 8,
    "report_steps": 4,
    "learning_rate": 0.1,
    "progress": False,
    "checkpoint_steps": 1,
}
TUNED = {
    "lora": {"tune": "lora:2", "lora_dropout": 0.2, "layer_decay": 0.5},
    "norms": {"tune": "norms", "ema": 0.5, "head_rate_factor": 2.0, "optimizer": "adamw"},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "model.keras"
    make_model(num_classes=5, depth=1).save(path)
    return path


@pytest.mark.parametrize("name", ["lora", pytest.param("norms", marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_ends_with_the_same_bits(name, source, digits_dir, tmp_path):
    def run(folder, **options):
        return finetune(
            source,
            "digits/downstream",
            folder,
            data_dir=digits_dir,
            **RUN,
            **TUNED[name],
            **options,
        )

    whole = run(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        run(tmp_path / "stopped", callbacks=[Kill(3)])
    run_folder.release(tmp_path / "stopped")
    resumed = run(tmp_path / "stopped")
    expected = values(whole.model.weights)
    for path, value in values(resumed.model.weights).items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)
    assert resumed.metrics["test"] == whole.metrics["test"]

    # An ordinary model, of which all is trained again; the adapter is beside it.
    written = keras_vit.from_pretrained(whole.workdir)
    assert len(written.trainable_weights) == len(written.weights) == 24
    assert (set(run_folder.ADAPTER) <= set(whole.files)) == (name == "lora")
    if name == "lora":
        start = keras_vit.from_pretrained(source, num_classes=5)
        load_adapter(start, whole.workdir)
        images = examples(4)[0]
        np.testing.assert_allclose(logits(start, images), logits(written, images), atol=MERGED)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tune": "head"}, "`tune` is of a fine-tuning"),
        ({"layer_decay": 0.5}, "`layer_decay` is of a fine-tuning"),
        ({"head_rate_factor": 2.0}, "`head_rate_factor` is of a fine-tuning"),
    ],
)
def test_a_pretraining_has_nothing_to_tune(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pretrain("digits/upstream", tmp_path, **fields)


def test_an_optimizer_of_keras_has_no_factors(source, digits_dir, tmp_path):
    with pytest.raises(ValueError, match="need an optimizer of `keras_vit.training.optimizers`"):
        finetune(
            *(source, "digits/downstream", tmp_path),
            data_dir=digits_dir,
            **{**RUN, "optimizer": keras.optimizers.SGD(0.1), "layer_decay": 0.5},
        )
