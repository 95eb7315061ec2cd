"""Asks a server about photographs, over REST or gRPC: TensorFlow Serving, or one like it.

    python examples/serving_client.py --rest=http://127.0.0.1:8501 photo.jpg other.png
    python examples/serving_client.py --grpc=127.0.0.1:8500 photo.jpg

The model is one that `keras-vit export` wrote.  REST needs nothing but Python; gRPC needs
`pip install tensorflow-serving-api`, which has the official protos.  Prints one JSON object an
image: the best classes with their probabilities, or an error.
"""

import base64
import json
import pathlib
import urllib.error
import urllib.request

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("rest", None, "Address of the REST server.")
flags.DEFINE_string("grpc", None, "host:port of the gRPC server.")
flags.DEFINE_string("name", "vit", "What the server calls the model.")
flags.DEFINE_float("timeout_seconds", 30, "How long to wait for an answer.")


class Refused(Exception):
    """What the server says about a request that it does not take."""


def ask_rest(server, name, images, timeout):
    """A list of images' bytes -> a list of dicts of outputs.

    Raises:
        Refused: with the server's reason.
    """
    instances = [{"image_bytes": {"b64": base64.b64encode(image).decode()}} for image in images]
    request = urllib.request.Request(
        f"{server.rstrip('/')}/v1/models/{name}:predict",
        json.dumps({"signature_name": "serving_default", "instances": instances}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)["predictions"]
    except urllib.error.HTTPError as error:
        with error:
            raise Refused(f"{error.code}: {error.read().decode(errors='replace')}") from None


def ask_grpc(server, name, images, timeout):
    """As `ask_rest`, with the official protos."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = "serving_default"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images, tf.string))
    limit = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server, limit) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            response = stub.Predict(request, timeout)
        except grpc.RpcError as error:
            raise Refused(f"{error.code().name}: {error.details()}") from None
    outputs = {key: tf.make_ndarray(value) for key, value in response.outputs.items()}
    return [{key: _plain(values[i]) for key, values in outputs.items()} for i in range(len(images))]


def _plain(value):
    if isinstance(value, bytes):
        return value.decode()
    return [_plain(v) for v in value] if value.dtype == object else value.tolist()


def main(argv):
    paths = argv[1:]
    if not paths or (FLAGS.rest is None) == (FLAGS.grpc is None):
        raise app.UsageError("name image files, and one of --rest and --grpc")
    ask, server = (ask_rest, FLAGS.rest) if FLAGS.rest else (ask_grpc, FLAGS.grpc)
    images = [pathlib.Path(path).read_bytes() for path in paths]
    try:
        answers = ask(server, FLAGS.name, images, FLAGS.timeout_seconds)
    except Refused as error:
        print(json.dumps({"error": str(error)}))
        return 1
    for path, answer in zip(paths, answers, strict=True):
        best = zip(answer["classes"], answer["probabilities"], strict=True)
        print(
            json.dumps(
                {
                    "path": path,
                    "error": answer.get("error", ""),
                    "classes": [] if answer.get("error") else [list(pair) for pair in best],
                }
            )
        )
    return int(any(answer.get("error") for answer in answers))


if __name__ == "__main__":
    app.run(main)
