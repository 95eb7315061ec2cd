"""A run's files as they are written, and as people leave them."""

from keras_vit.analysis.run_facts import curves, is_run, run_facts


def test_the_files_of_a_run_are_read(tmp_path):
    (tmp_path / "recipe.json").write_text('{"learning_rate": 0.1}')
    (tmp_path / "metrics.json").write_text('{"test": {"accuracy": 0.5}}')
    (tmp_path / "history.csv").write_text(
        "step,learning_rate,loss,val_loss,fewshot/10\n10,0.1,2.0,2.5,\n20,0.05,nan,2.0,0.7\n"
    )
    (tmp_path / "skipped.jsonl").write_text('{"path": "a.png", "reason": "empty"}\n\n')
    found = run_facts(tmp_path)
    assert found["problems"] == []
    assert found["recipe"] == {"learning_rate": 0.1}
    assert found["metrics"]["test"]["accuracy"] == 0.5
    assert found["skipped"] == [{"path": "a.png", "reason": "empty"}]
    groups, x_title = curves(found["history"])
    assert x_title == "Step"
    assert groups == {
        "learning_rate": {"training": ((10, 20), (0.1, 0.05))},
        "loss": {"training": ((10,), (2.0,)), "validation": ((10, 20), (2.5, 2.0))},
        "fewshot/10": {"training": ((20,), (0.7,))},
    }


def test_what_cannot_be_read_is_said_and_the_rest_is_there(tmp_path):
    (tmp_path / "recipe.json").write_text("{")
    (tmp_path / "metrics.json").write_text("[1]")
    (tmp_path / "history.csv").write_text("")
    (tmp_path / "skipped.jsonl").write_bytes(b"\xff\n")
    found = run_facts(tmp_path)
    assert [problem.split()[0] for problem in found["problems"]] == [
        "recipe.json",
        "metrics.json",
        "skipped.jsonl",
    ]
    assert found["history"] == {}
    assert curves({}) == ({}, "Report")


def test_a_run_is_told_by_its_files(tmp_path):
    assert not is_run(tmp_path)
    assert not is_run(tmp_path / "model.keras")
    (tmp_path / "history.csv").write_text("")
    assert is_run(tmp_path)
