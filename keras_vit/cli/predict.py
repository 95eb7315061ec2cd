"""`keras-vit predict`: class probabilities of image files."""

import dataclasses
import json
import os
import sys

from absl import flags

from keras_vit.cli import errors, streams
from keras_vit.cli.errors import UsageError

SUMMARY = "name the classes of image files, with probabilities"
USAGE = "keras-vit predict (--model=SOURCE | --saved_model=DIR) [FLAGS] PATH..."


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_string(
        "model",
        None,
        "a .keras file, an official checkpoint, the folder of a training run, or a name of "
        "`keras-vit models --checkpoints`",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "saved_model",
        None,
        "what `keras-vit export` wrote: the folder of a version, or that of the versions, of which "
        "the highest is taken",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "top_k", 5, "classes to name for each image", lower_bound=1, flag_values=flag_values
    )
    flags.DEFINE_enum(
        "activation",
        None,
        ["softmax", "sigmoid"],
        "makes probabilities of the model's scores; softmax where the model does not say",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "batch_size", 8, "images at a time", lower_bound=1, flag_values=flag_values
    )
    flags.DEFINE_boolean(
        "json",
        False,
        "print one JSON object a line: path, predictions (class_id, class_name, probability), and "
        "error",
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
    paths = _expand_stdin(arguments)

    from keras_vit.serving import predict

    files, failures = predict.find_images(paths)
    for failure in failures:
        _report(failure, flag_values.json)
    if files:
        classifier = _load(flag_values)
        answers = predict.predict(
            classifier,
            files,
            batch_size=flag_values.batch_size,
            top_k=flag_values.top_k,
            activation=flag_values.activation,
        )
        for answer in _with_progress(answers, len(files)):
            _report(answer, flag_values.json)
            if answer.error is not None:
                failures.append(answer)
    return errors.FAILURE if failures else errors.SUCCESS


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
    from keras_vit.serving import predict

    if flag_values.saved_model is not None:
        return predict.SavedModelClassifier(flag_values.saved_model)

    import keras_vit

    return predict.KerasClassifier(keras_vit.from_pretrained(flag_values.model))


def _with_progress(answers, total):
    if total == 1 or not sys.stderr.isatty():
        return answers

    import tqdm

    return tqdm.tqdm(answers, total=total, unit="image", file=sys.stderr, leave=False)


def _report(answer, as_json):
    if as_json:
        _print(json.dumps(dataclasses.asdict(answer)))
    elif answer.error is None:
        lines = [
            f"  {100 * prediction.probability:6.2f} %  {prediction.class_name}"
            for prediction in answer.predictions
        ]
        _print("\n".join([answer.path, *lines]))
    if answer.error is not None:
        streams.say(f"error: {answer.path}: {answer.error}")


def _print(text):
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(text, file=sys.stdout)
    else:
        print(text)
