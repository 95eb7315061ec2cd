"""Table 6's exaFLOPs in three conventions, against the independent count."""

import json

import pytest

from keras_vit.paper import cost
from tests.conftest import REFERENCE

KEYS = {
    "all_taps": "exaflops",
    "inside_image": "exaflops_inside_image_jft_head",
    "xla": "exaflops_xla",
}


def test_table_6_and_its_residuals_in_every_convention():
    rows = json.loads((REFERENCE / "evaluation" / "cost" / "table6.json").read_text())["rows"]
    costs = cost.table6_costs()
    assert len(costs) == len(rows) == 18
    for ours, row in zip(costs, rows, strict=True):
        assert (ours["epochs"], ours["paper"]) == (row["epochs"], row["table6_exaflops"])
        for convention, key in KEYS.items():
            assert ours[convention] == pytest.approx(row[key], abs=0.011), (ours, convention)
            residual = row[f"residual_percent_{key}"]
            assert ours[f"{convention}_residual"] == pytest.approx(residual, abs=0.025)


def test_unknown_convention_is_an_error():
    with pytest.raises(ValueError, match="`convention` must be one of .* Received: 'fvcore'"):
        cost.exaflops("ViT-B/16", 7, "fvcore")
