"""`keras-vit probe`, its numbers and its errors."""

import json

import pytest

from tests.tiny import make_model


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "digits.keras"
    make_model(num_classes=10).save(path)
    return path


@pytest.fixture
def probe(keras_vit_command, digits_model, digits_dir, tmp_path):
    def run(*arguments, model=digits_model):
        return keras_vit_command(
            "probe",
            model,
            "--dataset=digits/all",
            f"--data_dir={digits_dir}",
            f"--cache_dir={tmp_path / 'features'}",
            *arguments,
        )

    return run


def test_three_methods_share_what_is_kept(probe, tmp_path):
    code, out, _ = probe("--method=knn", "--neighbours=5,20", "--json")
    assert code == 0
    assert json.loads(out)["k20"] > 0.3
    kept = sorted(path.name for path in (tmp_path / "features").iterdir())
    assert len(kept) == 2  # of the training and of the test split
    path = tmp_path / "linear.json"
    flags = ("--method=linear", "--learning_rates=0.1,1", "--steps=20", f"--output={path}")
    code, out, _ = probe(*flags)
    assert code == 0
    assert "accuracy" in out
    assert json.loads(path.read_text())["accuracy"] > 0.2
    assert len(list((tmp_path / "features").iterdir())) == 3  # and of the validation split
    code, out, _ = probe("--shots=5", "--preprocessing=model")
    assert code == 0
    assert "5shot/seed2" in out
    assert len(list((tmp_path / "features").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--neighbours=5"], "--neighbours is of --method=knn. Received: --method=fewshot"),
        (["--shots=5.5"], "--shots takes whole numbers. Received: '5.5'"),
        (["--shots=500"], "at least as many images as shots"),
        (["--test_split=tests"], "did you mean 'test'?"),
        (["--method=linear", "--validation_split=none"], "there must be a validation split"),
        (["--representation=logits"], "`representation` must be one of"),
    ],
)
def test_wrong_wish_is_one_line(probe, arguments, message):
    code, _, err = probe(*arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_model_is_needed(keras_vit_command):
    code, _, err = keras_vit_command("probe", "--dataset=digits/all")
    assert code == 2
    assert "probe takes one model. Received: none" in err
