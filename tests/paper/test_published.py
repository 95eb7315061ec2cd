"""The paper's tables as data, where they repeat each other."""

import statistics

import pytest

from keras_vit.data.catalog import names
from keras_vit.evaluators.vtab import TASKS
from keras_vit.paper import published


def test_means_of_table_9_are_those_of_its_columns():
    for row, mean in (("ViT-H/14 JFT", 77.63), ("ViT-L/16 JFT", 76.29), ("ViT-L/16 I21k", 72.71)):
        numbers = [published.cell("9", row, column) for column in published.VTAB_COLUMNS]
        assert statistics.fmean(numbers) == pytest.approx(mean, abs=0.006)
        assert published.cell("9", row, "Mean") == pytest.approx(mean, abs=0.06)


def test_columns_of_table_9_are_the_19_tasks_of_the_table_of_data_sets():
    assert sorted(published.VTAB_COLUMNS.values()) == sorted(TASKS)
    assert sorted(f"vtab/{task}" for task in TASKS) == sorted(names.list_datasets("vtab/*"))


def test_averages_of_table_7_are_those_of_its_rows():
    for column in published.tables()["7"]["columns"]:
        rows = ("ImageNet", "CIFAR-10", "CIFAR-100", "Pets", "Flowers")
        mean = statistics.fmean(published.cell("7", row, column) for row in rows)
        assert published.cell("7", "Average", column) == pytest.approx(mean, abs=0.011)


def test_jft_rows_of_table_5_are_in_table_6_but_for_the_contradiction_of_h14():
    lengths = {"ViT-B/16": 7, "ViT-B/32": 7, "ViT-L/16": 14, "ViT-L/32": 7, "ViT-H/14": 14}
    rows = {(row["model"], row["epochs"]): row for row in published.table6()}
    for model, epochs in lengths.items():
        for column in ("ImageNet", "CIFAR-10", "CIFAR-100", "Pets", "Flowers"):
            same = published.table5("JFT-300M", column, model) == rows[model, epochs][column]
            assert same or (model == "ViT-H/14" and column != "CIFAR-10"), (model, column)


def test_what_the_paper_leaves_out_is_none():
    assert published.cell("2", "CIFAR-10", "Noisy Student EfficientNet-L2") is None
    assert published.table5("ImageNet", "CIFAR-10", "ViT-H/14") is None
