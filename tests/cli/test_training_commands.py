"""The commands `pretrain`, `finetune` and `evaluate`, one after the other."""

import json

import pytest

from keras_vit.training import run_folder
from tests import tiny

# Plain SGD is the fastest to trace.
SHORT = [
    "--set=steps=2",
    "--set=warmup_steps=0",
    "--set=optimizer=sgd",
    "--set=global_clipnorm=none",
    "--noreport",
]
TINY = [
    *SHORT,
    "--set=weight_decay=0",
    "--set=batch_size=8",
    "--set=depth=1",
    "--set=hidden_size=16",
    "--set=image_size=8",
]


@pytest.fixture(scope="module")
def workdir(digits_dir, tmp_path_factory):
    from keras_vit.cli.main import main

    workdir = tmp_path_factory.mktemp("runs") / "pretrain"
    arguments = ["--dataset=digits/upstream", f"--workdir={workdir}", f"--data_dir={digits_dir}"]
    assert main(["pretrain", *arguments, *TINY]) == 0
    return workdir


def test_finetune_then_evaluate_agree(keras_vit_command, workdir, digits_dir, tmp_path):
    data = ["--dataset=digits/downstream", f"--data_dir={digits_dir}"]
    code, out, _ = keras_vit_command(
        *("finetune", f"--model={workdir}", *data, f"--workdir={tmp_path / 'run'}"),
        *("--image_size=12", *SHORT, "--json"),
    )
    assert code == 0
    metrics = json.loads(out)
    assert metrics["recipe"]["image_size"] == [12, 12]
    evaluate = ("evaluate", f"--model={tmp_path / 'run'}", *data, f"--output={tmp_path / 'm.json'}")
    code, out, err = keras_vit_command(*evaluate)
    assert (code, err) == (0, "")
    assert str(tmp_path / "m.json") in out
    written = json.loads((tmp_path / "m.json").read_text())
    assert written["split"] == "test"
    assert {key: written[key] for key in metrics["test"]} == pytest.approx(metrics["test"])
    code, _, err = keras_vit_command(*evaluate)
    assert code == 1
    assert "exists" in err


def test_finetune_tunes_what_its_flags_say(keras_vit_command, digits_dir, tmp_path):
    tiny.make_model(num_classes=5).save(tmp_path / "m.keras")
    code, out, _ = keras_vit_command(
        *("finetune", f"--model={tmp_path / 'm.keras'}", "--dataset=digits/downstream", *SHORT),
        *("--json", "--image_size=8", f"--data_dir={digits_dir}", f"--workdir={tmp_path / 'run'}"),
        *("--tune=lora:2", "--layer_decay=0.75", "--set=lora_targets=query,value"),
    )
    assert code == 0
    recipe = json.loads(out)["recipe"]
    assert (recipe["tune"], recipe["layer_decay"]) == ("lora:2", 0.75)
    assert recipe["lora_targets"] == ["query", "value"]
    adapter = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert adapter["r"] == 2
    assert [name.rpartition(".")[2] for name in adapter["target_modules"]] == ["query", "value"]


def test_pretrain_says_where_everything_is(keras_vit_command, digits_dir, tmp_path):
    arguments = ["--dataset=digits/upstream", f"--data_dir={digits_dir}", *TINY]
    code, out, err = keras_vit_command("pretrain", f"--workdir={tmp_path}", *arguments)
    assert code == 0
    assert all(line.startswith("keras-vit: pretrain: step 2/2: ") for line in err.splitlines())
    for name in run_folder.FILES:
        assert str(tmp_path / name) in out
    code, out, err = keras_vit_command("pretrain", f"--workdir={tmp_path}", *arguments)
    assert (code, out) == (1, "")
    assert "holds a finished run" in err


DATA = ["--dataset=digits/upstream"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pretrain", *DATA], 2, "pretrain needs --workdir"),
        (["finetune", "--model=m", *DATA, "--tune=lora"], 2, "`tune` must be one of"),
        (["finetune", *DATA, "--tune=head", "--set=tune=bias"], 2, "--tune or --set=tune"),
        (["finetune", *DATA, "--layer_decay=2"], 2, "layer_decay"),
        (["pretrain", "--workdir=w", *DATA, "more"], 2, "takes flags only"),
        (["pretrain", "--workdir=w", *DATA, "--set=stepz=2"], 2, "Close: steps"),
        (["pretrain", "--workdir=w", *DATA, "--set=steps=many"], 2, "must be an integer"),
        (["pretrain", "--workdir=w", *DATA, "--recipe=digit_pretrain"], 2, "digits_pretrain"),
        (["pretrain", "--workdir=w", "--dataset=digits/upstrem"], 2, "digits/upstrem"),
        (["pretrain", "--workdir=w", "--dataset=./none"], 1, "./none"),
        (["pretrain", "--workdir=/dev/null/w", *DATA], 1, "/dev/null/w"),
        (["finetune", "--model=no.keras", *DATA, "--workdir=w"], 1, "no.keras"),
        (
            ["finetune", "--model=m", *DATA, "--workdir=w", "--image_size=8", "--set=image_size=8"],
            2,
            "not both",
        ),
        (["evaluate", "--model=no.keras", *DATA], 1, "no.keras"),
        (["evaluate", "--model=no.keras", *DATA, "--split=tset"], 2, "did you mean 'test'"),
        (["evaluate", "--model=m", *DATA, "--output=/dev/null/m.json"], 1, "/dev/null"),
    ],
)
def test_errors_are_one_line(
    arguments, code, words, keras_vit_command, digits_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    data_dir = [] if words.startswith("pretrain needs") else [f"--data_dir={digits_dir}"]
    received, out, err = keras_vit_command(*arguments, *data_dir)
    assert (received, out) == (code, "")
    assert words in err
    assert err.startswith("keras-vit: error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_evaluate_on_other_classes_is_refused(keras_vit_command, workdir, digits_dir):
    code, _, err = keras_vit_command(
        *("evaluate", f"--model={workdir}"),
        *("--dataset=digits/downstream", f"--data_dir={digits_dir}"),
    )
    assert code == 2
    assert "class 0 is '0' in the model and '5'" in err
