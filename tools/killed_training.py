"""The training of a trial of `tools/kill_trials.py`, and what it notes for the one that kills it.

In the folder above that of the run: `steps` (a line of JSON for each replica and step: process,
step, how often the batch has each example), `phase` (a letter, what is being done), `digest` (of
all that the training ended with).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import random
import zlib

FAMILIES = ("vit", "hybrid", "bit")
# What a resumption can leave out; every trial must notice.
CONTROLS = ("seeds", "moments", "metrics", "position", "signals")
NUM_IMAGES, BATCH, SAVE = 41, 8, 3
IMAGE_SIZE = 32
# letter in `phase` -> what is being done
PHASES = {
    "B": "before the first step",
    "T": "training",
    "E": "evaluation",
    "S": "saving",
    "W": "writing the run",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What a trial trains.

    Args:
        number: from which everything else follows; twelve in a row have all combinations.
        steps: of the training.
        strategy: None or `"mirrored"`, on two logical CPUs.
        without: one of `CONTROLS`, or None.
    """

    number: int
    steps: int = 36
    strategy: str | None = None
    without: str | None = None

    @property
    def family(self):
        # BiT has no random generators.
        families = FAMILIES[:2] if self.without == "seeds" else FAMILIES
        return families[self.number % len(families)]

    @property
    def optimizer(self):
        return ("adamw", "sgd")[self.number % 2]

    @property
    def accumulation_steps(self):
        return (1, 2)[self.number // 2 % 2]

    @property
    def num_replicas(self):
        return 1 if self.strategy is None else 2


def write_images(folder):
    """A class a picture: the labels of a batch say which pictures it was made of."""
    rng = random.Random(0)
    for split in ("train", "validation"):
        for i in range(NUM_IMAGES):
            path = pathlib.Path(folder, split, f"c{i:03d}", "image.png")
            path.parent.mkdir(parents=True)
            path.write_bytes(_png(rng.randbytes(40 * 40 * 3), 40))


def _png(pixels, side):
    rows = b"".join(b"\0" + pixels[i : i + 3 * side] for i in range(0, len(pixels), 3 * side))

    def chunk(kind, content):
        size, check = len(content).to_bytes(4, "big"), zlib.crc32(kind + content)
        return size + kind + content + check.to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def train(trial, data, workdir, attempt):
    """One process of a trial: `pretrain`, with a note of each step's examples."""
    import keras

    import keras_vit
    from keras_vit.data import pipeline
    from keras_vit.data.images.augmentation_presets import AUGMENTATIONS, get_augmentation
    from keras_vit.data.images.operations import Flip, MixUp, ResizeCrop
    from keras_vit.distribution.strategy import place
    from keras_vit.training.recipe import Recipe

    if trial.strategy is not None:
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )
    AUGMENTATIONS["trial"] = get_augmentation((ResizeCrop(1.25), Flip(), MixUp(0.3)))
    sgd = {"optimizer": "sgd", "momentum_dtype": "bfloat16", "learning_rate": 0.05}
    adamw = {"optimizer": "adamw", "weight_decay": 0.1, "learning_rate": 3e-3}
    recipe = Recipe(
        steps=trial.steps,
        batch_size=BATCH,
        accumulation_steps=trial.accumulation_steps,
        warmup_steps=5,
        ema=0.95,
        label_smoothing=0.1,
        augmentation="trial",
        report_steps=max(12, trial.steps // 10),
        seed=trial.number,
        **{"adamw": adamw, "sgd": sgd}[trial.optimizer],
    )
    info = pipeline.resolve(str(data))
    keras.utils.set_random_seed(trial.number)
    placement = place(trial.strategy)
    with placement.scope():
        model = make_model(trial.family, info.class_names)
    notes = workdir.parent
    log = os.open(notes / "steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _note_examples(type(model), log, attempt)
    _note_phases(notes / "phase")
    _note_digest(notes / "digest")
    _leave_out(trial.without)
    keras_vit.pretrain(
        info,
        workdir,
        recipe=recipe,
        model=model,
        checkpoint_steps=SAVE,
        progress=False,
        strategy=placement,
    )


def make_model(family, class_names):
    from keras_vit import models

    size = {"image_size": IMAGE_SIZE, "num_classes": NUM_IMAGES}
    encoder = {"hidden_size": 16, "mlp_dim": 32, "num_heads": 2, "depth": 2, "dropout": 0.2}
    encoder["stochastic_depth"] = 0.2
    names = {"class_names": class_names}
    if family == "vit":
        config = models.VisionTransformerConfig(patch_size=16, **encoder, **size)
        return models.VisionTransformer(config, **names)
    if family == "hybrid":
        config = models.HybridVisionTransformerConfig(
            patch_size=4, stage_depths=(1,), width_factor=0.5, **encoder, **size
        )
        return models.HybridVisionTransformer(config, **names)
    config = models.BiTResNetConfig(stage_depths=(1, 1), width_factor=0.5, **size)
    return models.BiTResNet(config, **names)


def _note_examples(model_class, log, attempt):
    """Makes each training step write its number and how often the batch has each example."""
    import keras
    import numpy as np

    original = model_class.train_step

    def note(step, labels):
        counts = np.asarray(labels)
        if counts.ndim == 1:
            counts = np.eye(NUM_IMAGES)[counts]
        counts = np.rint(counts.sum(axis=0)).astype(int).tolist()
        os.write(log, (json.dumps([attempt, int(step), counts]) + "\n").encode())

    if keras.backend.backend() == "jax":
        import jax

        def train_step(self, state, data):
            place = next(
                i for i, v in enumerate(self.optimizer.variables) if v is self.optimizer.iterations
            )
            jax.debug.callback(note, state[2][place], data[1], ordered=True)
            return original(self, state, data)
    else:
        import tensorflow as tf

        def train_step(self, data):
            tf.numpy_function(note, [self.optimizer.iterations.value, data[1]], [])
            return original(self, data)

    model_class.train_step = train_step


def _note_phases(path):
    from keras_vit.training.callbacks import Evaluate
    from keras_vit.training.resume.exact_resume import ExactResume

    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    phases = ["B"]

    def enter(phase):
        phases.append(phase)
        os.pwrite(file, phase.encode(), 0)

    def during(owner, name, phase):
        original = getattr(owner, name)

        def noted(*arguments, **keywords):
            before = phases[-1]
            enter(phase)
            result = original(*arguments, **keywords)
            enter(before)
            return result

        setattr(owner, name, noted)

    def after(owner, name, phase):
        original = getattr(owner, name)

        def noted(*arguments, **keywords):
            original(*arguments, **keywords)
            enter(phase)

        setattr(owner, name, noted)

    enter("B")
    during(Evaluate, "on_epoch_end", "E")
    during(ExactResume, "_save", "S")
    after(ExactResume, "on_train_batch_end", "T")
    after(ExactResume, "on_train_end", "W")


def _note_digest(path):
    """SHA-256 over each replica's value of each variable, at the end of the training."""
    import keras
    import numpy as np

    from keras_vit.training.resume.exact_resume import ExactResume

    end = ExactResume.on_train_end

    def note(self, logs=None):
        end(self, logs)
        model = self.model
        if hasattr(model, "jax_state_sync"):
            model.jax_state_sync()
        digest = hashlib.sha256()
        for variable in [*model.variables, *model.optimizer.variables, *model.metrics_variables]:
            for value in getattr(variable.value, "values", None) or (variable.value,):
                array = np.asarray(keras.ops.convert_to_numpy(value))
                digest.update(f"{variable.path} {array.dtype} {array.shape}".encode())
                digest.update(array.tobytes())
        path.write_text(digest.hexdigest())

    ExactResume.on_train_end = note


def _leave_out(control):
    """Makes the resumption forget something; every trial must notice."""
    import numpy as np

    from keras_vit.data import pipeline
    from keras_vit.distribution import signals
    from keras_vit.training.resume import exact_resume

    def forgotten(model):
        if control == "seeds":
            return [v for v in model.variables if "seed_generator" in v.path]
        counted = (model.optimizer.iterations.path, model.optimizer.gradient_norm.path)
        return [v for v in model.optimizer.variables if v.path not in counted]

    if control in ("seeds", "moments"):
        restore = exact_resume.ExactResume.restore

        def restore_without(self, model, data):
            before = [(v, np.array(v.value)) for v in forgotten(model)]
            restore(self, model, data)
            for variable, value in before:
                variable.assign(value)

        exact_resume.ExactResume.restore = restore_without
    elif control == "metrics":
        restore_all = exact_resume.restore

        def restore_no_metrics(model, arrays, groups=None):
            if groups is None:
                restore_all(model, arrays)

        exact_resume.restore = restore_no_metrics
    elif control == "position":
        training_dataset = pipeline.training_dataset

        def from_the_beginning(*arguments, start_step=0, **keywords):
            return training_dataset(*arguments, **keywords)

        pipeline.training_dataset = from_the_beginning
    elif control == "signals":
        signals.SignalWatch.install = lambda self: None
