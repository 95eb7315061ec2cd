"""What the serving example does with requests: limits, fair batches, cancelled work, counts."""

import asyncio
import base64
import importlib.util
import json
import pathlib
import threading
import time

import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "serving_requests.py"
PATH = "/v1/models/vit:predict"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("serving_requests", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Model:
    """Echoes images; each batch takes some time."""

    def __init__(self, seconds=0.0):
        self.seconds, self.batches = seconds, []

    def __call__(self, images):
        time.sleep(self.seconds)
        self.batches.append(list(images))
        return [{"scores": [len(image)], "error": ""} for image in images]


def body_of(images):
    instances = [{"image_bytes": {"b64": base64.b64encode(i).decode()}} for i in images]
    return json.dumps({"instances": instances}).encode()


def client(body, pause=0.0, parts=1, leaves_after=None):
    """The `receive` of a client that sends its body in parts and may leave."""
    size = max(1, -(-len(body) // parts))
    chunks = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    messages = [
        {"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)}
        for i, chunk in enumerate(chunks)
    ]

    async def receive():
        if messages:
            await asyncio.sleep(pause)
            return messages.pop(0)
        await asyncio.sleep(3600 if leaves_after is None else leaves_after)
        return {"type": "http.disconnect"}

    return receive


def service(example, model, **limits):
    limits = example.Limits(**limits)
    batcher = example.Batcher(model, 4, 0.001, limits.queued_images)
    metrics = example.Metrics(replica=1)
    return example.Service("vit", "1", batcher, limits, metrics), batcher, metrics


async def ask(server, receive):
    code, _, content = await server.answer("POST", PATH, receive)
    return code, json.loads(content)


def test_slow_bodies_take_no_place_from_others_and_end_with_408(example):
    async def run():
        server, _, metrics = service(example, Model(), body_seconds=0.3)
        slow = [
            asyncio.create_task(ask(server, client(body_of([b"a"]), pause=0.1, parts=40)))
            for _ in range(100)
        ]
        await asyncio.sleep(0.05)
        start = time.monotonic()
        code, answer = await ask(server, client(body_of([b"abc"])))
        assert (code, answer["predictions"][0]["scores"]) == (200, [3])
        assert time.monotonic() - start < 0.2
        assert {code for code, _ in await asyncio.gather(*slow)} == {408}
        assert metrics.rejected["slow"] == 100

    asyncio.run(run())


def test_a_request_has_no_more_images_than_the_export_takes(example):
    async def run():
        model = Model()
        server, _, _ = service(example, model, request_images=8)
        code, answer = await ask(server, client(body_of([b""] * 9)))
        assert code == 413
        assert answer["error"] == "a request may have at most 8 images, it has 9"
        assert model.batches == []

    asyncio.run(run())


def test_the_queue_counts_images_and_large_requests_do_not_hold_up_small_ones(example):
    async def run():
        model = Model(seconds=0.02)
        server, batcher, metrics = service(example, model, queued_images=50)
        large = asyncio.create_task(ask(server, client(body_of([b"large"] * 45))))
        await asyncio.sleep(0.01)
        small = asyncio.create_task(ask(server, client(body_of([b"s"] * 2))))
        await asyncio.sleep(0.001)
        code, answer = await ask(server, client(body_of([b"x"] * 40)))
        assert code == 503
        assert "images are waiting" in answer["error"]
        assert (await small)[0] == 200
        assert not large.done()
        assert (await large)[0] == 200
        assert batcher.num_queued == 0
        assert metrics.rejected == {"queue": 1}
        assert max(map(len, model.batches)) == 4

    asyncio.run(run())


@pytest.mark.parametrize("how", ["leaves", "time"])
def test_work_stops_when_its_client_is_gone_or_its_time_is_over(example, how):
    async def run():
        model = Model(seconds=0.03)
        server, batcher, metrics = service(example, model, request_seconds=0.1)
        receive = client(body_of([b"x"] * 200), leaves_after=0.05 if how == "leaves" else None)
        if how == "leaves":
            with pytest.raises(example.ClientGone):
                await ask(server, receive)
        else:
            assert (await ask(server, receive))[0] == 504
        assert batcher.num_queued == 0
        await asyncio.sleep(0.1)
        assert len(model.batches) < 10
        assert (await ask(server, client(body_of([b"abc"]))))[0] == 200
        assert metrics.rejected[{"leaves": "gone", "time": "time"}[how]] == 1

    asyncio.run(run())


def test_a_client_that_leaves_within_its_body_costs_nothing(example):
    async def run():
        server, batcher, _ = service(example, Model())
        receive = client(b"")

        async def leaving():
            return {"type": "http.disconnect"}

        with pytest.raises(example.ClientGone):
            await ask(server, leaving)
        del receive
        assert batcher.num_queued == 0
        assert server._body_bytes == 0

    asyncio.run(run())


def test_bodies_are_limited_each_and_together(example):
    async def run():
        server, _, _ = service(example, Model(), body_bytes=1_000, total_body_bytes=1_500)
        assert (await ask(server, client(b"x" * 2_000, parts=10)))[0] == 413
        clients = [client(b"x" * 900, pause=0.05, parts=2) for _ in range(3)]
        answers = await asyncio.gather(*(ask(server, receive) for receive in clients))
        assert [code for code, _ in answers].count(503) == 1
        assert server._body_bytes == 0

    asyncio.run(run())


def test_a_model_that_fails_is_a_500_with_the_reason(example):
    async def run():
        def failing(images):
            raise RuntimeError("out of memory")

        server, batcher, _ = service(example, failing)
        assert await ask(server, client(body_of([b"a", b"b"]))) == (
            500,
            {"error": "the model failed: out of memory"},
        )
        assert batcher.num_queued == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "must be JSON"),
        (b"\xff", "must be JSON"),
        (b"[" * 100_000, "must be JSON"),
        (b"9" * 5_000, "must be JSON"),
        (b"{}", "at least one instance"),
        (b'{"instances": [{"image": 1}]}', "instance 0 must be"),
        (b'{"instances": [{"image_bytes": {"b64": "&"}}]}', "instance 0 is not base64"),
        (b'{"instances": [1], "signature_name": "x"}', "serving_default"),
    ],
    ids=range(8),
)
def test_bad_requests_are_400_with_the_reason(example, body, message):
    async def run():
        server, _, metrics = service(example, Model())
        code, answer = await ask(server, client(body))
        assert code == 400
        assert message in answer["error"]
        assert metrics.rejected == {"request": 1}

    asyncio.run(run())


def test_probes_and_metrics(example):
    async def run():
        release = threading.Event()

        def held(images):
            release.wait(10)
            return Model()(images)

        server, _, _ = service(example, held, queued_images=2)
        assert (await server.answer("GET", "/healthz/live", None))[0] == 200
        assert (await server.answer("GET", "/healthz/ready", None))[0] == 200
        work = asyncio.create_task(ask(server, client(body_of([b"x"] * 8))))
        await asyncio.sleep(0.05)
        assert (await server.answer("GET", "/healthz/ready", None))[0] == 503
        assert b'queued_images{replica="1"} 4' in (await server.answer("GET", "/metrics", None))[2]
        release.set()
        await work
        await ask(server, client(b"{}"))
        text = (await server.answer("GET", "/metrics", None))[2].decode()
        for line in (
            'keras_vit_requests_total{replica="1",code="200"} 1',
            'keras_vit_requests_total{replica="1",code="400"} 1',
            'keras_vit_rejected_total{replica="1",reason="request"} 1',
            'keras_vit_images_total{replica="1"} 8',
            'keras_vit_request_seconds_count{replica="1"} 2',
            'keras_vit_request_seconds_bucket{replica="1",le="+Inf"} 2',
        ):
            assert line in text.splitlines()
        assert json.loads((await server.answer("GET", "/v1/models/vit", None))[2])
        assert (await server.answer("GET", "/x", None))[0] == 404
        assert (await server.answer("DELETE", PATH, None))[0] == 405
        assert (await server.answer("POST", "/v1/models/other:predict", None))[0] == 404

    asyncio.run(run())
