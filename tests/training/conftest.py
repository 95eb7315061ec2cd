"""What several tests of training start from."""

import pytest

from tests import tiny


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Path of a tiny model's file."""
    path = tmp_path_factory.mktemp("source") / "model.keras"
    tiny.make_model().save(path)
    return path
