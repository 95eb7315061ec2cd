"""Serves an export of keras_vit over HTTP with Ray Serve; images of several requests make a batch.

    keras-vit export --model=MODEL --on_bad_image=mark serving/vit
    python examples/serve_with_ray.py --saved_model=serving/vit

Needs `pip install tensorflow 'ray[serve]>=2.52'`; keras_vit is not imported.  It speaks the REST
protocol of TensorFlow Serving: `GET /v1/models/NAME` says whether it is there, and
`POST /v1/models/NAME:predict` takes

    {"instances": [{"image_bytes": {"b64": "..."}}, ...]}

A request with a bad image gets the code 400, and the text says which image and why.  It costs the
requests in the same batch nothing.  What one client may take from the others is limited, see the
flags.  `GET /healthz/live`, `/healthz/ready` and `/metrics` (Prometheus, of the replica that its
label names) are for those who look after it.  Ctrl-C and SIGTERM end the server when all requests
that it has taken are answered.

It listens on 127.0.0.1, behind a proxy that knows the clients.  Ray itself opens further ports,
between its processes, and not all of them on 127.0.0.1 alone: keep them behind a firewall, as who
reaches them can run code here.  From version 2.52 on, the oldest that is taken here, Ray asks for a
token there (RAY_AUTH_MODE=token, which this program sets).
"""

import json
import os
import pathlib
import signal
import sys
import threading

# Nothing is reported to anybody; must be set before Ray is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import ray  # noqa: E402
import serving_requests  # noqa: E402
from absl import app, flags  # noqa: E402
from ray import serve  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string("saved_model", None, "Folder of a version, or of the versions.", required=True)
flags.DEFINE_string("name", "vit", "What the model is called in addresses.")
flags.DEFINE_integer("port", 8501, "Port on 127.0.0.1.")
flags.DEFINE_integer("max_batch_size", 8, "Images that go through the model together.")
flags.DEFINE_float("wait_ms", 5, "How long an image waits for others.")
flags.DEFINE_integer("max_queued_images", 512, "Further ones are refused at once, with 503.")
flags.DEFINE_integer("max_connections", 1000, "Requests of a replica, their bodies on the way too.")
flags.DEFINE_float("body_seconds", 10, "Time in which a request's body has to arrive, else 408.")
flags.DEFINE_float("request_seconds", 30, "Time for its answer, else 504 and its work is dropped.")
flags.DEFINE_float("drain_seconds", 60, "Time for the last answers when the server is ended.")
flags.DEFINE_integer("replicas", 1, "Processes that have the model.")
flags.DEFINE_float("cpus", 1, "CPUs of a replica.")
flags.DEFINE_float("gpus", 0, "GPUs of a replica.")


def latest_version(folder):
    """A folder itself if it is a SavedModel, or the one with the highest number below it."""
    folder = pathlib.Path(folder).absolute()
    if not (folder / "saved_model.pb").is_file():
        names = (path.name for path in folder.iterdir())
        versions = [int(name) for name in names if name.isdecimal() and len(name) < 19]
        if not versions:
            raise FileNotFoundError(f"there is no SavedModel in {folder}")
        folder = folder / str(max(versions))
    return folder


@serve.deployment
class Classifier:
    """One process with the model."""

    def __init__(self, saved_model, name, batch_size, wait_seconds, limits):
        import tensorflow as tf

        self._tf = tf
        self._loaded = tf.saved_model.load(saved_model)  # its functions die with it
        self._function = self._loaded.signatures["serving_default"]
        if "error" not in self._function.structured_outputs:
            raise ValueError(
                f"{saved_model} must be exported with --on_bad_image=mark, or one bad image fails "
                "the others in its batch"
            )
        self._service = serving_requests.Service(
            name,
            pathlib.Path(saved_model).name,
            serving_requests.Batcher(self._run, batch_size, wait_seconds, limits.queued_images),
            limits,
            serving_requests.Metrics(replica=os.getpid()),
        )

    def _run(self, images):
        """A list of images' bytes -> a list of dicts of outputs."""
        outputs = self._function(image_bytes=self._tf.constant(images))
        outputs = {name: _plain(value.numpy()) for name, value in outputs.items()}
        return [{name: values[i] for name, values in outputs.items()} for i in range(len(images))]

    async def __call__(self, request: Request):
        try:
            code, headers, content = await self._service.answer(
                request.method, request.url.path, request.receive
            )
        except serving_requests.ClientGone:
            return Response(status_code=499)
        return Response(content, code, headers)


def _plain(value):
    """An array as nested lists; texts as such."""
    if value.dtype == object:
        return [_plain(v) if hasattr(v, "dtype") else v.decode() for v in value]
    return value.tolist()


def read_limits(saved_model):
    """The `serving_requests.Limits` of an export: a request has no more images than it takes."""
    description = pathlib.Path(saved_model, "assets", "model.json")
    return serving_requests.Limits(
        body_seconds=FLAGS.body_seconds,
        request_images=json.loads(description.read_text(encoding="utf-8"))["max_batch_size"],
        queued_images=FLAGS.max_queued_images,
        request_seconds=FLAGS.request_seconds,
    )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"only flags are expected. Received: {' '.join(argv[1:])}")
    saved_model = str(latest_version(FLAGS.saved_model))
    limits = read_limits(saved_model)
    # Before Ray, which has its own ways with signals.
    stopped = threading.Event()
    ray.init(
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        num_cpus=max(2, round(FLAGS.replicas * FLAGS.cpus) + 1),
        log_to_driver=True,
    )
    # The replicas get the module itself, wherever they run.
    ray.cloudpickle.register_pickle_by_value(serving_requests)
    serve.start(http_options={"host": "127.0.0.1", "port": FLAGS.port})
    # A replica takes requests before their bodies are here, so that slow ones cost no others their
    # place; what it works on is limited by its own queue.
    deployment = Classifier.options(
        num_replicas=FLAGS.replicas,
        max_ongoing_requests=FLAGS.max_connections,
        max_queued_requests=FLAGS.max_connections,
        graceful_shutdown_timeout_s=FLAGS.drain_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        ray_actor_options={"num_cpus": FLAGS.cpus, "num_gpus": FLAGS.gpus},
    )
    serve.run(
        deployment.bind(
            saved_model,
            FLAGS.name,
            min(FLAGS.max_batch_size, limits.request_images),
            FLAGS.wait_ms / 1000,
            limits,
        ),
        route_prefix="/",
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    print(f"ready: http://127.0.0.1:{FLAGS.port}/v1/models/{FLAGS.name}:predict", flush=True)
    stopped.wait()
    # Takes no more, and waits for what was taken.
    serve.delete("default")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    app.run(main)
