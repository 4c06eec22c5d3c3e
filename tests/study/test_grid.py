"""The sweep algebra: what it builds, and that what is ambiguous is refused."""

from dataclasses import replace

import pytest

from ablax.errors import UserError
from ablax.study import grid
from tests.toys import SHORT, Config


def test_product_has_every_combination_once_last_axis_fastest():
    points = grid.product(a=[1, 2], b=[3, 4, 5])
    assert points == [{"a": a, "b": b} for a in (1, 2) for b in (3, 4, 5)]
    assert grid.product() == [{}]


def test_zipped_goes_in_step():
    assert grid.zipped(a=[1, 2], b=[3, 4]) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]


@pytest.mark.parametrize("lengths", [(2, 3), (3, 2), (1, 4)])
def test_unequal_zips_are_refused(lengths):
    a, b = (list(range(n)) for n in lengths)
    with pytest.raises(UserError, match=rf"equal lengths.*{lengths[0]}.*{lengths[1]}"):
        grid.zipped(a=a, b=b)


@pytest.mark.parametrize("build", [grid.product, grid.zipped])
def test_an_empty_axis_is_refused(build):
    with pytest.raises(UserError, match="b has no values"):
        build(a=[1], b=[])


def test_an_empty_row_is_refused():
    with pytest.raises(UserError, match="'L2' has no settings"):
        grid.rows({}, {"L2": []})


def test_cross_has_every_pair_and_refuses_a_repeated_axis():
    assert grid.cross(grid.product(a=[1, 2]), grid.zipped(b=[3], c=[4])) == [
        {"a": 1, "b": 3, "c": 4},
        {"a": 2, "b": 3, "c": 4},
    ]
    assert grid.cross([{"a": 1}], grid.product()) == [{"a": 1}]
    with pytest.raises(UserError, match="b is given twice"):
        grid.cross([{"a": 1, "b": 2}], [{"b": 2}])


def test_chain_and_rows():
    assert grid.chain([{"a": 1}], [], ({"a": n} for n in (2, 3))) == [{"a": n} for n in (1, 2, 3)]
    table = grid.rows({"width": 8}, {"L2": [{"l2": 1.0}], "wide": [{"width": 16}]})
    assert table == [
        {"group": "baseline", "width": 8},
        {"group": "L2", "width": 8, "l2": 1.0},
        {"group": "wide", "width": 16},
    ]


ROWS = grid.rows({}, {"L2": [{"l2": 0.1}, {"l2": 0.2}], "both": [{"l2": 0.1, "noise": 1.0}]})


def table(**axes):
    return grid.table(replace(SHORT, **axes), ROWS)


def test_a_table_is_its_rows_where_none_of_their_fields_is_an_axis():
    assert table() == ROWS
    assert table(l2=0.3) == ROWS, "a value is no axis"
    assert table(width=(3, 4), steps=(10,)) == [
        row | {"steps": 10, "width": width} for row in ROWS for width in (3, 4)
    ]


def test_a_table_is_the_grid_of_the_fields_of_its_rows_that_are_axes():
    assert table(noise=(0.5,)) == [{"noise": 0.5}]
    noisy = table(l2=(0.0, 0.3), noise=(1.0, 2.0))
    assert noisy == grid.product(noise=(1.0, 2.0), l2=(0.0, 0.3)), "in the order of the fields"
    crossed = table(l2=(0.0, 0.3), learning_rate=(0.1, 0.2))
    assert crossed == grid.product(learning_rate=(0.1, 0.2), l2=(0.0, 0.3))


def test_a_row_that_says_how_long_it_trains_keeps_that_and_is_there_once():
    rows = [*ROWS, {"group": "long", "steps": 99}]
    points = grid.table(replace(SHORT, steps=(10, 20)), rows)
    assert points == [*(row | {"steps": n} for row in ROWS for n in (10, 20)), rows[-1]]


def test_axes_are_the_fields_with_tuples():
    assert grid.axes(SHORT) == {}
    assert grid.axes(Config(l2=(0.0, 0.1), width=(3,))) == {"l2": (0.0, 0.1), "width": (3,)}


def test_nothing_changes_its_arguments():
    left, right = [{"a": 1}], [{"b": 2}]
    grid.cross(left, right)
    grid.rows(left[0], {"x": right})
    assert (left, right) == ([{"a": 1}], [{"b": 2}])
