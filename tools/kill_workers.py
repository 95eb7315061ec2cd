"""Workers that are killed end their job soon; restarted, it ends with the bits of an unbroken one.

    python tools/kill_workers.py                       ten kills at random moments
    python tools/kill_workers.py --end=stop --kills=3  SIGTERM to one of the workers instead
    python tools/kill_workers.py --table               a kill of each worker at each moment
    python tools/kill_workers.py --kills=1 --restart=mirrored  restarted as one of two replicas
    python tools/kill_workers.py --kills=1 --restart=cpu       restarted on one device
    KERAS_BACKEND=jax python tools/kill_workers.py             two processes of JAX

The job is a real `keras-vit pretrain --strategy=multiworker` (on JAX `data_parallel`) of a tiny ViT
on the digits, with dropout, stochastic depth, micro-batches and moving averages, in two processes
over 127.0.0.1.  One of them is killed, the other has `--grace` seconds to end by itself, and both
are started again with the same command.  What is compared with the unbroken job: SHA-256 over all
variables of model, optimizer and metrics in each worker, and `history.csv`.  On one device, where
dropout is left out because its masks are others, and on two replicas, the weights are compared.
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
import threading
import time

from absl import app, flags
from launch_local import free_ports, place_in  # --grace is defined there

FLAGS = flags.FLAGS
flags.DEFINE_integer("kills", 10, "How often a worker is killed.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Of everything that is chosen by chance.")
flags.DEFINE_enum("end", "kill", ["kill", "stop"], "SIGKILL or SIGTERM.")
flags.DEFINE_bool("table", False, "A job for each worker and moment, each killed once.")
flags.DEFINE_multi_string("moment", None, "The moments of the table; by default all.")
flags.DEFINE_enum(
    "restart", None, ["mirrored", "cpu"], "Where it goes on finally, if not where it was."
)
flags.DEFINE_enum(
    "momentum_dtype", "bfloat16", ["bfloat16", "float32"], "In what the momentum is kept."
)

ON_JAX = os.environ.get("KERAS_BACKEND") == "jax"
SEVERAL = "data_parallel" if ON_JAX else "multiworker"
WORKERS = 2
STEPS, REPORT, SAVE = 60, 20, 3
MOMENTS = (
    *("connecting", "building", "step", "saving", "evaluation", "final evaluation"),
    "step, stopped by SIGSTOP",  # as a machine that is gone without a word
)
SETTINGS = (
    *(f"steps={STEPS}", "epochs=None", f"report_steps={REPORT}", "warmup_steps=10"),
    *("batch_size=16", "accumulation_steps=2", "ema=0.9", "learning_rate=0.05"),
    *("optimizer=sgd", "weight_decay=0.0"),
    *("hidden_size=16", "mlp_dim=32", "num_heads=2", "depth=2"),
)
REGULARIZED = ("dropout=0.2", "stochastic_depth=0.2")
# Of the largest weight, since elsewhere sums have another order: with a momentum in bfloat16 the
# rate times a trace of 1 whose last bit is rounded in the other direction.
TOLERANCES = {"bfloat16": 0.05 * 2**-8, "float32": 2e-6}


class Job:
    """One start of the command in all of its processes.

    Args:
        folder: of the run, `folder / "run"`, and of what is noted beside it.
        attempt: number of starts before.
        strategy: of `--strategy`.
        victim: worker that kills itself, or None.
        moment: when, one of `MOMENTS`.
    """

    def __init__(self, folder, attempt, strategy=SEVERAL, victim=None, moment=None):
        self.folder, self.attempt, self.strategy = folder, attempt, strategy
        self.victim, self.moment = victim, moment
        number = WORKERS if strategy == SEVERAL else 1
        self.codes = [None] * number
        self.ended = [None] * number
        addresses = [f"127.0.0.1:{port}" for port in free_ports(number)]
        self.children = [self._start(worker, addresses) for worker in range(number)]

    def _start(self, worker, addresses):
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            output = os.open(self.log(worker), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = self._run(worker, addresses)
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _run(self, worker, addresses):
        from keras_vit.cli.main import main

        if self.strategy == SEVERAL:
            os.environ.update(place_in(addresses, worker))
        elif self.strategy == "mirrored":
            import tensorflow as tf

            (cpu,) = tf.config.list_physical_devices("CPU")
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * WORKERS
            )
        note(self.folder, worker)
        if self.moment == "saving" and worker == 0:
            # So that there is time to kill the other one.
            before("os", "replace", lambda source, target: "step_" in str(target) and time.sleep(1))
        if worker == self.victim:
            die_at(self.moment, self.folder / "killed", is_chief=worker == 0)
        settings = [*SETTINGS, f"momentum_dtype={FLAGS.momentum_dtype}"]
        settings += REGULARIZED * (FLAGS.restart != "cpu")
        return main(
            [
                *("pretrain", "--dataset=digits/upstream", f"--checkpoint_steps={SAVE}"),
                *(f"--data_dir={self.folder.parent}", f"--workdir={self.folder / 'run'}"),
                *(f"--set={setting}" for setting in settings),
                f"--strategy={self.strategy}",
            ]
        )

    def log(self, worker):
        return self.folder / f"log-{self.attempt}-{worker}"

    def is_running(self):
        for worker, child in enumerate(self.children):
            if self.codes[worker] is None:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    self.codes[worker] = os.waitstatus_to_exitcode(status)
                    self.ended[worker] = time.monotonic()
        return None in self.codes

    def wait(self, seconds=None, until=lambda: False):
        """Until all have ended, or for that many seconds, or until a condition holds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.is_running() and not until():
            if deadline is not None and time.monotonic() > deadline:
                return
            time.sleep(0.005)

    def finish(self):
        """Until all have ended; from the first that fails on the others have `--grace` seconds.

        Returns:
            Those that had to be killed.
        """
        self.wait(until=lambda: any(self.codes))
        self.wait(FLAGS.grace)
        late = [worker for worker, code in enumerate(self.codes) if code is None]
        for worker in late:
            os.kill(self.children[worker], signal.SIGKILL)
        self.wait()
        return late

    def message(self, worker):
        """The last that the command said."""
        lines = self.log(worker).read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.startswith("keras-vit: ")), "")


