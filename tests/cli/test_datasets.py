"""`keras-vit datasets`: the names that `--dataset` takes."""

import json
import subprocess
import sys

import keras_vit


def test_datasets_lists_the_table(keras_vit_command):
    code, out, err = keras_vit_command("datasets", "vtab/*")
    assert (code, err) == (0, "")
    header, *lines = out.splitlines()
    assert header.split()[:3] == ["name", "tfds", "classes"]
    assert [line.split()[0] for line in lines] == keras_vit.list_datasets("vtab/*")
    assert len(lines) == 19


def test_datasets_json_has_splits_and_protocol(keras_vit_command):
    code, out, _ = keras_vit_command("datasets", "--json", "imagenet2012*")
    assert code == 0
    imagenet, real = map(json.loads, out.splitlines())
    assert (imagenet["train"], imagenet["validation"]) == (1_268_355, 12_812)
    assert (imagenet["trainval"], imagenet["test"]) == (1_281_167, 50_000)
    assert (real["train"], real["evaluation"]) == (0, "accuracy, any of an image's labels")


def test_datasets_without_a_match_names_close_ones(keras_vit_command):
    code, out, err = keras_vit_command("datasets", "cifar11")
    assert (code, out) == (2, "")
    assert "did you mean cifar10 or cifar100" in err


def test_datasets_imports_nothing_heavy():
    code = (
        "import sys, keras_vit.cli.main as main; code = main.main(['datasets']); "
        "print(code, {'numpy', 'tensorflow', 'keras'} & set(sys.modules), file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['keras-vit']\n" + code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == "0 set()\n"
