"""tools/tuning_table.py: what a table says of the runs that it was given."""

import importlib.util
import pathlib

from tests import tiny

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "tuning_table.py"


def load_tool():
    spec = importlib.util.spec_from_file_location("tuning_table", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_the_table_has_means_and_deviations_over_the_seeds(capsys):
    tool = load_tool()
    run = {"trained": 1234, "seconds_a_step": 0.05, "peak_mb": 900, "stored_bytes": 4200}
    table = {
        f"{row}/{seed}": {**run, "accuracy": accuracy}
        for row in tool.ROWS
        for seed, accuracy in enumerate((0.8, 0.9, 0.85))
    }
    tool.report(table, 3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(tool.ROWS)
    assert lines[-1] == "| head | x 10 | 85.00 ± 5.00 | 1,234 | 50 | 900 | 4 |"


def test_what_is_trained_is_counted():
    model = tiny.make_model()
    features, classes = model.get_layer("head").kernel.shape
    assert load_tool().num_trained(model, {"tune": "head"}) == (features + 1) * classes
