"""Trainings that are killed at random moments must end with the bits of one that was not.

    python tools/kill_trials.py                        three trials, two minutes
    python tools/kill_trials.py --trials=60 --kills=5  the long form
    KERAS_BACKEND=jax python tools/kill_trials.py --trials=10
    python tools/kill_trials.py --end=stop --kills=20  SIGTERM and Ctrl-C instead of SIGKILL
    python tools/kill_trials.py --without_seeds        the negative control; every trial must differ

A trial is a real `keras_vit.pretrain` of a tiny ViT, hybrid or BiT on a folder of images, with
random crops and flips, MixUp, dropout, stochastic depth, micro-batches, moving averages, and AdamW
or SGD with a bfloat16 momentum.  Its process is killed again and again, and started again with the
same call.  What is compared with the uninterrupted run: SHA-256 over all variables of model,
optimizer and metrics, `history.csv`, and which examples each step was trained on, which each
process notes from the labels of the batch itself (each image is a class of its own): every step
once, in each pass over the data each example once.
"""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import zlib

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("trials", 3, "Number of trainings.", lower_bound=1)
flags.DEFINE_integer("kills", 2, "How often each is killed.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of everything that is chosen by chance.")
flags.DEFINE_enum("end", "kill", ["kill", "stop"], "SIGKILL, or SIGTERM and SIGINT in turn.")
flags.DEFINE_bool("without_seeds", False, "Leave out the random generators' states.")
flags.DEFINE_float("grace", 10.0, "Seconds that a process has to end after SIGTERM or SIGINT.")

FAMILIES = ("vit", "hybrid", "bit")
NUM_IMAGES, BATCH, STEPS, REPORT, SAVE = 41, 8, 36, 12, 3
IMAGE_SIZE = 32


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


