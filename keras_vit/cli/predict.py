"""`keras-vit predict`: class probabilities of image files."""

import dataclasses
import json
import os
import sys

from absl import flags

from keras_vit.cli import errors, output, prediction_file, streams, training_flags
from keras_vit.cli.errors import UsageError
from keras_vit.data.tasks import REGRESSION
from keras_vit.untrusted import printable

SUMMARY = "name the classes of image files, with probabilities"
_MAX_PATH = 4_096
USAGE = "keras-vit predict (--model=SOURCE | --saved_model=DIR) [FLAGS] PATH..."


def define_flags(flag_values):
    """Defines the flags of this command."""
    training_flags.define_model(flag_values)
    flags.DEFINE_string(
        "saved_model",
        None,
        "what `keras-vit export` wrote: the folder of a version, or that of the versions, of which "
        "the highest is taken",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "top_k",
        None,
        "classes to name for each image, 5 by default; of a model of several labels all that reach "
        "their thresholds",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "activation",
        None,
        ["softmax", "sigmoid", "none"],
        "makes probabilities of the model's scores; softmax where the model does not say, and for "
        "a model of one output none, the score itself",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "batch_size", 8, "images at a time", lower_bound=1, flag_values=flag_values
    )
    training_flags.define_max_pixels(flag_values)
    training_flags.define_orientation(flag_values)
    flags.DEFINE_boolean(
        "json",
        False,
        "print one JSON object a line: path, predictions (class_id, class_name, probability, or of "
        "a regression name, value), and error",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "write to this file instead, .csv or .jsonl; of a segmentation model the folder of the "
        "masks; an interrupted command goes on where it stopped",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "overlay",
        False,
        "of a segmentation model: write NAME_overlay.png beside each mask",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "overwrite",
        False,
        "replace the output if it exists, and begin anew if it is unfinished",
        flag_values=flag_values,
    )


def run(flag_values, arguments):
    """Predicts every image that can be read; returns 1 if one could not."""
    if (flag_values.model is None) == (flag_values.saved_model is None):
        raise UsageError("predict needs either --model or --saved_model")
    if not arguments:
        raise UsageError(
            "predict needs paths of image files or folders, or - for a list of paths on stdin"
        )
    segmentation = _find_segmentation(flag_values)
    if segmentation is not None:
        return _write_masks(flag_values, segmentation, _expand_stdin(arguments))
    if flag_values.overlay:
        raise UsageError("--overlay is of a segmentation model")
    path = flag_values.output
    if path is not None:
        path = prediction_file.check_output(path, flag_values.overwrite)
    paths = _expand_stdin(arguments)

    from keras_vit.inference import predict

    files, failures, num_others = predict.find_all(paths)
    if path is None:
        classifier = _load(flag_values) if files else None
        activation = flag_values.activation
        if classifier is not None:
            activation = predict.choose_activation(classifier, activation)
        num_errors = 0
        for answer in _answers(classifier, flag_values, files, failures):
            _report(answer, flag_values, activation == "none")
            num_errors += answer.error is not None
        if num_others:
            streams.say(f"{num_others} other files are no images by their ending or first bytes")
        return errors.FAILURE if num_errors else errors.SUCCESS
    return _write(flag_values, path, files, failures, num_others)


def _find_segmentation(flag_values):
    """A function that opens the model, if it is a segmentation model, else None."""
    if flag_values.saved_model is not None:
        from keras_vit.inference.masks import saved_segmentation

        found = saved_segmentation(flag_values.saved_model)
        return None if found is None else lambda: found
    if not (os.path.isdir(flag_values.model) or flag_values.model.endswith(".keras")):
        return None  # a name, or a file of another kind: nothing heavy is imported yet
    from keras_vit.zoo.segmentation import find_segmentation, load_segmentation

    path = find_segmentation(flag_values.model)
    return path and (lambda: training_flags.turn(load_segmentation(path), flag_values))


