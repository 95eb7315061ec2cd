"""What TensorFlow Serving reads beside a model: requests to warm up with, and how to batch.

The requests are official protos of the package tensorflow-serving-api, which is only needed here.
"""

import contextlib
import importlib.util
import os
import pathlib

import tensorflow as tf

REQUESTS = pathlib.Path("assets.extra", "tf_serving_warmup_requests")
BATCHING = "batching_parameters.txt"
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def check_installed():
    """Raises ImportError if tensorflow-serving-api is not there."""
    if importlib.util.find_spec("tensorflow_serving") is None:
        raise ImportError(
            "warm-up requests are official protos of tensorflow-serving-api, which is not "
            "installed; `pip install 'keras-vision-transformer[serve]'`"
        )


def write_requests(folder, image_size, description):
    """Writes one request for each signature and each batch size that a batching server makes.

    Args:
        folder: of the SavedModel.
        image_size: (height, width) of the model's input.
        description: what `assets/model.json` says: `signatures`, `name` and `max_batch_size`.
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    height, width = image_size
    image = tf.io.encode_jpeg(tf.fill((height, width, 3), tf.constant(127, tf.uint8)))
    path = pathlib.Path(folder, REQUESTS)
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name in description["signatures"]:
            for size in BATCH_SIZES:
                if size > description["max_batch_size"]:
                    continue
                argument, value = {
                    "images": ("images", tf.zeros((size, height, width, 3), tf.uint8)),
                    "tensors": ("tensors", tf.zeros((size, height, width, 3))),
                }.get(name, ("image_bytes", tf.repeat(image[tf.newaxis], size)))
                request = predict_pb2.PredictRequest()
                request.model_spec.name = description["name"]
                request.model_spec.signature_name = name
                request.inputs[argument].CopyFrom(tf.make_tensor_proto(value))
                log = prediction_log_pb2.PredictionLog(
                    predict_log=prediction_log_pb2.PredictLog(request=request)
                )
                writer.write(log.SerializeToString())


def batching_parameters(max_batch_size):
    """The text of TensorFlow Serving's `--batching_parameters_file`.

    A queue that is full refuses at once, rather than let every request wait.  Batches are padded to
    a few sizes, so that the model is compiled for these and no others.

    Args:
        max_batch_size: the largest number of images in a request.
    """
    sizes = [size for size in BATCH_SIZES if size < max_batch_size]
    sizes.append(min(max_batch_size, BATCH_SIZES[-1]))
    sizes = sorted(set(sizes))
    lines = [
        f"max_batch_size {{ value: {sizes[-1]} }}",
        "batch_timeout_micros { value: 2000 }",
        "max_enqueued_batches { value: 100 }",
        f"num_batch_threads {{ value: {os.cpu_count()} }}",
        *(f"allowed_batch_sizes: {size}" for size in sizes),
    ]
    return "\n".join(lines) + "\n"


def write_batching_parameters(directory, max_batch_size):
    """Writes them beside the versions, unless there are some that somebody may have tuned."""
    path = pathlib.Path(directory, BATCHING)
    with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
        file.write(batching_parameters(max_batch_size))
