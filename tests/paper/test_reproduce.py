"""Experiments that are planned, run, stopped, gone on with and compared."""

import json
import statistics

import pytest

import keras_vit
from keras_vit.models.cost import count_parameters
from keras_vit.paper import execute, published
from keras_vit.paper.experiments import EXPERIMENTS
from keras_vit.paper.plan import config_of, make_plan
from keras_vit.paper.reproduce import get_experiment, write_results
from keras_vit.paper.results import make_results
from keras_vit.paper.work import CHECKPOINT, FINETUNE, PRETRAIN
from tests.tiny import make_model


def _pretend(run, folder, source, options):
    """Numbers that depend on the run alone."""
    del folder, source, options
    number = int(run.digest(), 16) % 1000 / 1000
    curve = {f"few_shot_{i}": number for i in range(1, (run.few_shot_points or 0) + 1)}
    return {"accuracy": number, "exaflops": number, "steps": 1, "num_parameters": 1, **curve}


@pytest.mark.parametrize("scale", ["full", "tiny"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_comes_after_what_it_starts_from_and_every_cell_has_its_runs(name, scale):
    experiment = get_experiment(name, scale=scale)
    seen = set()
    for run in experiment.runs:
        assert run.source is None or run.source in seen, run
        assert (run.checkpoint is not None) == (run.kind == CHECKPOINT), run
        seen.add(run.name)
    assert len(seen) == len(experiment.runs)
    used = {run for cell in experiment.cells for run in cell.runs}
    assert used <= seen
    sources = {run.source for run in experiment.runs}
    assert seen <= used | sources


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_planned(name):
    plan = keras_vit.reproduce(name, plan=True)
    text = str(plan)
    assert plan.exaflops > 0
    assert "files to fetch:" in text
    assert "total:" in text
    for planned in plan.runs:
        assert planned.run.kind == CHECKPOINT or planned.exaflops, planned


def test_plan_of_a_row_of_table_5_by_hand():
    plan = keras_vit.reproduce("table5", models=["ViT-H/14"], plan=True, teraflops=50)
    assert plan.files == {"imagenet21k/ViT-H_14": pytest.approx(2.6e9, rel=0.1)}
    cifar = next(p for p in plan.runs if "ImageNet-21k/CIFAR-10/" in p.run.name)
    assert cifar.trainings == 5  # four rates, and the final one
    assert cifar.steps == 50_000
    # 384 px: 27 x 27 + 1 tokens.
    tokens, hidden, mlp = 27 * 27 + 1, 1280, 5120
    block = tokens * (4 * hidden**2 + 2 * tokens * hidden + 2 * hidden * mlp)
    image = 27 * 27 * 14 * 14 * 3 * hidden + 32 * block + hidden * 10
    assert cifar.exaflops == pytest.approx(6 * image * 50_000 * 512 / 1e18)
    assert plan.hours(0.18) == pytest.approx(1.0)


def test_published_numbers_stand_beside_the_rows():
    experiment = get_experiment("table5", ["ViT-B/16"])
    cells = {(cell.row, cell.column): cell for cell in experiment.cells}
    assert len(cells) == 3 * 6
    assert cells["ViT-B/16, ImageNet-21k", "CIFAR-100"].published == 91.67
    real = cells["ViT-B/16, ImageNet", "ImageNet ReaL"]
    assert real.published == 83.57
    assert real.runs[0].endswith("/ImageNet/seed_0/real")
    table2 = {(c.row, c.column): c for c in get_experiment("table2").cells}
    imagenet = table2["ViT-L/16 I21k", "ImageNet"]
    assert (imagenet.published, imagenet.published_deviation) == (85.3, 0.02)
    assert len(imagenet.runs) == 3
    assert len(table2["ViT-L/16 I21k", "VTAB"].runs) == 19 * 3


def test_own_model_gets_a_row_without_published_numbers():
    experiment = get_experiment("vtab", ["runs/mine"])
    assert {cell.row for cell in experiment.cells} == {"runs/mine"}
    assert all(cell.published is None for cell in experiment.cells)
    assert experiment.runs[0].checkpoint == "runs/mine"
    assert [run.kind for run in experiment.runs] == [CHECKPOINT] + 19 * [FINETUNE]
    assert "size not known" in str(make_plan(experiment))


def test_stopped_and_started_again_repeats_nothing_and_ends_with_the_same_table(tmp_path):
    experiment = get_experiment("table5", ["ViT-B/32"], "tiny")
    whole = execute.execute(experiment, tmp_path / "whole", perform=_pretend)
    done = []

    def stop_after(number):
        def perform(run, *arguments):
            if len(done) == number:
                raise KeyboardInterrupt
            done.append(run.name)
            return _pretend(run, *arguments)

        return perform

    with pytest.raises(KeyboardInterrupt):
        execute.execute(experiment, tmp_path / "parts", perform=stop_after(7))
    parts = execute.execute(experiment, tmp_path / "parts", perform=stop_after(None))
    assert done == [run.name for run in experiment.runs]
    again = make_results(experiment, parts)
    assert again.values == make_results(experiment, whole).values


def test_mean_of_vtab_needs_all_19_tasks(tmp_path):
    experiment = get_experiment("vtab", scale="tiny")
    found = execute.execute(experiment, tmp_path, perform=_pretend)
    results = make_results(experiment, found)
    tasks = [results.value("ViT-L/16 I21k", c).measured for c in published.VTAB_COLUMNS]
    mean = results.value("ViT-L/16 I21k", "Mean")
    assert mean.measured == pytest.approx(sum(tasks) / 19)
    assert mean.deviation is None
    structured = results.value("ViT-L/16 I21k", "Structured")
    assert structured.measured == pytest.approx(sum(tasks[11:]) / 8)
    assert structured.published == 57.5
    del found[experiment.runs[5].name]
    assert make_results(experiment, found).value("ViT-L/16 I21k", "Mean").measured is None


def test_three_seeds_have_a_mean_and_a_deviation(tmp_path):
    experiment = get_experiment("table2", ["ViT-L/16 I21k"], "tiny")
    found = execute.execute(experiment, tmp_path, perform=_pretend)
    value = make_results(experiment, found).value("ViT-L/16 I21k", "CIFAR-10")
    numbers = [100 * found[run]["numbers"]["accuracy"] for run in value.runs]
    assert value.measured == pytest.approx(sum(numbers) / 3)
    assert value.deviation == pytest.approx(
        (sum((n - value.measured) ** 2 for n in numbers) / 2) ** 0.5
    )
    assert value.difference == pytest.approx(value.measured - 99.15)
    vtab = make_results(experiment, found).value("ViT-L/16 I21k", "VTAB")
    numbers = [100 * found[run]["numbers"]["accuracy"] for run in vtab.runs]
    means = [sum(numbers[seed::3]) / 19 for seed in range(3)]
    assert all(run.endswith("seed_1") for run in vtab.runs[1::3])
    assert vtab.deviation == pytest.approx(statistics.stdev(means))
    assert vtab.published_deviation == 0.21


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_results_are_written_as_text_csv_json_and_a_page_of_its_own(name, tmp_path):
    experiment = get_experiment(name, scale="tiny")
    results = make_results(experiment, execute.execute(experiment, tmp_path, perform=_pretend))
    paths = write_results(results, tmp_path)
    assert len(json.loads(paths["json"].read_text())["values"]) == len(experiment.cells)
    assert paths["csv"].read_text().count("\n") == len(experiment.cells) + 1
    page = paths["html"].read_text()
    assert results.rows[0] in page
    assert "src=" not in page
    assert "href=" not in page
    if name not in ("figure4", "figure8", "figure9", "figure13"):  # they have no printed numbers
        assert "[" in paths["txt"].read_text()
    assert "<svg" in page


@pytest.mark.parametrize("name", ["table8", "figure8", "figure9", "figure13"])
def test_small_ablations_have_every_design_three_times(name, tmp_path):
    full, small = (get_experiment(name, scale=scale) for scale in ("full", "small"))
    assert len(small.runs) == 3 * len(full.runs)
    found = execute.execute(small, tmp_path, perform=_pretend)
    for value in make_results(small, found).values:
        assert value.deviation > 0
        assert value.published is None
    for run in small.runs:
        assert run.dataset == "fashion_mnist"
        assert "JFT" not in run.name
        if run.kind == PRETRAIN:
            assert run.changes["seed"] == int(run.name[-1])
            config = config_of(run, image_size=run.changes["image_size"])
            assert count_parameters(config) < 2e6


def test_the_sizes_of_figure_8_cost_what_they_must():
    experiment = get_experiment("figure8")
    places = {(cell.row, cell.column): cell.x for cell in experiment.cells}
    # Counted by others and rounded; the last digit is open, as the head is in it or not.
    expected = {
        "depth": {"16": 1.96, "32": 3.87, "64": 7.70},
        "width": {"512": 0.38, "2048": 2.95},
        "MLP width": {"4096": 1.47, "8192": 2.42},
        "patch size": {"16": 3.95, "8": 17.7},
    }
    for row, sizes in expected.items():
        assert places[row, "start"] == 1.0
        for size, relative in sizes.items():
            assert places[row, size] == pytest.approx(relative, rel=5e-3, abs=0.01), (row, size)


def test_folder_of_another_plan_is_refused(tmp_path):
    execute.execute(get_experiment("figure4", ["R50x1"], "tiny"), tmp_path, perform=_pretend)
    with pytest.raises(ValueError, match="holds the runs of one plan"):
        execute.execute(get_experiment("figure4", ["R50x1"]), tmp_path, perform=_pretend)


def test_wrong_wishes_are_said(tmp_path):
    with pytest.raises(ValueError, match="Received: 'table55'; did you mean table5"):
        keras_vit.reproduce("table55", plan=True)
    with pytest.raises(ValueError, match="`scale` must be one of full, small, tiny"):
        keras_vit.reproduce("table5", plan=True, scale="medium")
    with pytest.raises(ValueError, match="is for the ablations table8.*Received: 'table5'"):
        keras_vit.reproduce("table5", plan=True, scale="small")
    with pytest.raises(ValueError, match="`workdir` must name"):
        keras_vit.reproduce("table5")
    with pytest.raises(ValueError, match="must be public. Received: pretrain/R50x1/JFT-300M"):
        keras_vit.reproduce("table6", models=["R50x1"], workdir=tmp_path)
    with pytest.raises(ValueError, match="`teraflops` must be positive"):
        keras_vit.reproduce("table5", plan=True, teraflops=0)


@pytest.mark.tensorflow_only
def test_table_8_runs_tiny_from_end_to_end(tmp_path, digits_dir):
    """Pre-trains a model, and evaluates its features and those of a user's."""
    options = {"scale": "tiny", "workdir": tmp_path, "data_dir": digits_dir, "progress": False}
    own = tmp_path / "mine.keras"
    make_model(num_classes=10, image_size=16).save(own)
    results = keras_vit.reproduce("table8", models=["relative", str(own)], **options)
    measured = {value.row: value.measured for value in results.values}
    assert 0 <= measured["relative"] <= 1
    assert measured[str(own)] > 0.2
    before = (tmp_path / "results.json").read_text()
    again = keras_vit.reproduce("table8", models=["relative", str(own)], **options)
    assert again.values == results.values
    assert (tmp_path / "results.json").read_text() == before


@pytest.mark.slow
@pytest.mark.tensorflow_only
@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("table2", ["ViT-L/16 I21k"]),
        ("table5", ["ViT-B/32"]),
        ("table6", ["R50+ViT-B/16"]),
        ("table7", ["R50"]),
        ("figure3", ["ViT-B/16"]),
        ("figure4", ["ViT-b/32", "R50x1"]),
        ("figure5", ["ViT-B/16"]),
        ("table8", ["2-D"]),
        ("figure8", ["all"]),
        ("figure9", ["class token, 8e-4", "mean pooling, 3e-4"]),
        ("figure13", ["Axial-ViT-B/32", "AxialResNet50"]),
        ("vtab", None),
    ],
)
def test_experiment_runs_tiny_from_end_to_end(name, models, tmp_path, digits_dir):
    results = keras_vit.reproduce(
        name, models=models, scale="tiny", workdir=tmp_path, data_dir=digits_dir, progress=False
    )
    assert all(value.measured is not None for value in results.values)
    kinds = {run.kind for run in results.experiment.runs}
    assert PRETRAIN in kinds
