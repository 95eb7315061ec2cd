"""The paper's own numbers, read from the one file that has them, `paper_tables.json`."""

import functools
import json
import pathlib

SOURCE = "arXiv:2010.11929v2"
# Table 9's columns -> our names of the tasks.
VTAB_COLUMNS = {
    "Caltech101": "caltech101",
    "CIFAR-100": "cifar100",
    "DTD": "dtd",
    "Flowers102": "oxford_flowers102",
    "Pets": "oxford_iiit_pet",
    "Sun397": "sun397",
    "SVHN": "svhn",
    "Camelyon": "patch_camelyon",
    "EuroSAT": "eurosat",
    "Resisc45": "resisc45",
    "Retinopathy": "diabetic_retinopathy",
    "Clevr-Count": "clevr_count",
    "Clevr-Dist": "clevr_distance",
    "DMLab": "dmlab",
    "dSpr-Loc": "dsprites_location",
    "dSpr-Ori": "dsprites_orientation",
    "KITTI-Dist": "kitti_distance",
    "sNORB-Azim": "smallnorb_azimuth",
    "sNORB-Elev": "smallnorb_elevation",
}


@functools.cache
def tables():
    """The tables by number, "1" to "9", as `paper_tables.json` has them."""
    path = pathlib.Path(__file__).with_name("paper_tables.json")
    return json.loads(path.read_text(encoding="utf-8"))["tables"]


def cell(table, row, column, *, of="rows"):
    """A number of the table, per cent where it is an accuracy; None where the paper has none.

    Args:
        table: "2", "5", "7", "8" or "9", whose rows have names.
        row: the row's name.
        column: the column's name.
        of: "rows", or "deviations" where the table has them.
    """
    found = tables()[table]
    value = found[of][row][found["columns"].index(column)]
    return value if isinstance(value, int | float) else None


def table5(pretraining, dataset, model):
    """A number of Table 5, whose rows are in groups by the pre-training's data set."""
    found = tables()["5"]
    return found["rows"][pretraining][dataset][found["columns"].index(model)]


def table6():
    """Table 6 as a list of dicts with its column names."""
    found = tables()["6"]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
