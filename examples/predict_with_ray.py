"""Classifies any number of pictures on the machines of a Ray cluster; goes on after a crash.

    python examples/predict_with_ray.py --model=runs/vit --output=answers photos/
    python examples/predict_with_ray.py --saved_model=serving/vit --output=answers photos/

Needs `pip install 'ray[data]>=2.52'`, and folders that all machines see by the same path.  The list
of pictures is cut into parts.  A worker takes a part and writes `answers/part-00017.jsonl` whole,
under another name first, so that a part that is there is finished: each picture is in the parts
exactly once, however often workers die, and the same command does the parts that are missing.  A
line is `{"path": ..., "predictions": [...], "error": ...}`; a picture that cannot be read has an
`error`.

Ray opens ports between its processes: keep them behind a firewall (see serve_with_ray.py).
"""

import dataclasses
import hashlib
import json
import os
import pathlib

# Nothing is reported to anybody; must be set before Ray is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "What keras_vit.from_pretrained takes.")
flags.DEFINE_string("saved_model", None, "Folder of an export, in the place of a model.")
flags.DEFINE_string("output", None, "Folder of the parts; new, or of this command.", required=True)
flags.DEFINE_integer("part_size", 256, "Pictures in a part.", lower_bound=1)
flags.DEFINE_integer("batch_size", 32, "Pictures that go through the model together.", 1)
flags.DEFINE_integer("top_k", 5, "Classes in an answer.", lower_bound=1)
flags.DEFINE_integer("workers", 2, "Processes that have the model.", lower_bound=1)
flags.DEFINE_float("cpus", 1, "CPUs of a worker.")
flags.DEFINE_float("gpus", 0, "GPUs of a worker.")
flags.mark_flags_as_mutual_exclusive(["model", "saved_model"], required=True)

JOB = "job.json"
ATTEMPTS = 10  # a part whose worker dies so often is given up


def part_name(index):
    return f"part-{index:05d}.jsonl"


class Classifier:
    """A worker: takes parts, dicts of `index` and `paths`, and writes their answers."""

    def __init__(self, settings):
        import keras_vit
        from keras_vit.inference.predict import KerasClassifier, SavedModelClassifier

        self._settings = settings
        if settings["saved_model"]:
            self._classifier = SavedModelClassifier(settings["saved_model"])
        else:
            self._classifier = KerasClassifier(keras_vit.from_pretrained(settings["model"]))
        # Another model of the same name must not go on where this one stopped.
        if self._classifier.digest() != settings["digest"]:
            raise ValueError("the model is another one than when the job began")

    def __call__(self, batch):
        from keras_vit.files import write_whole
        from keras_vit.inference.predict import predict

        done = []
        for index, paths in zip(batch["index"], batch["paths"], strict=True):
            answers = predict(
                self._classifier,
                json.loads(paths),
                batch_size=self._settings["batch_size"],
                top_k=self._settings["top_k"],
            )
            lines = [json.dumps(dataclasses.asdict(answer)) + "\n" for answer in answers]
            path = pathlib.Path(self._settings["output"], part_name(index))
            write_whole(path, "".join(lines))
            done.append(sum('"error": null' not in line for line in lines))
        return {"index": batch["index"], "unreadable": done}


def prepare(paths, settings):
    """Lists the pictures, and makes the folder or checks that it is that of the same job.

    Returns:
        A list of parts, each a list of paths.
    """
    from keras_vit.inference.predict import find_images

    files, failures = find_images(paths)
    for failure in failures:
        print(f"error: {failure.path}: {failure.error}")
    files = [os.fspath(file.absolute()) for file in files]
    size = settings["part_size"]
    listed = hashlib.sha256("\0".join(files).encode("utf-8", "surrogateescape")).hexdigest()
    job = {**settings, "pictures": len(files), "listed": listed}
    folder = pathlib.Path(settings["output"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / JOB
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        differences = [key for key in job if before.get(key) != job[key]]
        if differences:
            raise SystemExit(
                f"{folder} is of another job: {', '.join(differences)} differ; name another folder"
            )
    elif any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty, and not of this command; name another folder")
    else:
        path.write_text(json.dumps(job, indent=2), encoding="utf-8")
    return [files[start : start + size] for start in range(0, len(files), size)]


def digest(settings):
    """That of the model, as the workers must find it."""
    import keras_vit
    from keras_vit.inference.predict import KerasClassifier, SavedModelClassifier

    if settings["saved_model"]:
        return SavedModelClassifier(settings["saved_model"]).digest()
    return KerasClassifier(keras_vit.from_pretrained(settings["model"])).digest()


def main(arguments):
    names = ("model", "saved_model", "output", "part_size", "batch_size", "top_k")
    settings = {name: FLAGS[name].value for name in names}
    settings["output"] = os.path.abspath(settings["output"])
    settings["digest"] = digest(settings)
    parts = prepare(arguments[1:], settings)
    folder = pathlib.Path(settings["output"])
    missing = [
        {"index": index, "paths": json.dumps(paths)}
        for index, paths in enumerate(parts)
        if not (folder / part_name(index)).is_file()
    ]
    print(f"{len(parts)} parts of at most {FLAGS.part_size} pictures, {len(missing)} to do")
    if missing:
        import ray

        ray.init(log_to_driver=False, include_dashboard=False)
        rows = (
            ray.data.from_items(missing, override_num_blocks=len(missing))
            .map_batches(
                Classifier,
                fn_constructor_args=(settings,),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=FLAGS.workers),
                num_cpus=FLAGS.cpus,
                num_gpus=FLAGS.gpus,
                max_restarts=ATTEMPTS,
                max_task_retries=ATTEMPTS,
            )
            .iter_rows()
        )
        done = len(parts) - len(missing)
        for row in rows:
            done += 1
            print(f"{done} of {len(parts)} parts, {row['unreadable']} unreadable in this one")
    lost = [index for index in range(len(parts)) if not (folder / part_name(index)).is_file()]
    if lost:
        raise SystemExit(f"{len(lost)} parts are missing; run the same command again")


if __name__ == "__main__":
    app.run(main)
