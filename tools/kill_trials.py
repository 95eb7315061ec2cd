"""Trainings that are killed at random moments must end with the bits of one that was not.

    python tools/kill_trials.py                        three trials, two minutes
    python tools/kill_trials.py --trials=60 --kills=5  the long form
    python tools/kill_trials.py --trials=12 --strategy=mirrored   on two logical CPUs
    KERAS_BACKEND=jax python tools/kill_trials.py --trials=10
    python tools/kill_trials.py --end=stop --kills=4   SIGTERM and Ctrl-C instead of SIGKILL
    python tools/kill_trials.py --steps=200            longer ones
    python tools/kill_trials.py --without=seeds --kills=5   a control; every trial must differ

With `--log=FILE` each trial leaves a line of JSON there, and those that have one are not run again.

A trial is a real `keras_vit.pretrain` of a tiny ViT, hybrid or BiT on a folder of images, with
random crops and flips, MixUp, dropout, stochastic depth, micro-batches, moving averages, and AdamW
or SGD with a bfloat16 momentum.  Its process is killed again and again, and started again with the
same call: one time in five before its first step, one time in five in an evaluation, else after
some step.  What is compared with the uninterrupted run: SHA-256 over all variables of model,
optimizer and metrics, `history.csv` and `checkpoint.npz` byte for byte, `metrics.json` but for
times, and which examples each step was trained on, which each process notes from the labels of the
batch itself (each image is a class of its own): every step once, in each pass over the data each
example once.
"""

import collections
import dataclasses
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

from absl import app, flags
from killed_training import BATCH, CONTROLS, NUM_IMAGES, PHASES, Trial, train, write_images

FLAGS = flags.FLAGS
flags.DEFINE_integer("trials", 3, "Number of trainings.", lower_bound=1)
flags.DEFINE_integer("kills", 2, "How often each is killed.", lower_bound=1)
flags.DEFINE_integer("steps", 36, "Of each.", lower_bound=12)
flags.DEFINE_integer("seed", 0, "Number of the first; of everything that is chosen by chance.")
flags.DEFINE_enum("end", "kill", ["kill", "stop"], "SIGKILL, or SIGTERM and SIGINT in turn.")
flags.DEFINE_enum("strategy", None, ["mirrored"], "Trains on two logical CPUs.")
flags.DEFINE_enum("without", None, CONTROLS, "What the resumption leaves out.")
flags.DEFINE_string("log", None, "File of the trials' lines of JSON.")
flags.DEFINE_float("grace", 10.0, "Seconds that a process has to end after SIGTERM or SIGINT.")

TIMES = ("seconds", "images_per_second", "waiting_share")


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


@dataclasses.dataclass
class Record:
    """What is known of a trial.

    Args:
        kills: (phase, step) of each.
        num_early: how many of them were before the first state.
        stops: of each SIGTERM or SIGINT: name, phase, step, exit code, seconds, step of the state.
        problems: what differs from the uninterrupted run.
    """

    kills: list = dataclasses.field(default_factory=list)
    num_early: int = 0
    stops: list = dataclasses.field(default_factory=list)
    problems: list = dataclasses.field(default_factory=list)


class Folder:
    """A run of a trial and what its processes have noted."""

    def __init__(self, path, trial, data):
        self.path = path
        self.data = data
        self.run = path / "run"
        self.trial = trial
        path.mkdir(parents=True)

    def num_noted(self):
        path = self.path / "steps"
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        return lines // self.trial.num_replicas

    def noted(self):
        """[(process, step, counts of the examples)] in the order in which they were trained."""
        if not self.num_noted():
            return []
        parts = collections.defaultdict(list)
        with open(self.path / "steps") as file:
            for line in file:
                if line.endswith("]\n"):
                    attempt, step, counts = json.loads(line)
                    parts[attempt, step].append(counts)
        # A step that not all replicas had begun is none.
        return [
            (*place, [sum(counts) for counts in zip(*each, strict=True)])
            for place, each in parts.items()
            if len(each) == self.trial.num_replicas
        ]

    def begin(self, attempt):
        """Starts the next process of the run; its process number."""
        (self.path / "phase").unlink(missing_ok=True)
        return start(self.trial, self.data, self.run, attempt)

    def phase(self):
        path = self.path / "phase"
        return PHASES[path.read_text() or "B"] if path.exists() else PHASES["B"]

    def newest_state(self):
        names = [path.name for path in (self.run / "state").glob("step_*.npz")]
        return max((int(name[5:13]) for name in names), default=0)

    def is_finished(self):
        return (self.run / "model.keras").exists()

    def outcome(self):
        """name -> what must be the same."""
        metrics = json.loads((self.run / "metrics.json").read_text())
        checkpoint = hashlib.sha256((self.run / "checkpoint.npz").read_bytes())
        return {
            "variables": (self.path / "digest").read_text(),
            "history.csv": (self.run / "history.csv").read_bytes(),
            "checkpoint.npz": checkpoint.hexdigest(),
            "metrics.json": {k: v for k, v in metrics.items() if k not in TIMES},
        }