def before(owner, name, action):
    """Makes a function call another one before, with the same arguments."""
    owner = sys.modules[owner] if isinstance(owner, str) else owner
    original = getattr(owner, name)

    def replacement(*args, **kwargs):
        action(*args)
        return original(*args, **kwargs)

    setattr(owner, name, replacement)


def note(folder, worker):
    """Makes this process note each of its steps, and what it ends with."""
    from keras_vit.training.resume.exact_resume import ExactResume
    from keras_vit.training.resume.state_file import capture

    steps = os.open(folder / f"steps-{worker}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note_digest(resume, *_):
        digests = {"model": hashlib.sha256(), "optimizer": hashlib.sha256()}
        digests["metrics"] = hashlib.sha256()  # each worker's own counts
        for key, array in sorted(capture(resume.model).items()):
            content = f"{key} {array.dtype} {array.shape}".encode() + array.tobytes()
            digests[key.split("/")[0]].update(content)
        texts = {group: digest.hexdigest() for group, digest in digests.items()}
        (folder / f"digest-{worker}").write_text(json.dumps(texts))

    before(ExactResume, "on_train_batch_end", lambda *_: os.write(steps, b"\n"))
    before(ExactResume, "on_train_end", note_digest)


def die_at(moment, path, is_chief):
    """Makes this process kill itself at a moment, and write the time to a file."""
    import tensorflow as tf

    from keras_vit.cli import training_flags
    from keras_vit.models.vit import VisionTransformer
    from keras_vit.training import run
    from keras_vit.training.resume.exact_resume import ExactResume

    def die():
        path.write_text(str(time.monotonic()))
        os.kill(os.getpid(), signal.SIGSTOP if "SIGSTOP" in moment else signal.SIGKILL)

    def die_in_time(condition):
        if condition:
            threading.Timer(0.5, die).start()

    if moment == "connecting":
        before(training_flags, "place", lambda *_: die())
    elif moment == "building":
        before(run.zoo, "create_model", lambda *_: die())
    elif moment.startswith("step"):
        step = VisionTransformer.train_step

        def die_after_a_state(number):
            if number == SAVE + 1:
                die()

        def train_step(model, data):
            tf.numpy_function(die_after_a_state, [model.optimizer.iterations.value], [])
            return step(model, data)

        VisionTransformer.train_step = train_step
    elif moment == "saving" and is_chief:
        before("os", "replace", lambda source, target: f"{2 * SAVE:08d}" in str(target) and die())
    elif moment == "saving":
        before(ExactResume, "_save", lambda resume, *_: die_in_time(resume.step == 2 * SAVE))
    else:
        is_final = moment == "final evaluation"
        trained, calls = [], []

        def die_at_the_second_batch(*_):
            if bool(trained) == is_final:
                calls.append(True)
                if len(calls) == 2:
                    die()

        before(ExactResume, "on_train_end", lambda *_: trained.append(True))
        before(VisionTransformer, "predict_on_batch", die_at_the_second_batch)


def num_steps(folder):
    """That the chief has trained, in all starts together."""
    path = folder / "steps-0"
    return path.stat().st_size if path.exists() else 0


def newest_state(folder):
    names = [path.name for path in (folder / "run" / "state").glob("step_*.npz")]
    return max((int(name[5:13]) for name in names), default=0)


def outcome(folder):
    files = [folder / f"digest-{worker}" for worker in range(WORKERS)]
    digests = [json.loads(file.read_text()) for file in files]
    return digests, (folder / "run" / "history.csv").read_bytes()


def largest_difference(folder, reference):
    """Between the weights of two runs, as a share of the largest weight."""
    import numpy as np

    with (
        np.load(folder / "run" / "checkpoint.npz") as received,
        np.load(reference / "run" / "checkpoint.npz") as expected,
    ):
        largest = max(np.abs(expected[key]).max() for key in expected.files)
        differences = [np.abs(received[key] - expected[key]).max() for key in expected.files]
    return max(differences) / largest


def compare(folder, reference, job):
    """`(whether the run is right, what is to be said about it)`."""
    if any(job.codes):
        return False, f"ended with {job.codes}: {job.message(0)}"
    if job.strategy != SEVERAL:
        difference = largest_difference(folder, reference)
        is_close = difference <= TOLERANCES[FLAGS.momentum_dtype]
        return is_close, f"weights differ by {difference:.1e} of the largest"
    is_equal = outcome(folder) == outcome(reference)
    return is_equal, "equal" if is_equal else "other variables or another history.csv"


def new_folder(root, name):
    folder = root / name
    folder.mkdir()
    return folder


def run_unbroken(root):
    folder = new_folder(root, "reference")
    began = time.monotonic()
    job = Job(folder, 0)
    job.wait(until=lambda: num_steps(folder))
    start_up = time.monotonic() - began
    late = job.finish()
    if late or any(job.codes):
        sys.exit(f"the unbroken job ended with {job.codes}: {job.message(0)}")
    digests, _ = outcome(folder)
    if any(len({digest[group] for digest in digests}) > 1 for group in ("model", "optimizer")):
        sys.exit("the workers of the unbroken job ended with different variables")
    print(f"unbroken: {job.ended[0] - began:.0f} s, both workers alike", flush=True)
    return folder, start_up


def report_end(job, late, killed_at, victim, what):
    """Says how the others ended; whether they ended by themselves."""
    other = 1 - victim
    if other in late:
        how = f"waited for it for {FLAGS.grace:g} s and was killed"
    else:
        how = f"ended {job.ended[other] - killed_at:.1f} s later with {job.codes[other]}: "
        how += job.message(other)
    print(f"{('chief', 'worker 1')[victim]}, {what}: the other {how}", flush=True)


def run_table(root):
    """A job for each worker and moment; the number of those that were not right."""
    reference, _ = run_unbroken(root)
    wrong = 0
    for moment in FLAGS.moment or MOMENTS:
        for victim in range(WORKERS):
            folder = new_folder(root, f"{MOMENTS.index(moment)}-{victim}")
            job = Job(folder, 0, victim=victim, moment=moment)
            late = job.finish()
            killed_at = float((folder / "killed").read_text())
            report_end(job, late, killed_at, victim, moment)
            again = Job(folder, 1)
            again.finish()
            is_right, said = compare(folder, reference, again)
            print(f"  started again: {said}", flush=True)
            wrong += not is_right
            keep_or_remove(folder, is_right)
    return wrong


def run_kills(root):
    """One job that is killed again and again; the number of what was not right."""
    reference, start_up = run_unbroken(root)
    folder = new_folder(root, "killed")
    rng = random.Random(FLAGS.seed)
    wrong = kills = 0
    while kills < FLAGS.kills:
        victim = rng.randrange(WORKERS)
        trained = num_steps(folder)
        job = Job(folder, kills)
        # One in five before the first step, the others some time after some step.
        if rng.random() < 0.2:
            job.wait(rng.uniform(0.0, start_up))
        else:
            remaining = 2 * (STEPS - newest_state(folder)) // (FLAGS.kills - kills + 1)
            number = trained + rng.randint(1, max(1, remaining))
            job.wait(until=lambda number=number: num_steps(folder) >= number)
            job.wait(rng.expovariate(10.0))
        if any(code is not None for code in job.codes):
            break
        kills += 1
        done = num_steps(folder) - trained
        at = newest_state(folder)
        killed_at = time.monotonic()
        os.kill(job.children[victim], (signal.SIGKILL, signal.SIGTERM)[FLAGS.end == "stop"])
        late = job.finish()
        report_end(job, late, killed_at, victim, f"{done} steps after the start, last state {at}")
        if FLAGS.end == "stop":
            wrong += not has_stopped(job, victim, done)
    else:
        job = Job(folder, kills, strategy=FLAGS.restart or SEVERAL)
    job.finish()
    is_right, said = compare(folder, reference, job)
    print(f"{kills} kills: {said}", flush=True)
    keep_or_remove(folder, is_right and not wrong)
    return wrong + (not is_right)


def has_stopped(job, victim, done):
    """Whether a job ended as SIGTERM means it."""
    terminated = 128 + signal.SIGTERM
    if done:
        is_right = job.codes == [terminated] * WORKERS
    else:
        # Before the training there is nothing to save, and the other one loses a worker.
        is_right = job.codes[victim] in (terminated, -signal.SIGTERM)
    if not is_right:
        print(f"  SIGTERM ended with {job.codes}", flush=True)
    return is_right


def keep_or_remove(folder, is_right):
    if is_right:
        shutil.rmtree(folder)
    else:
        kept = shutil.move(folder, tempfile.mkdtemp(prefix="kill_workers_"))
        print(f"  kept in {kept}", flush=True)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    if ON_JAX and (FLAGS.table or FLAGS.restart == "mirrored"):
        raise app.UsageError("--table and --restart=mirrored need the TensorFlow backend")
    root = pathlib.Path(tempfile.mkdtemp(prefix="kill_workers_"))
    try:
        prepare_data(root)
        # Imported once; no operation may run before the children are forked.
        import keras_vit.training.run  # noqa: F401

        return 1 if (run_table if FLAGS.table else run_kills)(root) else 0
    finally:
        shutil.rmtree(root, ignore_errors=True)


def prepare_data(root):
    """The digits, once, in a process of its own."""
    child = os.fork()
    if child == 0:
        from keras_vit.data import pipeline

        pipeline.resolve("digits/upstream", str(root))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, "the data could not be prepared"


if __name__ == "__main__":
    app.run(lambda argv: sys.exit(main(argv)))
