"""`keras-vit evaluate`: accuracy and loss of a model on a split."""

import json

from absl import flags, logging

from keras_vit.cli import evaluation_report, output, training_flags
from keras_vit.cli.errors import UsageError

SUMMARY = "measure a model on a split, each image counted once: accuracy, or what its task has"
USAGE = "keras-vit evaluate --model=SOURCE --dataset=NAME [FLAGS]"


def define_flags(flag_values):
    """Defines the flags of this command."""
    training_flags.define_model(flag_values, required=True)
    flags.DEFINE_string(
        "dataset",
        None,
        "a name of `keras-vit datasets`, another TFDS name, or a folder "
        "{train,validation,test}/<class>/<image>",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_string("split", "test", "name of the split", flag_values=flag_values)
    flags.DEFINE_integer(
        "batch_size",
        64,
        "images in one call of the model; no result depends on it",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "real_labels",
        None,
        "an official real.json, to score imagenet2012's test split by the ReaL labels",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "class_names",
        None,
        "a text file with the names of the model's classes, one a line in the order of its logits",
        flag_values=flag_values,
    )
    training_flags.define_data(flag_values)
    training_flags.define_bad_fraction(flag_values)
    training_flags.define_max_pixels(flag_values)
    training_flags.define_orientation(flag_values)
    flags.DEFINE_string(
        "output", None, "a JSON file to write the metrics to", flag_values=flag_values
    )
    flags.DEFINE_string(
        "report",
        None,
        "a folder for report.json (precision, recall and F1 of each class, calibration error, "
        "confusion matrix) and confusion_matrix.png, which needs Matplotlib",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "overwrite", False, "replace the output if it exists", flag_values=flag_values
    )
    flags.DEFINE_boolean("json", False, "print the metrics as JSON", flag_values=flag_values)


def run(flag_values, arguments):
    """Evaluates, prints the metrics and writes them if asked to."""
    if arguments:
        raise UsageError(f"evaluate takes flags only. Received: {' '.join(arguments)}")
    path = flag_values.output
    if path is not None:
        path = output.check_new_file(path, flag_values.overwrite)
    reports = []
    if flag_values.report is not None:
        if flag_values.real_labels is not None:
            raise UsageError("evaluate takes --report or --real_labels, not both")
        reports = evaluation_report.check(flag_values.report, flag_values.overwrite)

    from keras_vit.zoo.segmentation import find_segmentation

    if find_segmentation(flag_values.model) is not None:
        _evaluate_masks(flag_values, path)
        return
    import keras_vit
    from keras_vit.evaluators.classification import evaluate
    from keras_vit.evaluators.report import make_report

    info = _resolved(flag_values)
    model = training_flags.turn(keras_vit.from_pretrained(flag_values.model), flag_values)
    metrics = {
        "model": flag_values.model,
        "dataset": info.name,
        "split": flag_values.split,
        **evaluate(
            model,
            info,
            flag_values.split,
            flag_values.batch_size,
            real_labels=flag_values.real_labels,
            class_names=_class_names(flag_values.class_names),
        ),
    }
    published = _published(flag_values, info)
    if published is not None:
        metrics["published_accuracy"] = published.accuracy / 100
        metrics["published_source"] = published.accuracy_source
    if path is not None:
        output.write_json(path, metrics)
    if reports:
        report = make_report(
            model,
            info,
            flag_values.split,
            flag_values.batch_size,
            class_names=_class_names(flag_values.class_names),
        )
        reports = evaluation_report.write(reports, report)
    if flag_values.json:
        print(json.dumps(metrics))
        return
    shown = (
        *("accuracy", "top5_accuracy", "mean_average_precision", "f1_micro", "f1_macro"),
        *("mse", "mae", "r2", "loss", "count", "unlabelled", "classes"),
    )
    rows = [
        (
            {"count": "images", "top5_accuracy": "top-5 accuracy"}.get(name, name),
            f"{metrics[name]:.4f}" if isinstance(metrics[name], float) else metrics[name],
        )
        for name in shown
        if name in metrics
    ]
    if published is not None:
        rows.insert(1, ("published", _beside(metrics)))
    if path is not None:
        rows.append(("written to", path))
    rows += [("report", file) for file in reports]
    output.print_summary(f"evaluated {flag_values.model} on {info.name} {flag_values.split}", rows)


def _resolved(flag_values):
    """The data set, without what is bad where that is allowed."""
    from keras_vit.data import integrity, pipeline

    where = {
        "data_dir": flag_values.data_dir,
        "download": flag_values.download,
        "max_pixels": flag_values.max_pixels,
    }

    def splits(info):
        info.num_examples(flag_values.split)  # an unknown split is found before a model is read
        return [flag_values.split]

    fraction = flag_values.max_bad_fraction
    if fraction is None:
        info = pipeline.resolve(flag_values.dataset, **where)
        splits(info)
        return info
    info, skipped = integrity.resolve_without_bad(
        flag_values.dataset, splits=splits, max_bad_fraction=fraction, **where
    )
    for entry in skipped:
        logging.warning("left out: %s", entry)
    return info


def _evaluate_masks(flag_values, path):
    """The same for a segmentation: mean intersection over union and pixel accuracy."""
    for name in ("real_labels", "class_names", "max_bad_fraction"):
        if flag_values[name].present:
            raise UsageError(f"--{name} is not of a segmentation model")
    import keras_vit
    from keras_vit.data.catalog.masks import resolve_masks
    from keras_vit.evaluators.segmentation import evaluate_masks

    info = resolve_masks(
        flag_values.dataset,
        flag_values.data_dir,
        download=flag_values.download,
        max_pixels=flag_values.max_pixels,
    )
    info.num_examples(flag_values.split)
    model = training_flags.turn(keras_vit.from_pretrained(flag_values.model), flag_values)
    found = evaluate_masks(model, info, flag_values.split, flag_values.batch_size)
    about = {"model": flag_values.model, "dataset": info.name, "split": flag_values.split}
    if path is not None:
        output.write_json(path, {**about, **found})
    if flag_values.json:
        print(json.dumps({**about, **found}))
        return
    iou = found.pop("iou")
    rows = [(name.replace("_", " "), value) for name, value in found.items()]
    rows += [(f"IoU of {name}", "-" if value is None else value) for name, value in iou.items()]
    rows = [(name, f"{v:.4f}" if isinstance(v, float) else v) for name, v in rows]
    if path is not None:
        rows.append(("written to", path))
    output.print_summary(f"evaluated {flag_values.model} on {info.name} {flag_values.split}", rows)


def _published(flag_values, info):
    """The catalogue's row of a checkpoint whose accuracy on this very split is published, or None.

    What the catalogue has are accuracies on the test split; that of imagenet2012 is the 50,000
    validation images.
    """
    from keras_vit.checkpoints.catalog.lookup import get_checkpoint, list_checkpoints

    if flag_values.split != "test" or flag_values.real_labels is not None:
        return None
    if flag_values.model not in list_checkpoints():
        return None
    row = get_checkpoint(flag_values.model)
    is_its_own = info.name.partition(":")[0] == row.dataset
    return row if is_its_own and row.accuracy is not None else None


def _beside(metrics):
    published = metrics["published_accuracy"]
    difference = metrics["accuracy"] - published
    return f"{published:.4f}, {difference:+.4f} from it ({metrics['published_source']})"


def _class_names(path):
    """The lines of a file, or None."""
    if path is None:
        return None
    with open(path, encoding="utf-8-sig") as file:
        return [line.strip() for line in file if line.strip()]
