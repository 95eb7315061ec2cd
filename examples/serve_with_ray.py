"""Serves an export of keras_vit over HTTP with Ray Serve, which puts requests into batches.

    keras-vit export --model=MODEL --on_bad_image=mark serving/vit
    python examples/serve_with_ray.py --saved_model=serving/vit

Needs `pip install tensorflow 'ray[serve]'`; keras_vit is not imported.  It speaks the REST protocol
of TensorFlow Serving, on this machine only: `GET /v1/models/NAME` says whether it is ready, and
`POST /v1/models/NAME:predict` takes

    {"instances": [{"image_bytes": {"b64": "..."}}, ...]}

A request with a bad image gets the code 400, and the text says which image and why.  It costs the
requests in the same batch nothing.  Ctrl-C ends the server.
"""

import asyncio
import base64
import binascii
import json
import os
import pathlib
import signal
import threading

# Nothing is reported to anybody; must be set before Ray is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import ray  # noqa: E402
from absl import app, flags  # noqa: E402
from ray import serve  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string("saved_model", None, "Folder of a version, or of the versions.", required=True)
flags.DEFINE_string("name", "vit", "What the model is called in addresses.")
flags.DEFINE_integer("port", 8501, "Port on 127.0.0.1.")
flags.DEFINE_integer("max_batch_size", 8, "Images that go through the model together.")
flags.DEFINE_float("wait_ms", 5, "How long an image waits for others.")
flags.DEFINE_integer("max_queued_requests", 200, "Further ones are refused at once, with 503.")
flags.DEFINE_integer("replicas", 1, "Processes that have the model.")
flags.DEFINE_float("cpus", 1, "CPUs of a replica.")
flags.DEFINE_float("gpus", 0, "GPUs of a replica.")

MAX_BODY_BYTES = 2**26


class BadRequest(ValueError):
    """What the client can mend."""


def parse_instances(body):
    """The images' bytes of a request's body.

    Raises:
        BadRequest: for anything but the JSON that this program takes.
    """
    try:
        request = json.loads(body)
    except ValueError as error:  # a UnicodeDecodeError is one
        raise BadRequest(f"the body must be JSON: {error}") from error
    except RecursionError as error:
        raise BadRequest("the body must be JSON, not nested this deep") from error
    instances = request.get("instances") if isinstance(request, dict) else None
    if not isinstance(instances, list) or not instances:
        raise BadRequest('the body must be {"instances": [...]} with at least one instance')
    if request.get("signature_name", "serving_default") != "serving_default":
        raise BadRequest("`signature_name` must be serving_default, the only one here")
    return [parse_image(i, instance) for i, instance in enumerate(instances)]


def parse_image(index, instance):
    """{"image_bytes": {"b64": text}} -> bytes."""
    try:
        return base64.b64decode(instance["image_bytes"]["b64"], validate=True)
    except (KeyError, TypeError, IndexError) as error:
        raise BadRequest(f'instance {index} must be {{"image_bytes": {{"b64": "..."}}}}') from error
    except (ValueError, binascii.Error) as error:
        raise BadRequest(f"instance {index} is not base64: {error}") from error


def latest_version(folder):
    """A folder itself if it is a SavedModel, or the one with the highest number below it."""
    folder = pathlib.Path(folder).absolute()
    if not (folder / "saved_model.pb").is_file():
        versions = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        if not versions:
            raise FileNotFoundError(f"there is no SavedModel in {folder}")
        folder = folder / str(max(versions))
    return folder


@serve.deployment
class Classifier:
    """One process with the model."""

    def __init__(self, saved_model, name, max_batch_size, wait_seconds):
        import tensorflow as tf

        self._tf = tf
        self._loaded = tf.saved_model.load(saved_model)  # its functions die with it
        self._function = self._loaded.signatures["serving_default"]
        if "error" not in self._function.structured_outputs:
            raise ValueError(
                f"{saved_model} must be exported with --on_bad_image=mark, or one bad image fails "
                "the others in its batch"
            )
        self._paths = {"GET": f"/v1/models/{name}", "POST": f"/v1/models/{name}:predict"}
        self._status = {"version": pathlib.Path(saved_model).name, "state": "AVAILABLE"}
        self._classify.set_max_batch_size(max_batch_size)
        self._classify.set_batch_wait_timeout_s(wait_seconds)

    @serve.batch
    async def _classify(self, images):
        """A list of images' bytes -> a list of dicts of outputs."""
        outputs = await asyncio.to_thread(self._run, images)
        return [{name: values[i] for name, values in outputs.items()} for i in range(len(images))]

    def _run(self, images):
        outputs = self._function(image_bytes=self._tf.constant(images))
        return {name: _plain(value.numpy()) for name, value in outputs.items()}

    async def __call__(self, request: Request):
        path = self._paths.get(request.method)
        if path is None:
            return _failure(405, "the method must be GET or POST")
        if request.url.path != path:
            return _failure(404, f"there is only {path}")
        if request.method == "GET":
            return JSONResponse({"model_version_status": [self._status]})
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return _failure(413, f"a request may have at most {MAX_BODY_BYTES} bytes")
        try:
            images = parse_instances(body)
        except BadRequest as error:
            return _failure(400, str(error))
        answers = await asyncio.gather(*(self._classify(image) for image in images))
        errors = [f"image {i}: {a['error']}" for i, a in enumerate(answers) if a["error"]]
        if errors:
            return _failure(400, "; ".join(errors))
        return JSONResponse({"predictions": answers})


def _plain(value):
    """An array as nested lists; texts as such."""
    if value.dtype == object:
        return [_plain(v) if hasattr(v, "dtype") else v.decode() for v in value]
    return value.tolist()


def _failure(code, message):
    return JSONResponse({"error": message}, code)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"only flags are expected. Received: {' '.join(argv[1:])}")
    saved_model = str(latest_version(FLAGS.saved_model))
    # Before Ray, which has its own ways with signals.
    stopped = threading.Event()
    ray.init(
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        num_cpus=max(2, round(FLAGS.replicas * FLAGS.cpus) + 1),
        log_to_driver=True,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": FLAGS.port})
    deployment = Classifier.options(
        num_replicas=FLAGS.replicas,
        max_ongoing_requests=4 * FLAGS.max_batch_size,
        max_queued_requests=FLAGS.max_queued_requests,
        ray_actor_options={"num_cpus": FLAGS.cpus, "num_gpus": FLAGS.gpus},
    )
    serve.run(
        deployment.bind(saved_model, FLAGS.name, FLAGS.max_batch_size, FLAGS.wait_ms / 1000),
        route_prefix="/",
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    print(f"ready: http://127.0.0.1:{FLAGS.port}/v1/models/{FLAGS.name}:predict", flush=True)
    stopped.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    app.run(main)
