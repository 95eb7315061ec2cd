"""A file of predictions: one writer, one model, and what is wrong with it is one sentence."""

import csv
import os

import pytest

from keras_vit import files
from keras_vit.cli.errors import CommandError
from keras_vit.cli.prediction_file import PredictionFile
from keras_vit.inference.predict import ImagePredictions, Prediction

SETTINGS = {"model": "a.keras", "model_sha256": "0" * 64, "top_k": 1, "activation": "softmax"}


def answer(path, name="cat"):
    return ImagePredictions(path, (Prediction(0, name, 0.5),))


def begin(path, **settings):
    return PredictionFile(path, {**SETTINGS, **settings}, top_k=1)


@pytest.fixture(params=["csv", "jsonl"])
def path(request, tmp_path):
    return tmp_path / f"out.{request.param}"


def test_two_writers_exclude_each_other(path):
    first = begin(path)
    with pytest.raises(CommandError, match="another process writes .*; wait for it"):
        begin(path)
    first.write(answer("a.png"))
    first.close()
    second = begin(path)
    assert second.has("a.png")
    second.finish()
    second.close()
    assert os.listdir(path.parent) == [path.name]
    with pytest.raises(CommandError, match="exists"):
        begin(path)


def test_another_model_at_the_same_path_is_refused_with_the_difference(path):
    begin(path).close()
    with pytest.raises(CommandError, match="was begun with another model .from a.keras.; finish"):
        begin(path, model_sha256="1" * 64)
    with pytest.raises(CommandError, match="begun with top_k 1 instead of 2"):
        begin(path, top_k=2)
    begin(path, model="moved.keras").close()


@pytest.mark.parametrize(
    "damage", [b"\x00\xff{]\n", b'{"path": 3}\n', b'"x"\n', b"[" * 10**5 + b"\n"]
)
@pytest.mark.parametrize("which", ["", ".json"])
def test_a_damaged_file_is_one_sentence_with_the_remedy(path, damage, which):
    file = begin(path)
    file.write(answer("a.png"))
    file.close()
    target = path.with_name(f"{path.name}.partial{which}")
    target.write_bytes(damage if which else target.read_bytes() + damage)
    if which or path.suffix == ".jsonl":
        with pytest.raises(CommandError, match="--overwrite"):
            begin(path)
    PredictionFile(path, SETTINGS, top_k=1, overwrite=True).close()


def test_what_is_not_ours_is_left_alone(path):
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(CommandError, match="nothing says that keras-vit wrote it"):
            PredictionFile(path, SETTINGS, top_k=1, overwrite=overwrite)
    assert partial.read_text() == "mine"


def test_a_planted_link_or_pipe_is_not_written_through(path):
    begin(path).close()
    partial, victim = path.with_name(f"{path.name}.partial"), path.with_name("victim")
    victim.write_text("kept")
    partial.unlink()
    partial.symlink_to(victim)
    with pytest.raises(OSError):
        begin(path)
    partial.unlink()
    os.mkfifo(partial)
    with pytest.raises(OSError):
        begin(path)
    assert victim.read_text() == "kept"


def test_formulas_and_broken_text_are_written_so_that_a_spreadsheet_and_a_decoder_survive(tmp_path):
    path = tmp_path / "out.csv"
    file = begin(path)
    names = ["=cmd.png", "-1.png", "@x", "\udcff.png", "plain.png"]
    for name in names:
        file.write(answer(name, name="=HYPERLINK(1)\ud800"))
    file.close()
    again = begin(path)
    assert all(again.has(name) for name in names)
    again.finish()
    again.close()
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as text:
        rows = list(csv.DictReader(text))
    assert [row["path"][0] for row in rows] == ["'", "'", "'", "\udcff", "p"]
    assert {row["class_name_1"] for row in rows} == {"'=HYPERLINK(1)\\ud800"}


def test_a_lock_that_another_holds_is_seen(path):
    with files.lock(path.with_name(f"{path.name}.lock")), pytest.raises(CommandError):
        begin(path)
