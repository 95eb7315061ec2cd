"""Flags reach the work they are for: each case says what the work is given."""

import importlib

import numpy as np
import pytest
from PIL import Image

from keras_vit.data import pipeline
from keras_vit.serving.options import ServingOptions
from tests.tiny import make_model


class _Reached(Exception):
    """The work would begin now."""


def _record(monkeypatch, module, name):
    """Has a function record what it is given, in the place of its work."""
    given = {}

    def stand_in(*args, **kwargs):
        given.update(kwargs, args=args)
        raise _Reached

    monkeypatch.setattr(importlib.import_module(module), name, stand_in)
    return given


TRAINING = {
    "--train_split=trainval": {"train_split": "trainval"},
    "--shots=2": {"shots": 2},
    "--download": {"download": True},
    "--data_dir=sets": {"data_dir": "sets"},
    "--max_pixels=99": {"max_pixels": 99},
    "--max_bad_fraction=0.25": {"max_bad_fraction": 0.25},
    "--overwrite": {"overwrite": True},
    "--tensorboard": {"tensorboard": True},
    "--noreport": {"report": False},
    "--checkpoint_steps=7": {"checkpoint_steps": 7},
    "--task=regression": {"objective": "regression"},
    "--set=batch_size=3": {"batch_size": 3},
}
FINETUNING = {"--tune=lora:4": {"tune": "lora:4"}, "--layer_decay=0.5": {"layer_decay": 0.5}}
PROBES = {
    "fewshot": {
        "--seeds=4,5": {"seeds": (4, 5)},
        "--l2_reg=grid": {"l2_reg": "grid"},
        "--allow_fewer": {"allow_fewer": True},
        "--batch_size=3": {"batch_size": 3},
        "--feature_dtype=float16": {"dtype": "float16"},
        "--nocache": {"cache_dir": None},
        "--download": {"download": True},
        "--train_split=all": {"train_split": "all"},
    },
    "linear": {
        "--protocol=mae": {"protocol": "mae"},
        "--epochs=2": {"epochs": 2},
        "--probe_batch_size=5": {"batch_size": 5},
        "--batch_size=3": {"feature_batch_size": 3},
        "--augmentation=crop_flip": {"augmentation": "crop_flip"},
    },
}
PAPER = {
    "--models=ViT-B/16": {"models": ["ViT-B/16"]},
    "--plan": {"plan": True},
    "--teraflops=2.5": {"teraflops": 2.5},
    "--scale=small": {"scale": "small"},
    "--data_dir=sets": {"data_dir": "sets"},
    "--download": {"download": True},
}
CONVERSION = {
    "--source_format=timm": {"source_format": "timm"},
    "--approximate": {"approximate": True},
}


def _cases():
    """(command line without the flag, where the work is, flag, what the work is given)."""
    train, run = ("--dataset=d", "--workdir=w"), "keras_vit.training.run"
    for flag, given in TRAINING.items():
        yield ("pretrain", *train), (run, "pretrain"), flag, given
    for flag, given in (TRAINING | FINETUNING).items():
        yield ("finetune", "--model=m", *train), (run, "finetune"), flag, given
    classes = {"fewshot": ("fewshot", "FewShot"), "linear": ("linear_probe", "LinearProbe")}
    for method, flags in PROBES.items():
        module, name = classes[method]
        where = f"keras_vit.evaluators.{module}", name
        for flag, given in flags.items():
            yield ("probe", "m", "--dataset=d", f"--method={method}"), where, flag, given
    for flag, given in PAPER.items():
        where = "keras_vit.paper.reproduce", "reproduce"
        yield ("reproduce", "table5", "--workdir=w"), where, flag, given
    for flag, given in CONVERSION.items():
        yield ("convert", "a.npz", "b.npz"), ("keras_vit", "convert"), flag, given


@pytest.mark.parametrize(("command", "where", "flag", "expected"), [*_cases()])
def test_flag_is_given_to_the_work(
    keras_vit_command, monkeypatch, tmp_path, command, where, flag, expected
):
    monkeypatch.chdir(tmp_path)
    given = _record(monkeypatch, *where)
    keras_vit_command(*command, flag)
    assert {name: given[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"strategy": "auto", "tpu": None, "model_shards": 2}),
        (["--strategy=mirrored"], {"strategy": "mirrored"}),
        (["--strategy=tpu", "--tpu=pod-1"], {"strategy": "tpu", "tpu": "pod-1"}),
        (["--strategy=model_parallel", "--model_shards=4"], {"model_shards": 4}),
    ],
)
@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_flags_of_devices_are_given_to_place(
    keras_vit_command, monkeypatch, command, flags, expected
):
    given = _record(monkeypatch, "keras_vit.cli.training_flags", "place")
    keras_vit_command(command, "--dataset=d", "--workdir=w", *flags)
    given["strategy"] = given.pop("args")[0]
    assert {name: given[name] for name in expected} == expected


