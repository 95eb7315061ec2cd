"""`keras-vit probe`: how good a model's frozen features are for a data set."""

import json

from absl import flags

from keras_vit.cli import output, training_flags
from keras_vit.cli.errors import UsageError

SUMMARY = "measure a model's frozen features: few-shot, nearest neighbours or a linear classifier"
USAGE = "keras-vit probe MODEL --dataset=NAME --method=fewshot|knn|linear [FLAGS]"

METHODS = ("fewshot", "knn", "linear")
# flag -> the methods that take it
_METHOD_FLAGS = {
    "shots": ("fewshot",),
    "seeds": ("fewshot",),
    "l2_reg": ("fewshot",),
    "allow_fewer": ("fewshot",),
    "neighbours": ("knn",),
    "protocol": ("linear",),
    "learning_rates": ("linear",),
    "epochs": ("linear",),
    "steps": ("linear",),
    "probe_batch_size": ("linear",),
    "augmentation": ("linear",),
    "validation_split": ("linear",),
}


def define_flags(flag_values):
    """Defines the flags of this command."""
    flags.DEFINE_string(
        "dataset",
        None,
        "a name of `keras-vit datasets`, another TFDS name, or a folder "
        "{train,validation,test}/<class>/<image>",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_enum("method", "fewshot", METHODS, "what is measured", flag_values=flag_values)
    flags.DEFINE_list(
        "shots", ["1", "5", "10", "25"], "fewshot: images of a class", flag_values=flag_values
    )
    flags.DEFINE_list(
        "seeds", ["0", "1", "2"], "fewshot: seeds of the chosen images", flag_values=flag_values
    )
    flags.DEFINE_string(
        "l2_reg",
        "1024",
        "fewshot: lambda, or grid for the older rule, which chooses it on the test images",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "allow_fewer",
        False,
        "fewshot: take all images of a class that has fewer than the shots",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "neighbours", ["10", "20", "100", "200"], "knn: k, or several", flag_values=flag_values
    )
    flags.DEFINE_string(
        "protocol", "dinov2", "linear: dino, mae or dinov2", flag_values=flag_values
    )
    flags.DEFINE_list(
        "learning_rates",
        None,
        "linear: rates for a batch of 256, trained at once, instead of the protocol's",
        flag_values=flag_values,
    )
    for name, meaning in (
        ("epochs", "epochs"),
        ("steps", "updates"),
        ("probe_batch_size", "images in an update"),
    ):
        flags.DEFINE_integer(
            name,
            None,
            f"linear: {meaning}, instead of the protocol's",
            lower_bound=1,
            flag_values=flag_values,
        )
    flags.DEFINE_string(
        "augmentation",
        None,
        "linear: train on augmented images, such as crop_flip, whose features are computed in "
        "every epoch",
        flag_values=flag_values,
    )
    flags.DEFINE_string("train_split", "train", "the split to learn from", flag_values=flag_values)
    flags.DEFINE_string(
        "validation_split",
        "validation",
        "linear: the split that chooses between several rates",
        flag_values=flag_values,
    )
    flags.DEFINE_string("test_split", "test", "the split that is scored", flag_values=flag_values)
    flags.DEFINE_string(
        "representation",
        None,
        "which features: pre_logits, output, class_token, patch_mean, class_token_and_patch_mean "
        "or class_token_of_last_4 (default: pre_logits)",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "preprocessing",
        None,
        "how test and training images are prepared: model, big_vision or dino (default: "
        "big_vision for fewshot, model for the others)",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "batch_size", 64, "images in one call of the model", lower_bound=1, flag_values=flag_values
    )
    flags.DEFINE_enum(
        "feature_dtype",
        "float32",
        ["float32", "float16"],
        "precision in which features are kept",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "cache_dir",
        None,
        "the folder that features are kept in (default: `features` in KERAS_VIT_HOME)",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean("cache", True, "keep the features", flag_values=flag_values)
    training_flags.define_data(flag_values)
    training_flags.define_max_pixels(flag_values)
    flags.DEFINE_string(
        "output", None, "a JSON file to write the numbers to", flag_values=flag_values
    )
    flags.DEFINE_boolean(
        "overwrite", False, "replace the output if it exists", flag_values=flag_values
    )
    flags.DEFINE_boolean("json", False, "print the numbers as JSON", flag_values=flag_values)


def run(flag_values, arguments):
    """Computes the features or reads them, prints the numbers and writes them if asked to."""
    if len(arguments) != 1:
        raise UsageError(
            f"probe takes one model. Received: {' '.join(arguments) or 'none'}; see "
            "`keras-vit probe --help`"
        )
    (source,) = arguments
    for name, methods in _METHOD_FLAGS.items():
        if flag_values[name].present and flag_values.method not in methods:
            raise UsageError(
                f"--{name} is of --method={methods[0]}. Received: --method={flag_values.method}"
            )
    keywords = _method_arguments(flag_values)
    path = flag_values.output
    if path is not None:
        path = output.check_new_file(path, flag_values.overwrite)

    import keras_vit
    from keras_vit.checkpoints.download.urls import cache_folder
    from keras_vit.data import pipeline
    from keras_vit.evaluators import fewshot, knn, linear_probe

    evaluators = {
        "fewshot": fewshot.FewShot,
        "knn": knn.KNN,
        "linear": linear_probe.LinearProbe,
    }
    cache_dir = flag_values.cache_dir or cache_folder() / "features"
    size_name = "feature_batch_size" if flag_values.method == "linear" else "batch_size"
    dataset = flag_values.dataset
    if flag_values.max_pixels is not None:
        dataset = pipeline.resolve(
            dataset,
            flag_values.data_dir,
            download=flag_values.download,
            max_pixels=flag_values.max_pixels,
        )
    evaluator = evaluators[flag_values.method](
        dataset,
        train_split=flag_values.train_split,
        test_split=flag_values.test_split,
        data_dir=flag_values.data_dir,
        download=flag_values.download,
        dtype=flag_values.feature_dtype,
        cache_dir=cache_dir if flag_values.cache else None,
        progress=True,
        **{size_name: flag_values.batch_size},
        **keywords,
    )
    info = evaluator.data.info
    for split in (flag_values.train_split, flag_values.test_split):
        info.num_examples(split)  # an unknown split is found before a large model is read
    model = keras_vit.from_pretrained(source)
    metrics = evaluator.run(model)
    result = {
        "model": source,
        "dataset": info.name,
        "method": flag_values.method,
        "train_split": flag_values.train_split,
        "test_split": flag_values.test_split,
        **metrics,
    }
    if path is not None:
        output.write_json(path, result)
    if flag_values.json:
        print(json.dumps(result))
        return
    rows = [(name, f"{value:.4g}" if _is_setting(name) else f"{value:.4f}")
            for name, value in metrics.items()]  # fmt: skip
    if path is not None:
        rows.append(("written to", path))
    output.print_summary(
        f"{flag_values.method} of {source} on {info.name} {flag_values.test_split}", rows
    )


def _is_setting(name):
    return name.endswith(("learning_rate", "l2_reg"))


def _method_arguments(flag_values):
    """The keyword arguments of the method's evaluator, from its own flags."""
    shared = {
        name: flag_values[name].value
        for name in ("representation", "preprocessing")
        if flag_values[name].value is not None
    }
    if flag_values.method == "fewshot":
        l2_reg = flag_values.l2_reg
        return shared | {
            "shots": _numbers(flag_values, "shots", int),
            "seeds": _numbers(flag_values, "seeds", int),
            "l2_reg": l2_reg if l2_reg == "grid" else _number("l2_reg", l2_reg, float),
            "allow_fewer": flag_values.allow_fewer,
        }
    if flag_values.method == "knn":
        return shared | {"k": _numbers(flag_values, "neighbours", int)}
    return shared | {
        "protocol": flag_values.protocol,
        "learning_rates": _numbers(flag_values, "learning_rates", float),
        "epochs": flag_values.epochs,
        "steps": flag_values.steps,
        "batch_size": flag_values.probe_batch_size,
        "augmentation": flag_values.augmentation,
        "validation_split": flag_values.validation_split,
    }


def _numbers(flag_values, name, kind):
    texts = flag_values[name].value
    return None if texts is None else tuple(_number(name, text, kind) for text in texts)


def _number(name, text, kind):
    try:
        return kind(text)
    except ValueError as error:
        wanted = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"--{name} takes {wanted}. Received: {text!r}") from error
