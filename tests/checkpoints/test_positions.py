"""Position resizing against scipy's zoom, which the official code calls, and hand-worked cases."""

import pathlib

import numpy as np
import pytest
import scipy.ndimage

from keras_vit.checkpoints.positions import resize_matrix, resize_positions
from keras_vit.resize_rules import RULES

# PyTorch's `interpolate` in float32, for each rule; grids that grow, shrink, and both.
TORCH = pathlib.Path(__file__).parents[1] / "reference" / "torch" / "position_resize.ref.npz"
ROUNDING = 1e-6  # one rounding to float32 of values around 1


def zoom(grid, new_grid):
    factors = (new_grid[0] / grid.shape[0], new_grid[1] / grid.shape[1], 1)
    return scipy.ndimage.zoom(grid, factors, order=1)


def zoom_is_right(size, new_size):
    """Whether scipy's last sample stays inside the grid in float64 and is not set to zero."""
    return new_size == 1 or (new_size - 1) * ((size - 1) / (new_size - 1)) <= size - 1


SIZES = (1, 2, 3, 7, 8, 12, 14, 15, 16, 24, 28, 32, 37, 48)


@pytest.mark.parametrize("size", SIZES)
def test_resizing_is_scipys_zoom_where_that_is_right(size):
    grid = np.random.default_rng(size).normal(size=(size, size, 3)).astype("float32")
    for new_size in SIZES:
        if not zoom_is_right(size, new_size):
            continue
        expected = zoom(grid, (new_size, new_size)).reshape(1, -1, 3)
        actual = resize_positions(
            grid.reshape(1, -1, 3), (size, size), (new_size, new_size), num_prefix_tokens=0
        )
        np.testing.assert_allclose(actual, expected, atol=ROUNDING)


@pytest.mark.parametrize(("size", "new_size"), [(28, 48), (24, 22), (48, 24)])
def test_resizing_is_right_where_zoom_zeroes_a_border(size, new_size):
    grid = np.random.default_rng(0).normal(size=(size, size, 2)).astype("float32")
    assert not zoom_is_right(size, new_size)
    official = zoom(grid, (new_size, new_size))
    assert (official[-1] == 0).all()
    actual = resize_positions(
        grid.reshape(1, -1, 2), (size, size), (new_size, new_size), num_prefix_tokens=0
    ).reshape(new_size, new_size, 2)
    np.testing.assert_allclose(actual[:-1, :-1], official[:-1, :-1], atol=ROUNDING)
    corners = ((0, 0), (0, -1), (-1, 0), (-1, -1))
    for row, column in corners:
        np.testing.assert_allclose(actual[row, column], grid[row, column], atol=ROUNDING)
    coordinates = np.arange(new_size) * (size - 1) / (new_size - 1)
    expected_edge = np.interp(coordinates, np.arange(size), grid[-1, :, 0].astype("float64"))
    np.testing.assert_allclose(actual[-1, :, 0], expected_edge, atol=ROUNDING)


@pytest.mark.parametrize(
    ("grid", "new_grid"), [((2, 5), (4, 3)), ((7, 7), (3, 9)), ((4, 6), (6, 4))]
)
def test_rectangles_are_resized_in_both_directions(grid, new_grid):
    values = np.random.default_rng(0).normal(size=(*grid, 3)).astype("float32")
    actual = resize_positions(values.reshape(1, -1, 3), grid, new_grid, num_prefix_tokens=0)
    np.testing.assert_allclose(actual, zoom(values, new_grid).reshape(1, -1, 3), atol=ROUNDING)


def test_prefix_tokens_stay_as_they_are():
    positions = np.random.default_rng(0).normal(size=(1, 5, 3)).astype("float32")
    resized = resize_positions(positions, (2, 2), (3, 3), num_prefix_tokens=1)
    assert resized.shape == (1, 10, 3)
    np.testing.assert_array_equal(resized[:, 0], positions[:, 0])


def test_interpolation_worked_by_hand():
    grid = np.arange(9.0).reshape(1, 9, 1)
    resized = resize_positions(grid, (3, 3), (4, 4), num_prefix_tokens=0)
    np.testing.assert_allclose(resized[0, :4, 0], [0, 2 / 3, 4 / 3, 2], rtol=1e-6)
    assert resize_positions(grid, (3, 3), (1, 1), num_prefix_tokens=0).item() == 0
    for size in range(1, 50):
        for new_size in range(1, 50):
            for rule in RULES:
                matrix = resize_matrix(rule, size, new_size)
                np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-12)


def test_positions_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 5, D\) of a 2x2 grid and 1 prefix"):
        resize_positions(np.zeros((1, 4, 3)), (2, 2), (3, 3))
    with pytest.raises(ValueError, match="at least 1 by 1"):
        resize_positions(np.zeros((1, 1, 3)), (0, 2), (3, 3))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", ["up", "down", "much"])
def test_each_rule_gives_pytorchs_numbers(rule, case, assert_close):
    with np.load(TORCH) as file:
        positions, expected = file[f"{case}/positions"], file[f"{case}/{rule}"]
        grid, new_grid = np.split(file[f"{case}/grids"], 2)
    resized = resize_positions(positions, tuple(grid), tuple(new_grid), 0, rule)
    assert_close(resized, expected, ROUNDING)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="`rule` must be one of aligned"):
        resize_positions(np.zeros((1, 4, 2)), (2, 2), (3, 3), 0, "nearest")