def check_examples(folder, reference):
    """Problems with what was trained: the last time that a step was, is what the run is made of."""
    problems = []
    expected = {step: counts for _, step, counts in reference.noted()}
    steps = {}
    last = {}
    for attempt, step, counts in folder.noted():
        if attempt in last and step != last[attempt] + 1:
            problems.append(f"process {attempt} went from step {last[attempt]} to {step}")
        last[attempt] = step
        steps[step] = counts
        if counts != expected.get(step):
            problems.append(f"step {step} had other examples")
    num_steps = folder.trial.steps
    if sorted(steps) != list(range(num_steps)):
        problems.append(f"the steps were {sorted(steps)}")
    total = [sum(counts) for counts in zip(*expected.values(), strict=True)]
    whole, rest = divmod(num_steps * BATCH, NUM_IMAGES)
    if sorted(total) != [whole] * (NUM_IMAGES - rest) + [whole + 1] * rest:
        problems.append(f"examples were trained so often: {total}")
    return problems


def run_trial(trial, data, path, rng):
    """A `Record`."""
    record = Record()
    reference, killed = (Folder(path / name, trial, data) for name in ("reference", "killed"))
    began = time.monotonic()
    child = reference.begin(0)
    code = None
    while code is None and reference.num_noted() == 0:
        code = wait(child, 0.01)
    start_up = time.monotonic() - began
    code = wait(child) if code is None else code
    if code != 0:
        record.problems.append(f"the uninterrupted run ended with {code}")
        return record
    while len(record.kills) < FLAGS.kills and not killed.is_finished():
        child = killed.begin(len(record.kills) + 1)
        code = wait_for_moment(child, killed, start_up, rng, FLAGS.kills - len(record.kills))
        if code is not None:
            break
        if FLAGS.end == "kill":
            os.kill(child, signal.SIGKILL)
            wait(child)
            steps = [step for _, step, _ in killed.noted()]
            record.kills.append((killed.phase(), steps[-1] if steps else None))
        else:
            number_of_signal = (signal.SIGTERM, signal.SIGINT)[(len(record.kills) + 1) % 2]
            check_stop(child, number_of_signal, killed, record)
        record.num_early += killed.newest_state() == 0
    else:
        # The last one may have come when the files of the run were there.
        is_finished = killed.is_finished()
        code = 0 if is_finished else wait(killed.begin(len(record.kills) + 1))
    if code != 0:
        record.problems.append(f"ended with {code}")
        return record
    received = killed.outcome()
    for name, value in reference.outcome().items():
        if received[name] != value:
            record.problems.append(f"other {name}")
    record.problems += check_examples(killed, reference)
    return record


