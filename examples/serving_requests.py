"""What `serve_with_ray.py` does with a request: limits, batches, counts; nothing of Ray is here.

Time and size are limited before a request may take anything from others: its body has to arrive
within a time, only then it takes places in the queue, which counts images and not requests, and its
images leave the queue when its time is over or its client has gone.
"""

import asyncio
import base64
import binascii
import collections
import contextlib
import dataclasses
import json
import time

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one client may take from all others.

    Attributes:
        body_bytes: Size of a request's body.
        body_seconds: Time in which it has to arrive.
        total_body_bytes: Of all bodies that are here or on their way.
        request_images: Images of a request: the `max_batch_size` of the export.
        queued_images: Images that wait, of all requests.
        request_seconds: Time from the whole body to the answer.
    """

    body_bytes: int = 2**26
    body_seconds: float = 10.0
    total_body_bytes: int = 2**29
    request_images: int = 256
    queued_images: int = 512
    request_seconds: float = 30.0


class Refused(Exception):
    """A request that gets no answer but a reason.

    Attributes:
        code: Of HTTP.
        reason: One word, for the metrics.
    """

    def __init__(self, code, reason, message):
        super().__init__(message)
        self.code, self.reason = code, reason


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def parse_instances(body, max_images):
    """The images' bytes of a request's body.

    Raises:
        Refused: for anything but the JSON that this program takes, or too many images.
    """
    try:
        request = json.loads(bytes(body))
    except ValueError as error:  # a UnicodeDecodeError is one
        raise _bad(f"the body must be JSON: {str(error)[:200]}") from error
    except RecursionError as error:
        raise _bad("the body must be JSON, not nested this deep") from error
    instances = request.get("instances") if isinstance(request, dict) else None
    if not isinstance(instances, list) or not instances:
        raise _bad('the body must be {"instances": [...]} with at least one instance')
    if len(instances) > max_images:
        raise Refused(
            413,
            "images",
            f"a request may have at most {max_images} images, it has {len(instances)}",
        )
    if request.get("signature_name", "serving_default") != "serving_default":
        raise _bad("`signature_name` must be serving_default, the only one here")
    return [_parse_image(i, instance) for i, instance in enumerate(instances)]


def _parse_image(index, instance):
    """{"image_bytes": {"b64": text}} -> bytes."""
    try:
        return base64.b64decode(instance["image_bytes"]["b64"], validate=True)
    except (KeyError, TypeError, IndexError) as error:
        raise _bad(f'instance {index} must be {{"image_bytes": {{"b64": "..."}}}}') from error
    except (ValueError, binascii.Error) as error:
        raise _bad(f"instance {index} is not base64: {error}") from error


def _bad(message):
    return Refused(400, "request", message)


class Batcher:
    """Puts images of several requests through a function together, one from each request in turn.

    Args:
        run: Function of a list of images that gives as many answers; called in a thread.
        batch_size: Images at a time, at most.
        wait_seconds: How long an image waits for others.
        max_queued: Images that may wait.
    """

    def __init__(self, run, batch_size, wait_seconds, max_queued):
        self._run, self._batch_size = run, batch_size
        self._wait_seconds, self._max_queued = wait_seconds, max_queued
        self._requests = collections.deque()  # of deques of (image, future)
        self._arrived, self._worker = asyncio.Event(), None
        self.num_queued = 0

    @property
    def is_full(self):
        return self.num_queued >= self._max_queued

    async def classify(self, images):
        """The answers to all images of one request; cancelled, it leaves the queue.

        Raises:
            Refused: if the queue has no place for them.
        """
        if self.num_queued and self.num_queued + len(images) > self._max_queued:
            raise Refused(503, "queue", f"{self.num_queued} images are waiting; try again later")
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        loop = asyncio.get_running_loop()
        request = collections.deque((image, loop.create_future()) for image in images)
        futures = [future for _, future in request]
        self.num_queued += len(request)
        self._requests.append(request)
        self._arrived.set()
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()
            self.num_queued -= len(request)
            request.clear()

    def _take(self):
        batch = []
        while self._requests and len(batch) < self._batch_size:
            request = self._requests.popleft()
            if request:
                batch.append(request.popleft())
                self.num_queued -= 1
                self._requests.append(request)
        return batch

    async def _work(self):
        while True:
            await self._arrived.wait()
            if self.num_queued < self._batch_size:
                await asyncio.sleep(self._wait_seconds)
            self._arrived.clear()
            while batch := self._take():
                try:
                    answers = await asyncio.to_thread(self._run, [image for image, _ in batch])
                except Exception as error:  # noqa: BLE001 - every request of the batch is told
                    refused = Refused(500, "model", f"the model failed: {str(error)[:500]}")
                    answers = [refused] * len(batch)
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)


class Metrics:
    """Counts in the text format of Prometheus.

    Args:
        labels: Names and values that all lines carry, such as that of the replica.
    """

    def __init__(self, **labels):
        self._labels = labels
        self.requests, self.rejected = collections.Counter(), collections.Counter()
        self.images = 0
        self._buckets, self._seconds, self._count = collections.Counter(), 0.0, 0

    def observe(self, code, seconds):
        """One request has got its answer."""
        self.requests[code] += 1
        self._seconds, self._count = self._seconds + seconds, self._count + 1
        for bucket in BUCKETS:
            self._buckets[bucket] += seconds <= bucket

    def render(self, num_queued):
        """The lines."""
        lines = []
        self._block(
            lines, "requests_total", "counter", {("code", c): n for c, n in self.requests.items()}
        )
        rejected = {("reason", reason): n for reason, n in self.rejected.items()}
        self._block(lines, "rejected_total", "counter", rejected)
        self._block(lines, "images_total", "counter", {None: self.images})
        self._block(lines, "queued_images", "gauge", {None: num_queued})
        buckets = {("le", b): self._buckets[b] for b in BUCKETS} | {("le", "+Inf"): self._count}
        self._block(lines, "request_seconds", "histogram", buckets, "_bucket")
        for suffix, value in (("_sum", self._seconds), ("_count", self._count)):
            lines.append(f"keras_vit_request_seconds{suffix}{self._text(None)} {value}")
        return "\n".join([*lines, ""])

    def _block(self, lines, name, kind, values, suffix=""):
        lines.append(f"# TYPE keras_vit_{name} {kind}")
        for label, value in values.items():
            lines.append(f"keras_vit_{name}{suffix}{self._text(label)} {value}")

    def _text(self, label):
        pairs = [*self._labels.items(), *([label] if label else [])]
        inner = ",".join(f'{name}="{value}"' for name, value in pairs)
        return f"{{{inner}}}" if inner else ""


class Service:
    """Answers requests of TensorFlow Serving's REST protocol, and those of probes.

    Args:
        name: What the model is called in addresses.
        version: Of the model.
        batcher: `Batcher`.
        limits: `Limits`.
        metrics: `Metrics`.
    """

    def __init__(self, name, version, batcher, limits, metrics):
        self._model, self._batcher = f"/v1/models/{name}", batcher
        self._limits, self._metrics = limits, metrics
        self._status = {"version": version, "state": "AVAILABLE"}
        self._body_bytes = 0

    async def answer(self, method, path, receive):
        """The answer to a request.

        Args:
            method: Of HTTP.
            path: Of the address, without a query.
            receive: Function of ASGI that gives the next message of the request.

        Returns:
            (code, headers, content, bytes).

        Raises:
            ClientGone: if nobody waits for it.
        """
        if method == "GET":
            return self._probe(path)
        start = time.monotonic()
        try:
            if method != "POST":
                raise Refused(405, "method", "the method must be GET or POST")
            if path != f"{self._model}:predict":
                raise Refused(404, "path", f"there is only {self._model}:predict")
            code, content = 200, {"predictions": await self._predict(receive)}
        except Refused as refused:
            self._metrics.rejected[refused.reason] += 1
            code, content = refused.code, {"error": str(refused)}
        except (ClientGone, asyncio.CancelledError):
            self._metrics.rejected["gone"] += 1
            raise
        self._metrics.observe(code, time.monotonic() - start)
        headers = {"content-type": "application/json"}
        if code == 503:
            headers["retry-after"] = "1"
        return code, headers, json.dumps(content).encode()

    def _probe(self, path):
        plain, is_ready = {"content-type": "text/plain; version=0.0.4"}, not self._batcher.is_full
        if path == self._model:
            content = json.dumps({"model_version_status": [self._status]})
            return 200, {"content-type": "application/json"}, content.encode()
        if path == "/metrics":
            return 200, plain, self._metrics.render(self._batcher.num_queued).encode()
        if path == "/healthz/live":
            return 200, plain, b"alive\n"
        if path == "/healthz/ready":
            return (200, plain, b"ready\n") if is_ready else (503, plain, b"the queue is full\n")
        message = f"there are only {self._model}, /metrics, /healthz/live and /healthz/ready"
        return 404, {"content-type": "application/json"}, json.dumps({"error": message}).encode()

    async def _predict(self, receive):
        limits = self._limits
        async with self._body(receive) as body:
            images = parse_instances(body, limits.request_images)
        answers = await self._while_client_waits(self._batcher.classify(images), receive)
        self._metrics.images += len(images)
        errors = [f"image {i}: {a['error']}" for i, a in enumerate(answers) if a.get("error")]
        if errors:
            raise Refused(400, "image", "; ".join(errors)[:4_000])
        return answers

    @contextlib.asynccontextmanager
    async def _body(self, receive):
        limits, body = self._limits, bytearray()
        try:
            try:
                async with asyncio.timeout(limits.body_seconds):
                    is_more = True
                    while is_more:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            raise ClientGone
                        chunk, is_more = message.get("body", b""), message.get("more_body", False)
                        body += chunk
                        self._body_bytes += len(chunk)
                        self._check_body(len(body))
            except TimeoutError as error:
                raise Refused(
                    408, "slow", f"the body must arrive within {limits.body_seconds:g} seconds"
                ) from error
            yield body
        finally:
            self._body_bytes -= len(body)

    def _check_body(self, num_bytes):
        if num_bytes > self._limits.body_bytes:
            raise Refused(
                413, "size", f"a request may have at most {self._limits.body_bytes} bytes"
            )
        if self._body_bytes > self._limits.total_body_bytes:
            raise Refused(503, "memory", "too much is on its way from all clients; try again later")

    async def _while_client_waits(self, work, receive):
        """The result of `work`, which is cancelled when its time is over or the client has gone."""
        work, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
        try:
            done, _ = await asyncio.wait(
                {work, gone},
                timeout=self._limits.request_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work in done:
                return work.result()
            if gone in done:
                raise ClientGone
            raise Refused(504, "time", f"no answer within {self._limits.request_seconds:g} seconds")
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


async def _gone(receive):
    while (await receive())["type"] != "http.disconnect":
        pass