@pytest.fixture(name="place", scope="module")
def place_fixture(tmp_path_factory):
    """`model.keras`, a folder `photos` of two classes, and `turned.jpg`, which EXIF turns."""
    root = tmp_path_factory.mktemp("place")
    model = make_model(num_classes=2, class_names=("a", "b"))
    model.save(root / "model.keras")
    rng = np.random.default_rng(0)
    for k, name in enumerate("ababab"):
        split = "test" if k > 3 else "train"
        folder = root / "photos" / split / name
        folder.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((30, 20))
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(folder / f"{k}.jpg", exif=exif)
    return root


def test_export_flags_are_the_options_of_the_export(keras_vit_command, monkeypatch, place):
    given = _record(monkeypatch, "keras_vit.serving.export", "export_with_report")
    keras_vit_command(
        *("export", f"--model={place}/model.keras", place / "serving", "--max_batch_size=9"),
        *("--max_pixels=99", "--attention", "--warm_up", "--orientation=exif"),
    )
    model, _, options = given["args"]
    assert isinstance(options, ServingOptions)
    assert (options.max_batch_size, options.max_pixels, options.attention) == (9, 99, True)
    assert given["warm_up"] is True
    assert model.preprocessing.orientation == "exif"


@pytest.mark.parametrize(
    ("command", "where", "flags", "expected"),
    [
        (
            ("evaluate", "--model={root}/model.keras", "--dataset={root}/photos"),
            ("keras_vit.evaluators.classification", "evaluate"),
            ("--batch_size=3", "--split=train"),
            {"args": ("train", 3)},
        ),
        (
            ("features", "{root}/model.keras", "{root}/photos", "--output={root}/f.npz"),
            ("keras_vit.inference.features", "write_features"),
            ("--batch_size=3", "--layout=grid", "--max_pixels=99"),
            {"batch_size": 3, "layout": "grid", "max_pixels": 99},
        ),
    ],
    ids=["evaluate", "features"],
)
def test_the_model_that_is_given_to_the_work_turns_the_pictures(
    keras_vit_command, monkeypatch, place, command, where, flags, expected
):
    given = _record(monkeypatch, *where)
    words = [word.format(root=place) for word in command]
    keras_vit_command(*words, *flags, "--orientation=exif")
    assert given["args"][0].preprocessing.orientation == "exif"
    given["args"] = given["args"][2:]
    assert {name: given[name] for name in expected} == expected


def test_predict_turns_the_pictures(keras_vit_command, place):
    """What is answered differs."""
    words = ("predict", f"--model={place}/model.keras", place / "photos", "--json")
    stored, turned = (keras_vit_command(*words, f"--orientation={o}") for o in ("stored", "exif"))
    assert stored[0] == turned[0] == 0
    assert stored != turned
    assert keras_vit_command(*words) == stored


@pytest.mark.parametrize(
    "command",
    [
        ("predict", "--model={root}/model.keras", "{root}/photos"),
        ("validate", "{root}/photos", "--nofindings"),
        ("inspect", "{root}/model.keras", "--images={root}/photos", "--output={out}/r.json"),
    ],
    ids=lambda command: command[0],
)
def test_max_pixels_is_the_limit_of_what_is_decoded(keras_vit_command, place, tmp_path, command):
    words = [word.format(root=place, out=tmp_path) for word in command]
    code, out, err = keras_vit_command(*words, "--max_pixels=599")  # they have 30 x 20
    assert code != 0 or command[0] == "inspect"
    assert "an image may have at most 599 pixels" in out + err
    (tmp_path / "r.json").unlink(missing_ok=True)
    assert keras_vit_command(*words, "--max_pixels=600")[0] == 0


def test_calibrate_flags(keras_vit_command, monkeypatch, place, tmp_path):
    given = _record(monkeypatch, "keras_vit.evaluators.calibration", "calibrate")
    words = ("calibrate", f"--model={place}/model.keras", f"--dataset={place}/photos")
    flags = ("--split=train", "--batch_size=3")
    keras_vit_command(*words, *flags, tmp_path / "out.keras")
    _, info, split, batch_size = given["args"]
    assert isinstance(info, pipeline.DatasetInfo)
    assert (split, batch_size) == ("train", 3)
    (tmp_path / "out.keras").write_bytes(b"old")
    given.clear()
    code, _, err = keras_vit_command(*words, tmp_path / "out.keras")
    assert code != 0
    assert "overwrite" in err
    assert not given
    code, _, err = keras_vit_command(*words, "--overwrite", "--split=train", tmp_path / "out.keras")
    assert given, err


def test_benchmark_flags(keras_vit_command, monkeypatch, tmp_path):
    given = _record(monkeypatch, "keras_vit.benchmarks.speed", "each")
    keras_vit_command(
        *("benchmark", "ViT-B/16", "--backends=jax", "--seconds=2.5", "--batch_sizes=2"),
        *("--tasks=inference", f"--profile={tmp_path}"),
    )
    work, sizes = given["args"]
    assert (work.backend, work.seconds, sizes) == ("jax", 2.5, [2])
    assert work.profile == str(tmp_path / "inference-jax-float32-own")
