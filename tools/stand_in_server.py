"""A stand-in for TensorFlow Serving, for tests: it is not TensorFlow Serving.

    python tools/stand_in_server.py --saved_model=serving/vit/1 --rest_port=8501 --grpc_port=8500

It answers as much of the real server's protocols as the clients and tests here use, in Python: REST
`GET /v1/models/NAME` and `POST /v1/models/NAME:predict`, and gRPC `PredictionService.Predict` over
the official protos (needs tensorflow-serving-api).  No batching, no versions, no security; on
127.0.0.1 only.  A port of 0 takes a free one, and prints which.
"""

import base64
import http.server
import json
import os
import socket
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import app, flags

# As where TensorFlow is installed alone.
sys.modules["keras"] = None
import tensorflow as tf  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string("saved_model", None, "Folder of a SavedModel.", required=True)
flags.DEFINE_string("name", "vit", "What the model is called.")
flags.DEFINE_integer("rest_port", 8501, "Port of REST.")
flags.DEFINE_integer("grpc_port", None, "Port of gRPC; none without it.")

# What a client has done wrong.
CLIENT_ERRORS = (
    tf.errors.InvalidArgumentError,
    ValueError,
    TypeError,
    KeyError,
    RecursionError,
)
_REQUEST_SECONDS = 20


def decoded(value):
    """Nested lists with {"b64": text} in place of bytes."""
    if isinstance(value, dict):
        if set(value) != {"b64"}:
            raise ValueError(f"an object must be {{'b64': ...}}. Received: {sorted(value)}")
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return value


def inputs_of(function, request):
    """The tensors of a request {"instances": [...]}."""
    ((name, specification),) = function.structured_input_signature[1].items()
    rows = []
    for instance in request["instances"]:
        named = isinstance(instance, dict) and "b64" not in instance
        if named and set(instance) != {name}:
            raise ValueError(f"an instance must have {name!r}. Received: {sorted(instance)}")
        rows.append(decoded(instance[name] if named else instance))
    if specification.dtype == tf.string:
        return {name: tf.constant(rows, tf.string)}
    return {name: tf.constant(np.array(rows), specification.dtype)}


def plain(value):
    """An array as nested lists; texts as such."""
    if value.dtype == object:
        return [plain(v) if hasattr(v, "dtype") else v.decode() for v in value]
    return value.tolist()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _REQUEST_SECONDS
    signatures = {}

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.path != f"/v1/models/{FLAGS.name}":
            self._send(404, {"error": "no such model"})
        else:
            self._send(200, {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]})

    def do_POST(self):
        try:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
        except (TypeError, ValueError):
            self.close_connection = True
            return self._send(411, {"error": "Content-Length is needed"})
        if len(body) < length:
            self.close_connection = True
            return self._send(400, {"error": "the body ends before its length"})
        if self.path != f"/v1/models/{FLAGS.name}:predict":
            return self._send(404, {"error": "no such model"})
        try:
            request = json.loads(body)
            function = self.signatures[request.get("signature_name", "serving_default")]
            outputs = function(**inputs_of(function, request))
            values = {name: plain(value.numpy()) for name, value in outputs.items()}
            rows = zip(*values.values(), strict=True)
            answer = [dict(zip(values, row, strict=True)) for row in rows]
        except (*CLIENT_ERRORS, AttributeError) as error:
            return self._send(400, {"error": f"{type(error).__name__}: {error}"})
        return self._send(200, {"predictions": answer})

    def _send(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().server_bind()

    def handle_error(self, request, client_address):
        """Clients that go away are no news."""


def start_grpc(signatures, port):
    """Starts the gRPC half; returns the server and its port."""
    import concurrent.futures

    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            try:
                function = signatures[request.model_spec.signature_name or "serving_default"]
                inputs = {
                    name: tf.constant(tf.make_ndarray(proto))
                    for name, proto in request.inputs.items()
                }
                outputs = function(**inputs)
            except CLIENT_ERRORS as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            response = predict_pb2.PredictResponse()
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def main(argv):
    del argv
    loaded = tf.saved_model.load(FLAGS.saved_model)  # its functions die with it
    Handler.signatures = loaded.signatures
    server = Server(("127.0.0.1", FLAGS.rest_port), Handler)
    ports = {"rest": server.server_address[1]}
    if FLAGS.grpc_port is not None:
        grpc_server, ports["grpc"] = start_grpc(loaded.signatures, FLAGS.grpc_port)
        assert grpc_server
    print(json.dumps(ports), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    app.run(main)
