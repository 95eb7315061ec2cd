"""The builders of TFDS by name: found, prepared, their files checked."""

import contextlib
import difflib
import importlib
import io
import os
import pathlib
import sys

import numpy as np
from absl import logging

from keras_vit.data.catalog import names, tfrecord_check


def image_and_label(builder, name):
    """The names of the image and of the label among a TFDS builder's features."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    is_dict = isinstance(features, tfds.features.FeaturesDict)
    features = dict(features.items()) if is_dict else {}
    keys = builder.info.supervised_keys or ()
    if len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        keys = tuple(
            next((key for key, feature in features.items() if isinstance(feature, kind)), None)
            for kind in (tfds.features.Image, tfds.features.ClassLabel)
        )
    image, label = (features.get(key) if key else None for key in keys)
    if (
        not isinstance(image, tfds.features.Image)
        or image.np_dtype != np.uint8
        or not isinstance(label, tfds.features.ClassLabel)
    ):
        raise ValueError(
            "A data set for classification must have a uint8 image and a class label. "
            f"Received: {name!r} with {features}"
        )
    return keys


def _unknown_name(name, known, data_dir):
    prepared = []
    with contextlib.suppress(OSError):
        prepared = [entry.name for entry in os.scandir(data_dir) if entry.is_dir()]
    candidates = sorted({*known, *prepared, *names.list_datasets()})
    close = difflib.get_close_matches(name, candidates, n=5)
    close = close or difflib.get_close_matches(name.split("/")[0], candidates, n=5)
    return ValueError(
        "`dataset` must be the name of a TFDS data set or the path of a folder with "
        f"{{train,validation,test}}/<class>/<image>. Received: {name!r}; "
        + (
            f"close names: {', '.join(close)}"
            if close
            else "no known name is close to it; `digits/all` is always there"
        )
    )


def _manual_files(builder):
    """What the user of a data set that cannot be downloaded has to do."""
    if not (instructions := builder.MANUAL_DOWNLOAD_INSTRUCTIONS):
        return ""
    folder = os.path.join(builder._data_dir_root, "downloads", "manual")
    return f" TFDS cannot download it: its files belong into {folder}. " + " ".join(
        instructions.split()
    )


def _prepare(builder, name, download):
    """Prepares a TFDS data set; the embedded one at once, another one if the user asked for it."""
    import tensorflow_datasets as tfds

    # Nothing is downloaded for it.
    embedded = builder.name == "digits" or getattr(builder, "is_local", False)
    if not embedded and not download:
        raise ValueError(
            "A data set must be prepared before it is read, and nothing is downloaded without "
            f"being asked. Received: {name!r}, not found in {builder.data_dir}; pass "
            "`download=True` (on the command line `--download`) or another `data_dir`."
            + _manual_files(builder)
        )
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with contextlib.ExitStack() as stack:
        # TFDS prints to stdout, which belongs to the command's results.
        quiet = io.StringIO()
        stack.enter_context(contextlib.redirect_stdout(quiet if embedded else sys.stderr))
        if embedded:
            stack.enter_context(contextlib.redirect_stderr(quiet))
        try:
            builder.download_and_prepare(download_config=config)
        except AssertionError as error:
            # So TFDS says that files of a data set that is not downloaded are missing.
            if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
                raise
            raise ValueError(
                f"A data set's files must be there to prepare it. Received: {name!r}: "
                + str(error).partition("\n")[0].rstrip(":.")
                + f".{_manual_files(builder)}"
            ) from error
        except OSError:
            # Another process may have come first with the same folder.
            if not builder.is_prepared():
                raise


def _tfds_builder(name, data_dir, known):
    """The TFDS builder of a name, of the version that it asks for or else of the nearest one."""
    import tensorflow_datasets as tfds

    base = base_name(name)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except AssertionError as error:
        # Neither the code nor the folder has that version.
        nearest = tfds.builder(name.split(":")[0], data_dir=data_dir)
        if name.rpartition(":")[2].endswith(".*"):  # a row of our table
            logging.warning(
                "%s is not there and TFDS cannot make it; %s is read, whose examples may differ "
                "from those of published results",
                name,
                nearest.info.full_name,
            )
            return nearest
        raise ValueError(
            f"`dataset` must name a version that TFDS knows, such as {nearest.info.full_name}. "
            f"Received: {name!r}"
        ) from error
    except (ValueError, tfds.core.DatasetNotFoundError) as error:
        configs = sorted(tfds.builder_cls(base).builder_configs) if base in known else []
        raise ValueError(
            f"`dataset` must name a configuration of {base!r}"
            + (f", one of {configs}" if configs else "")
            + f". Received: {name!r}"
        ) from error


def base_name(name):
    """Of "name/configuration:version" the name."""
    return name.split("/")[0].split(":")[0]


def known_builders(base):
    """The names of TFDS's builders and, if `base` is one, of ours."""
    import tensorflow_datasets as tfds

    for module in names.builder_modules(base):
        importlib.import_module(module)  # registers it
    return tfds.list_builders(with_community_datasets=False)


def prepared_builder(name, data_dir, download, asked_for=None):
    """The TFDS builder of a name, its files checked; errors are those of `resolve`."""
    import tensorflow_datasets as tfds

    known = known_builders(base := base_name(name))
    data_dir = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
    if base not in known and not pathlib.Path(data_dir, base).is_dir():
        raise _unknown_name(name, known, data_dir)
    builder = _tfds_builder(name, data_dir, known)
    if not builder.info.splits:  # not `is_prepared`, which logs a warning
        _prepare(builder, asked_for or name, download)
        builder = _tfds_builder(name, data_dir, known)
    tfrecord_check.check_files(builder)
    return builder