def train(number, data, workdir, attempt):
    """One process of a trial: `pretrain`, with a note of each step's examples."""
    import keras
    import numpy as np

    import keras_vit
    from keras_vit.data import pipeline
    from keras_vit.data.augmentations import AUGMENTATIONS, Augmentation
    from keras_vit.training.recipes import Recipe
    from keras_vit.training.resume import ExactResume
    from keras_vit.training.states import capture

    AUGMENTATIONS["trial"] = Augmentation(crop_scale=1.25, flip=True, mixup=0.3)
    sgd = {"optimizer": "sgd", "momentum_dtype": "bfloat16", "learning_rate": 0.05}
    adamw = {"optimizer": "adamw", "weight_decay": 0.1, "learning_rate": 3e-3}
    recipe = Recipe(
        steps=STEPS,
        batch_size=BATCH,
        accumulation_steps=(1, 2)[number // 2 % 2],
        warmup_steps=5,
        ema=0.95,
        label_smoothing=0.1,
        augmentation="trial",
        report_steps=REPORT,
        seed=number,
        **(adamw, sgd)[number % 2],
    )
    info = pipeline.resolve(str(data))
    keras.utils.set_random_seed(number)
    model = make_model(FAMILIES[number % 3], info.class_names)
    log = os.open(workdir.parent / "steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _note_examples(type(model), log, attempt)
    end = ExactResume.on_train_end

    def note_digest(self, logs=None):
        end(self, logs)
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        digest = hashlib.sha256()
        for key, array in sorted(capture(self.model).items()):
            digest.update(f"{key} {array.dtype} {array.shape}".encode() + array.tobytes())
        (workdir.parent / "digest").write_text(digest.hexdigest())

    ExactResume.on_train_end = note_digest
    if FLAGS.without_seeds:
        restore = ExactResume.restore

        def restore_without_seeds(self, model, dataset):
            seeds = [v for v in model.variables if "seed_generator" in v.path]
            before = [np.array(v.value) for v in seeds]
            restore(self, model, dataset)
            for variable, value in zip(seeds, before, strict=True):
                variable.assign(value)

        ExactResume.restore = restore_without_seeds
    keras_vit.pretrain(
        info, workdir, recipe=recipe, model=model, checkpoint_steps=SAVE, progress=False
    )


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


def start(*arguments):
    """The process number of a child that runs `train` and says on its exit how it went."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        errors = os.open(arguments[2].parent / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(errors, 2)
        train(*arguments)
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def wait(child, seconds=None):
    """The exit code, negative for a signal; None after that many seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def num_noted(folder):
    path = folder / "steps"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def outcome(folder):
    return (folder / "digest").read_text(), (folder / "run" / "history.csv").read_bytes()


def noted(folder):
    """Each step's examples in the order in which they were trained: [[attempt, step, counts]]."""
    if not num_noted(folder):
        return []
    with open(folder / "steps") as file:
        return [json.loads(line) for line in file if line.endswith("]\n")]


def check_examples(folder, reference):
    """Problems with what was trained: the last time that a step was, is what the run is made of."""
    problems = []
    expected = {step: counts for _, step, counts in noted(reference)}
    steps = {}
    last = {}
    for attempt, step, counts in noted(folder):
        if attempt in last and step != last[attempt] + 1:
            problems.append(f"process {attempt} went from step {last[attempt]} to {step}")
        last[attempt] = step
        steps[step] = counts
        if counts != expected.get(step):
            problems.append(f"step {step} had other examples")
    if sorted(steps) != list(range(STEPS)):
        problems.append(f"the steps were {sorted(steps)}")
    total = [sum(counts) for counts in zip(*expected.values(), strict=True)]
    whole, rest = divmod(STEPS * BATCH, NUM_IMAGES)
    if sorted(total) != [whole] * (NUM_IMAGES - rest) + [whole + 1] * rest:
        problems.append(f"examples were trained so often: {total}")
    return problems


def newest_state(folder):
    names = [path.name for path in (folder / "run" / "state").glob("step_*.npz")]
    return max((int(name[5:13]) for name in names), default=0)


def trial(number, data, folder, rng):
    """(number of kills, how many of them before the first state, problems)."""
    reference, killed = folder / "reference", folder / "killed"
    for path in (reference, killed):
        path.mkdir(parents=True)
    began = time.monotonic()
    child = start(number, data, reference / "run", 0)
    while num_noted(reference) == 0 and time.monotonic() < began + 300:
        time.sleep(0.01)
    start_up = time.monotonic() - began
    code = wait(child)
    if code != 0:
        return 0, 0, [f"the uninterrupted run ended with {code}"]
    num_kills, num_early, problems = 0, 0, []
    while num_kills < FLAGS.kills:
        before = num_noted(killed)
        child = start(number, data, killed / "run", num_kills + 1)
        # One in five before the first step, the others some time after some step.
        if rng.random() < 0.2:
            code = wait(child, rng.uniform(0.0, start_up))
        else:
            remaining = STEPS - newest_state(killed)
            num_steps = rng.randint(1, max(1, 2 * remaining // (FLAGS.kills - num_kills + 1)))
            code = None
            while code is None and num_noted(killed) < before + num_steps:
                code = wait(child, 0.01)
            if code is None:
                code = wait(child, rng.expovariate(10.0))
        if code is not None:
            break
        num_kills += 1
        if FLAGS.end == "kill":
            os.kill(child, signal.SIGKILL)
            wait(child)
        else:
            number_of_signal = (signal.SIGTERM, signal.SIGINT)[num_kills % 2]
            problems += check_stop(child, number_of_signal, killed, num_kills)
        num_early += newest_state(killed) == 0
    else:
        code = wait(start(number, data, killed / "run", num_kills + 1))
    if code != 0:
        return num_kills, num_early, [*problems, f"ended with {code}"]
    if outcome(killed)[0] != outcome(reference)[0]:
        problems.append("other variables")
    if outcome(killed)[1] != outcome(reference)[1]:
        problems.append("another history.csv")
    return num_kills, num_early, problems + check_examples(killed, reference)


def check_stop(child, number_of_signal, folder, attempt):
    """Sends a signal that asks for an orderly end, and returns what was wrong about that."""
    asked = time.monotonic()
    os.kill(child, number_of_signal)
    code = wait(child, FLAGS.grace)
    seconds = time.monotonic() - asked
    steps = [step + 1 for n, step, _ in noted(folder) if n == attempt]
    done, saved = (steps[-1] if steps else 0), newest_state(folder)
    print(
        f"  {number_of_signal.name} at step {done}: exit code {code} in {seconds:.1f} s, state of "
        f"step {saved}",
        flush=True,
    )
    if code is None:
        os.kill(child, signal.SIGKILL)
        wait(child)
        return [f"{number_of_signal.name} was not followed in {FLAGS.grace:g} s"]
    # Before the training has begun, and after it, it is what it is to any process.
    expected = {128 + number_of_signal}
    if not steps or (folder / "digest").exists():
        expected |= {-number_of_signal, 0}
    problems = [] if code in expected else [f"{number_of_signal.name} ended with {code}"]
    if code != 0 and saved < done - 1:
        problems.append(f"the state of step {saved} is older than that of step {done - 1}")
    return problems


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    # Imported once; no operation may run before the children are forked.
    import keras

    import keras_vit.data.pipeline
    import keras_vit.training.run  # noqa: F401

    root = pathlib.Path(tempfile.mkdtemp(prefix="kill_trials_"))
    failed = total = 0
    try:
        write_images(root / "data")
        for number in range(FLAGS.seed, FLAGS.seed + FLAGS.trials):
            rng = random.Random(number)
            began = time.monotonic()
            kills, early, problems = trial(number, root / "data", root / str(number), rng)
            seconds = time.monotonic() - began
            total += kills
            failed += bool(problems)
            print(
                f"{keras.backend.backend()} trial {number} {FAMILIES[number % 3]:6s} "
                f"{('adamw', 'sgd')[number % 2]:5s} {kills} kills ({early} before the first "
                f"state), {seconds:.0f} s: {'; '.join(problems) or 'equal'}",
                flush=True,
            )
            if problems and not FLAGS.without_seeds:
                kept = (root / str(number)).rename(tempfile.mkdtemp() + "/trial")
                print(f"  kept in {kept}", flush=True)
            else:
                shutil.rmtree(root / str(number))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"{FLAGS.trials} trials, {total} kills, {failed} differ")
    expected = FLAGS.trials if FLAGS.without_seeds else 0
    return 0 if failed == expected else 1


if __name__ == "__main__":
    app.run(lambda argv: sys.exit(main(argv)))