def wait_for_moment(child, folder, start_up, rng, num_left):
    """Waits until the process is to be killed; its exit code if it ends before, else None."""
    before = folder.num_noted()
    kind = rng.random()
    delay = rng.expovariate(10.0)
    if kind < 0.2:
        end = time.monotonic() + rng.uniform(0.0, start_up)
        is_there = lambda: time.monotonic() > end or folder.num_noted() > before  # noqa: E731
        delay = 0.0
    elif kind < 0.4:
        is_there = lambda: folder.phase() == PHASES["E"]  # noqa: E731
    else:
        remaining = folder.trial.steps - folder.newest_state()
        num_steps = rng.randint(1, max(1, 2 * remaining // (num_left + 1)))
        is_there = lambda: folder.num_noted() >= before + num_steps  # noqa: E731
    code = None
    while code is None and not is_there():
        code = wait(child, 0.01)
    return wait(child, delay) if code is None else code


def check_stop(child, number_of_signal, folder, record):
    """Sends a signal that asks for an orderly end, and notes what was wrong about that."""
    attempt, name, phase = len(record.kills) + 1, number_of_signal.name, folder.phase()
    asked = time.monotonic()
    os.kill(child, number_of_signal)
    code = wait(child, FLAGS.grace)
    seconds = time.monotonic() - asked
    steps = [step + 1 for n, step, _ in folder.noted() if n == attempt]
    done, saved = (steps[-1] if steps else None), folder.newest_state()
    record.kills.append((phase, done))
    record.stops.append((name, phase, done, code, round(seconds, 2), saved))
    print(
        f"  {name} at step {done} ({phase}): exit code {code} in {seconds:.2f} s, state of step "
        f"{saved}",
        flush=True,
    )
    if code is None:
        os.kill(child, signal.SIGKILL)
        wait(child)
        record.problems.append(f"{name} was not followed in {FLAGS.grace:g} s")
        return
    # Before the training has begun, and after it, it is what it is to any process.
    expected = {128 + number_of_signal}
    if not steps or (folder.path / "digest").exists():
        expected |= {-number_of_signal, 0}
    if code not in expected:
        record.problems.append(f"{name} ended with {code}")
    if code != 0 and steps and saved < done - 1:
        record.problems.append(f"the state of step {saved} is older than that of step {done - 1}")


def read_log(settings):
    """number -> the line of each trial that was run with the same settings."""
    if FLAGS.log is None or not os.path.exists(FLAGS.log):
        return {}
    with open(FLAGS.log) as file:
        lines = [json.loads(line) for line in file]
    same = [line for line in lines if {key: line[key] for key in settings} == settings]
    return {line["number"]: line for line in same}


def write_log(line):
    if FLAGS.log is not None:
        with open(FLAGS.log, "a") as file:
            file.write(json.dumps(line) + "\n")


def describe(line):
    kinds = collections.Counter(phase for phase, _ in line["kills"])
    phases = ", ".join(f"{kinds[phase]} {phase}" for phase in PHASES.values() if kinds[phase])
    verdict = "; ".join(line["problems"]) or "equal"
    return (
        f"{line['backend']} trial {line['number']} {line['family']:6s} {line['optimizer']:5s} "
        f"{line['accumulation_steps']} parts, {len(line['kills'])} kills ({phases}; "
        f"{line['num_early']} before the first state), {line['seconds']:.0f} s: {verdict}"
    )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    # Imported once; no operation may run before the children are forked.
    import keras

    import keras_vit.data.pipeline
    import keras_vit.training.run  # noqa: F401

    settings = {
        "backend": keras.backend.backend(),
        "num_kills": FLAGS.kills,
        **{name: FLAGS[name].value for name in ("end", "strategy", "steps", "without")},
    }
    lines = read_log(settings)
    numbers = range(FLAGS.seed, FLAGS.seed + FLAGS.trials)
    root = pathlib.Path(tempfile.mkdtemp(prefix="kill_trials_"))
    try:
        write_images(root / "data")
        # TensorFlow's files of code, which a process that is killed leaves behind.
        (root / "tmp").mkdir()
        tempfile.tempdir = str(root / "tmp")
        for number in numbers:
            if number in lines:
                continue
            trial = Trial(
                number=number, steps=FLAGS.steps, strategy=FLAGS.strategy, without=FLAGS.without
            )
            began = time.monotonic()
            path = root / str(number)
            record = run_trial(trial, root / "data", path, random.Random(number))
            lines[number] = {
                **settings,
                "number": number,
                **{n: getattr(trial, n) for n in ("family", "optimizer", "accumulation_steps")},
                **dataclasses.asdict(record),
                "seconds": round(time.monotonic() - began, 1),
            }
            write_log(lines[number])
            print(describe(lines[number]), flush=True)
            if record.problems and FLAGS.without is None:
                kept = path.rename(tempfile.mkdtemp(dir=root.parent) + "/trial")
                print(f"  kept in {kept}", flush=True)
            else:
                shutil.rmtree(path)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    lines = [lines[number] for number in numbers]
    kinds = collections.Counter(phase for line in lines for phase, _ in line["kills"])
    for phase in PHASES.values():
        print(f"{kinds[phase]:4d} {phase}")
    num_different = sum(bool(line["problems"]) for line in lines)
    print(f"{len(lines)} trials, {kinds.total()} kills, {num_different} differ")
    return 0 if num_different == (FLAGS.trials if FLAGS.without else 0) else 1


if __name__ == "__main__":
    app.run(lambda argv: sys.exit(main(argv)))