def _write_masks(flag_values, load, paths):
    """Writes the masks of images; returns the exit code."""
    for name in ("top_k", "activation"):
        if flag_values[name].present:
            raise UsageError(f"--{name} is not of a segmentation model")
    if flag_values.output is None:
        raise UsageError("predict needs --output=FOLDER for the masks of a segmentation model")
    folder = output.check_output_path(flag_values.output)
    output.check_writable_folder(folder)

    from keras_vit.inference.masks import write_masks

    answers = write_masks(
        load(),
        paths,
        folder,
        overlays=flag_values.overlay,
        overwrite=flag_values.overwrite,
        batch_size=flag_values.batch_size,
        max_pixels=flag_values.max_pixels,
    )
    num_masks = num_errors = 0
    for answer in answers:
        num_masks += answer.error is None
        num_errors += answer.error is not None
        if flag_values.json:
            _print(json.dumps(dataclasses.asdict(answer)))
        _report_error(answer)
    if not flag_values.json:
        rows = [("masks", num_masks), ("unreadable", num_errors), ("written to", folder)]
        output.print_summary("predicted masks", rows)
    return errors.FAILURE if num_errors else errors.SUCCESS


def _answers(classifier, flag_values, files, failures):
    """Yields an `ImagePredictions` for each path; the classifier is None where no file is."""
    yield from failures
    if not files:
        return

    from keras_vit.inference import predict

    answers = predict.predict(
        classifier,
        files,
        batch_size=flag_values.batch_size,
        top_k=flag_values.top_k,
        activation=flag_values.activation,
    )
    yield from _with_progress(answers, len(files))


def _write(flag_values, path, files, failures, num_others):
    """Writes the answers that are not there yet; returns the exit code."""
    from keras_vit.inference import predict

    classifier = _load(flag_values)
    top_k = min(predict.choose_top_k(classifier, flag_values.top_k), classifier.num_classes)
    activation = predict.choose_activation(classifier, flag_values.activation)
    settings = {
        "model": str(getattr(classifier, "folder", flag_values.model)),
        "model_sha256": classifier.digest(),
        "top_k": top_k,
        "activation": activation,
    }
    kind = predict.Value if classifier.task.kind == REGRESSION else predict.Prediction
    columns = [field.name for field in dataclasses.fields(kind)]
    file = prediction_file.PredictionFile(path, settings, top_k, flag_values.overwrite, columns)
    num_before = file.num_done
    try:
        files = [name for name in files if not file.has(name)]
        failures = [failure for failure in failures if not file.has(failure.path)]
        for answer in _answers(classifier, flag_values, files, failures):
            file.write(answer)
            _report_error(answer)
        file.finish()
    finally:
        file.close()
    rows = [("answers", file.num_done), ("unreadable", file.num_errors), ("written to", path)]
    if num_others:
        rows.insert(2, ("other files", num_others))
    if num_before:
        rows.insert(0, ("from before", num_before))
    output.print_summary(f"predicted with {settings['model']}", rows)
    return errors.FAILURE if file.num_errors else errors.SUCCESS


def _expand_stdin(arguments):
    paths = []
    for argument in arguments:
        if argument == "-":
            lines = sys.stdin.buffer.read().splitlines() if sys.stdin else []
            paths += [os.fsdecode(line) for line in lines if line.strip()]
        else:
            paths.append(argument)
    return paths


def _load(flag_values):
    from keras_vit.inference import predict

    if flag_values.saved_model is not None:
        for name in ("max_pixels", "orientation"):
            if flag_values[name].present:
                raise UsageError(
                    f"--{name} of a SavedModel is chosen when it is exported. Received: "
                    f"--{name}={flag_values[name].value}"
                )
        return predict.SavedModelClassifier(flag_values.saved_model)

    import keras_vit

    model = training_flags.turn(keras_vit.from_pretrained(flag_values.model), flag_values)
    return predict.KerasClassifier(model, max_pixels=flag_values.max_pixels)


def _with_progress(answers, total):
    if total == 1 or not sys.stderr.isatty():
        return answers

    import tqdm

    return tqdm.tqdm(answers, total=total, unit="image", file=sys.stderr, leave=False)


def _report(answer, flag_values, are_scores):
    if flag_values.json:
        _print(json.dumps(dataclasses.asdict(answer)))
    elif answer.error is None:
        lines = [_line(prediction, are_scores) for prediction in answer.predictions]
        lines = lines or ["  no label reaches its threshold"]
        _print("\n".join([printable(answer.path, _MAX_PATH), *lines]))
    _report_error(answer)


def _report_error(answer):
    if answer.error is not None:
        streams.say(f"error: {answer.path}: {answer.error}")


def _line(prediction, is_score):
    *_, name, number = dataclasses.astuple(prediction)
    return f"  {_number(number, is_score)}  {printable(name)}"


def _number(value, is_score):
    return f"{value:10.6g}" if is_score else f"{100 * value:6.2f} %"


def _print(text):
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(text, file=sys.stdout)
    else:
        print(text)
