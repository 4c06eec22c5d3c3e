"""The figures of every report: drawn when there is something to draw, and true to the numbers."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from ablax.errors import Missing
from ablax.report import charts, selection, standard, statistics
from ablax.report import plot as figures
from ablax.report.ablation import ablation
from ablax.report.statistics import Interval
from ablax.report.study import Study
from tests.report.runs import (
    BASE,
    COLUMNS,
    LINEAR,
    NOTHING,
    POINTS,
    STRONG,
    WEAK,
    point,
    random_trials,
    series,
    trial,
    write,
    write_curves,
)

MAX, MIN = {"accuracy": "max", "loss": "min"}, {"loss": "min", "accuracy": "max"}


@pytest.fixture(autouse=True)
def style():
    with figures.style():
        yield


def standard_figures(table):
    return standard.figures(table, ablation(table))


def drawn(figure):
    """The bytes of a figure, which draws it for real."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


# Which figures there are


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("curves", [False, True])
def test_a_figure_is_drawn_where_there_is_something_to_draw(curves, restarts, tmp_path):
    trials = random_trials(restarts=restarts)
    table = write(tmp_path, POINTS, trials)
    if curves:
        write_curves(tmp_path, trials)
        table = Study(tmp_path)
    expected = ["restarts"]
    expected += ["curves"] if curves else []
    expected += ["profiles", "best_of_k"] if restarts > 1 else []
    result = standard_figures(table)
    assert list(result) == expected, "the first sums the study up"
    for name, figure in result.items():
        assert figure.get_label().endswith("."), f"{name} has a caption"


def grid(first, second, **fields):
    """Points of a full grid of two fields."""
    (a, of_a), (b, of_b) = first, second
    return [
        point(f"{a}={x:g} {b}={y:g}", f"{a}={x:g} {b}={y:g}", **{a: x, b: y}, **fields)
        for x, y in itertools.product(of_a, of_b)
    ]


L1, L2 = ("l1", (0.0, 0.1)), ("l2", (0.0, 0.01, 1.0))
FULL = grid(L1, L2)
CUBE = [{**of, "name": f"{of['name']} {rate}", "rate": rate} for of in FULL for rate in (0.1, 0.2)]
WIDTHS = grid(L1, ("width", (8, 16)))
MODELS = [{**of, "model": "mlp" if of["l1"] else "linear"} for of in FULL]
NAMED = [{**of, "optimizer": "adam" if of["l1"] else "sgd"} for of in FULL]
LENGTHS = [{**of, "protocol/steps": 100 if of["l1"] else 200} for of in FULL]


@pytest.mark.parametrize(
    ("points", "there"),
    [
        pytest.param(FULL, True, id="full"),
        pytest.param(FULL[::-1], True, id="reversed"),
        pytest.param(grid(L1, ("max_norm", (1.0, np.inf))), True, id="infinite"),
        pytest.param(FULL[:-1], False, id="a hole"),
        pytest.param(FULL[:3], False, id="one axis"),
        pytest.param(CUBE, False, id="three axes"),
        pytest.param(WIDTHS, False, id="an axis that is static"),
        pytest.param(MODELS, False, id="a third that is text"),
        pytest.param(NAMED, False, id="a third that is text, and last"),
        pytest.param(LENGTHS, False, id="a third that is the protocol's"),
        pytest.param(POINTS, False, id="no grid"),
        pytest.param([BASE], False, id="one point"),
    ],
)
def test_a_heat_map_is_of_a_full_grid_of_two_numbers(points, there, tmp_path):
    table = write(tmp_path, points, random_trials(points, restarts=2))
    result = standard_figures(table)
    assert ("heat_map" in result) == there
    if there:
        drawn(result["heat_map"])


@pytest.mark.parametrize("metrics", [MAX, MIN])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("first", "second"), [(L1, L2), (L2, L1)])
def test_the_cells_of_a_heat_map_are_the_means_of_their_points(
    first, second, order, metrics, tmp_path
):
    """At the place that the axes say, whichever field comes first and in whatever order."""
    points = grid(first, second)[::order]
    table = write(tmp_path, points, random_trials(points), metrics=metrics)
    figure = standard.heat_map(table)
    ax = figure.axes[0]
    names = ax.get_ylabel(), ax.get_xlabel()
    assert set(names) == {"l1", "l2"}
    ticks = [
        [float(t.get_text()) for t in ts] for ts in (ax.get_yticklabels(), ax.get_xticklabels())
    ]
    assert [ticks[names.index("l1")], ticks[names.index("l2")]] == [list(L1[1]), list(L2[1])]
    texts = {text.get_position()[::-1]: text.get_text() for text in ax.texts}
    image = ax.images[0].get_array()
    best = selection.best(table).point
    assert ax.images[0].origin == "lower"
    for of in points:
        i, j = (ticks[axis].index(of[name]) for axis, name in enumerate(names))
        mean = table.trials.groupby("point")[f"test/{next(iter(metrics))}"].mean()[of["name"]]
        assert image[i, j] == pytest.approx(mean)
        assert texts[i, j] == f"{mean:.4g}" + ("*" if of["name"] == best else "")
    assert len(texts) == image.size == len(points)


# Restarts


def test_every_restart_is_a_dot_and_every_row_a_mean(tmp_path):
    table = write(tmp_path, POINTS, random_trials(restarts=5))
    rows = ablation(table)
    (ax,) = standard.strips(table, rows).axes
    dots = [line for line in ax.lines if line.get_marker() == "."]
    means = [line for line in ax.lines if line.get_marker() == "o"]
    for place, row in enumerate(rows):
        values = table.values(row.chosen, "test/accuracy")
        assert dots[place].get_xdata().tolist() == values.tolist()
        assert np.abs(dots[place].get_ydata() - place).max() < 0.5
        assert (means[place].get_xdata()[0], means[place].get_ydata()[0]) == (
            pytest.approx(row.mean.estimate),
            place,
        )
    labels = [label.get_text() for label in ax.get_yticklabels()]
    families = ("base", "base", "linear", "linear")
    assert labels == [f"{row.group} ({f})" for row, f in zip(rows, families, strict=True)]
    assert ax.yaxis_inverted(), "in the order of the table"
    ends = {
        tuple(np.round(segment[:, 0], 9)) for c in ax.collections for segment in c.get_segments()
    }
    assert ends == {(round(row.mean.low, 9), round(row.mean.high, 9)) for row in rows}


def test_what_differs_from_its_baseline_is_filled(tmp_path):
    trials = series(BASE, test_accuracy=[0.5] * 8) + series(WEAK, test_accuracy=[0.7] * 8)
    table = write(tmp_path, [BASE, WEAK], trials)
    for level, face in ((0.05, "black"), (0.001, "white")):
        table.significance = level
        (ax,) = standard.strips(table, ablation(table)).axes
        mean = [line for line in ax.lines if line.get_marker() == "o"][1]
        assert to_rgba(mean.get_markerfacecolor()) == to_rgba(face)


# Profiles


def share_at(line, threshold):
    """The value of a drawn step function at a threshold."""
    x, y = line.get_xdata(), line.get_ydata()
    if line.get_drawstyle() == "steps-pre":
        return y[np.searchsorted(x, threshold, "left")]
    assert line.get_drawstyle() == "steps-post"
    return y[np.searchsorted(x, threshold, "right") - 1]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metrics", [MAX, MIN])
def test_a_profile_is_the_share_of_restarts_at_least_as_good(metrics, ties, tmp_path):
    trials = random_trials(restarts=7)
    if ties:
        for row in trials:
            row |= {name: round(row[name], 1) for name in COLUMNS}
    table = write(tmp_path, POINTS, trials, metrics=metrics)
    name = next(iter(metrics))
    rows = ablation(table)
    axes = standard.profiles(table, rows).axes
    assert [ax.get_title() for ax in axes] == ["base", "linear"]
    lines = [line for ax in axes for line in ax.lines]
    for line, row in zip(lines, rows, strict=True):
        assert line.get_label() == row.group
        values = table.values(row.chosen, f"test/{name}").to_numpy()
        for threshold in [*values, *np.linspace(values.min(), values.max(), 50)]:
            good = values >= threshold if metrics is MAX else values <= threshold
            assert share_at(line, threshold) == pytest.approx(good.mean())


# What restarts buy


@pytest.mark.parametrize("objective", [("accuracy", "max"), ("loss", "min")])
def test_the_best_of_k_is_what_statistics_says(objective, tmp_path):
    """The mean over all ways to draw k, by the validation metric, in its own direction."""
    name, direction = objective
    trials = random_trials([BASE, WEAK], restarts=4)
    recorded = {"name": name, "direction": direction}
    table = write(tmp_path, [BASE, WEAK], trials, objective=recorded)
    rows = ablation(table)
    (ax,) = standard.budget(table, rows).axes
    pick = max if direction == "max" else min
    sign = 1 if direction == "max" else -1
    for line, row in zip(ax.lines, rows, strict=True):
        values = table.values(row.chosen, f"valid/{name}").to_numpy()
        assert line.get_label() == row.group
        assert line.get_xdata().tolist() == [1, 2, 3, 4]
        for k, result in zip(line.get_xdata(), line.get_ydata(), strict=True):
            written_out = np.mean([pick(draw) for draw in itertools.product(values, repeat=int(k))])
            assert result == pytest.approx(written_out)
            assert result == pytest.approx(sign * statistics.best_of_k(sign * values, int(k)))
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks == ["1", "2", "4"]


@pytest.mark.parametrize(("fix", "warned"), [(None, True), ("none", True), ("init+split", False)])
def test_restarts_on_splits_of_their_own_are_said_to_be_partly_luck(fix, warned, tmp_path):
    points = [BASE if fix is None else {**BASE, "fix": fix}]
    table = write(tmp_path, points, random_trials(points))
    caption = standard.budget(table, ablation(table)).get_label()
    assert ("--fix split" in caption) == warned


def test_without_validation_there_is_no_best_of_k(tmp_path):
    trials = [
        {name: value for name, value in row.items() if not name.startswith("valid/")}
        for row in random_trials()
    ]
    assert list(standard_figures(write(tmp_path, POINTS, trials, objective=None))) == [
        "restarts",
        "profiles",
    ]


# Learning curves


def with_curves(directory, curves, points=(BASE, WEAK), **study):
    """A study with curves: {trial: {step: {column: value}}}; WEAK is the best."""
    trials = [trial(p, r, valid_loss=0.1 if p is WEAK else 0.5) for p in points for r in range(2)]
    write(directory, list(points), trials, **study)
    rows = [
        {"trial": name, "step": step, **values}
        for name, evaluations in curves.items()
        for step, values in evaluations.items()
    ]
    pd.DataFrame(rows).to_parquet(directory / "curves.parquet")
    return Study(directory)


def test_curves_are_means_for_as_long_as_every_restart_runs(tmp_path):
    curves = {
        f"{name}/{r}": {
            step: {"train/loss": level / step + r, "valid/loss": 2 * level / step + r}
            for step in range(10, 40 + 10 * r, 10)
        }
        for name, level in (("base", 1.0), ("l2=0.1", 3.0))
        for r in range(2)
    }
    axes = standard.learning_curves(with_curves(tmp_path, curves)).axes
    assert [ax.get_ylabel() for ax in axes] == [
        "training loss (log scale)",
        "validation loss (log scale)",
    ]
    for ax, scale in zip(axes, (1, 2), strict=True):
        assert ax.get_yscale() == "log"
        assert [line.get_label() for line in ax.lines] == ["base", "l2=0.1"]
        for line, level in zip(ax.lines, (1.0, 3.0), strict=True):
            assert line.get_xdata().tolist() == [10, 20, 30]
            expected = [scale * level / step + 0.5 for step in (10, 20, 30)]
            assert line.get_ydata().tolist() == pytest.approx(expected)


def test_curves_of_what_is_no_loss_are_on_a_plain_scale(tmp_path):
    each = {step: {"valid/accuracy": 0.5} for step in (10, 20)}
    curves = {f"{p}/{r}": each for p in ("base", "l2=0.1") for r in (0, 1)}
    objective = {"name": "accuracy", "direction": "max"}
    (ax,) = standard.learning_curves(with_curves(tmp_path, curves, objective=objective)).axes
    assert (ax.get_yscale(), ax.get_ylabel()) == ("linear", "validation accuracy")


NAN = float("nan")


@pytest.mark.parametrize(
    "curves",
    [
        {"base/0": {10: {"valid/loss": NAN}}, "base/1": {10: {"valid/loss": 1.0}}},
        {"base/0": {10: {"valid/loss": 1.0}}},
        {"base/0": {10: {"valid/loss": 1.0}}, "base/1": {20: {"valid/loss": 1.0}}},
        {f"{p}/{r}": {10: {"valid/loss": NAN}} for p in ("base", "l2=0.1") for r in (0, 1)},
        {f"{p}/{r}": {10: {"grad_norm": 1.0}} for p in ("base", "l2=0.1") for r in (0, 1)},
    ],
    ids=["diverged", "others missing", "no common step", "all diverged", "another column"],
)
def test_curves_without_two_common_steps_are_no_lines(curves, tmp_path):
    result = standard_figures(with_curves(tmp_path, curves))
    assert "curves" not in result
    for figure in result.values():
        drawn(figure)


def test_curves_with_holes_are_drawn_as_far_as_they_go(tmp_path):
    """One point has a line, the other as much of one as there is."""
    curves = {"base/0": {10: {"valid/loss": NAN}, 20: {"valid/loss": 1.0}}}
    curves |= {f"l2=0.1/{r}": {s: {"valid/loss": 1.0} for s in (10, 20)} for r in (0, 1)}
    drawn(standard_figures(with_curves(tmp_path, curves))["curves"])


@pytest.mark.parametrize("curves", [{}, {"base/0": {10: {"valid/loss": NAN}}}])
def test_the_complexity_graph_of_what_diverged_at_once(curves, tmp_path):
    table = with_curves(tmp_path, curves)
    if not curves:
        (tmp_path / "curves.parquet").unlink()
        table = Study(tmp_path)
    figure, (ax,) = figures.panels(1)
    charts.complexity(ax, table, "base")
    drawn(figure)


@pytest.mark.parametrize("best", ["l2=0.1", "base"])
def test_the_complexity_graph_is_of_the_best_point_and_of_its_baseline(best, tmp_path):
    trials = random_trials([BASE, WEAK], restarts=2)
    for row in trials:
        row["valid/loss"] = 0.1 if row["point"] == best else 0.5
    write(tmp_path, [BASE, WEAK], trials)
    write_curves(tmp_path, trials)
    figure = charts.complexity_graph(Study(tmp_path))
    names = ["base", "l2=0.1"] if best == "l2=0.1" else ["base"]
    assert [panel.get_title() for panel in figure.axes] == names
    for panel in figure.axes:
        means = {line.get_label(): line for line in panel.lines if line.get_linewidth() == 2}
        assert list(means) == ["training", "validation"]
        assert means["training"].get_ydata().tolist() == [1 / 10, 1 / 20]
        assert means["validation"].get_ydata().tolist() == [2 / 10, 2 / 20]
    drawn(figure)


# Strengths


def test_strengths_are_the_error_of_every_method_at_every_strength(tmp_path):
    table = write(tmp_path, POINTS, random_trials())
    (ax,) = charts.strengths({"l2": "λ of L2", "l1": "λ of L1"})(table).axes
    assert (ax.get_xlabel(), ax.get_title()) == ("λ of L2", "mlp")
    assert ax.get_ylabel() == "test error (share of examples)"
    line = ax.lines[0]
    assert line.get_xdata().tolist() == [0.1, 1.0]
    errors = [1 - table.interval(p, "test/accuracy").estimate for p in ("l2=0.1", "l2=1")]
    assert line.get_ydata().tolist() == pytest.approx(errors)
    band = [line for line in ax.lines if line.get_label() == "baseline"]
    assert band[0].get_ydata()[0] == 1 - table.interval("base", "test/accuracy").estimate


@pytest.mark.parametrize("points", [[BASE], [BASE, WEAK], [BASE, LINEAR]])
def test_a_strength_of_one_value_is_no_line(points, tmp_path):
    study = write(tmp_path, points, random_trials(points))
    with pytest.raises(Missing, match="no strength has two values"):
        charts.strengths({"l2": "λ of L2"})(study)


# Helpers of an experiment's own figures


def test_panels_of_intervals_have_a_line_for_each_label(tmp_path):
    """Without the panels and the lines that have nothing to show."""
    one, two = Interval(0.5, 0.4, 0.6, 4), Interval(0.7, 0.6, 0.9, 4)
    lines = {"tanh": {1.0: one, 2.0: two}, "gone": {}, "relu": {1.0: two}}
    titles = {"left": lines, "empty": {"tanh": {}}, "right": {"relu": {3.0: one}}, "none": {}}
    figure = figures.interval_panels(titles, "A caption.", xlabel="depth", yscale="log")
    assert figure.get_label() == "A caption."
    left, right = figure.axes
    assert [panel.get_title() for panel in figure.axes] == ["left", "right"]
    assert all(panel.get_xlabel() == "depth" for panel in figure.axes)
    assert all(panel.get_yscale() == "log" for panel in figure.axes)
    labels = [[text.get_text() for text in p.get_legend().get_texts()] for p in figure.axes]
    assert labels == [["tanh", "relu"], ["relu"]]
    (tanh, relu), (alone,) = left.containers, right.containers
    for bars, expected in ((tanh, {1: one, 2: two}), (relu, {1: two}), (alone, {3: one})):
        line, _, (ends,) = bars
        assert line.get_xdata().tolist() == list(expected)
        assert line.get_ydata().tolist() == [i.estimate for i in expected.values()]
        drawn_ends = [segment[:, 1] for segment in ends.get_segments()]
        np.testing.assert_allclose(drawn_ends, [[i.low, i.high] for i in expected.values()])
    drawn(figure)


@pytest.mark.parametrize("titles", [{}, {"left": {}}, {"left": {"tanh": {}}, "right": {}}])
def test_panels_of_nothing_are_no_figure(titles):
    with pytest.raises(Missing, match="nothing to draw"):
        figures.interval_panels(titles, "A caption.")


# All of them


def many(directory, rows=30, restarts=2):
    points = [BASE] + [point(f"m{i}", f"method {i}", l2=i + 1.0) for i in range(rows)]
    return write(directory, points, random_trials(points, restarts=restarts))


def baselines(directory, n=5):
    points = [point(f"b{i}", "baseline", model=f"model {i}") for i in range(n)]
    points += [point(f"m{i}", "L2", model=f"model {i}", l2=1.0) for i in range(n)]
    return write(directory, points, random_trials(points, restarts=2))


def unknown(directory, points=POINTS):
    """Every number NaN: all trials diverged at once."""
    trials = [trial(p, r, status="diverged", **NOTHING) for p in points for r in range(2)]
    return write(directory, points, trials)


def unknown_grid(directory):
    return unknown(directory, FULL)


def partly_unknown(directory):
    trials = random_trials(restarts=3)
    for row in trials[::2]:
        row |= {"status": "diverged", **NOTHING}
    return write(directory, POINTS, trials)


def constant(directory):
    trials = [trial(p, r) for p in FULL for r in range(3)]
    write(directory, FULL, trials)
    write_curves(directory, trials)
    return Study(directory)


def single(directory):
    return write(directory, [BASE], [trial(BASE, 0)])


@pytest.mark.parametrize(
    "study", [many, baselines, unknown, unknown_grid, partly_unknown, constant, single]
)
def test_figures_of_unusual_studies_are_drawn(study, tmp_path):
    """Without a crash and without a warning, which is an error here."""
    result = standard_figures(study(tmp_path))
    assert "restarts" in result
    for figure in result.values():
        drawn(figure)


def test_a_panel_holds_no_more_lines_than_can_be_told_apart(tmp_path):
    """Its baseline, and the best of the others."""
    table = many(tmp_path)
    rows = ablation(table)
    ranked = sorted(rows[1:], key=lambda row: -row.mean.estimate)
    expected = [row.group for row in [rows[0], *ranked[: standard.MOST_LINES - 1]]]
    for figure in (standard.profiles(table, rows), standard.budget(table, rows)):
        (ax,) = figure.axes
        assert [line.get_label() for line in ax.lines] == expected


def test_equal_studies_draw_equal_bytes(tmp_path):
    result = []
    for name in ("a", "b"):
        points = [*FULL]
        trials = random_trials(points, restarts=3)
        write(tmp_path / name, points, trials)
        write_curves(tmp_path / name, trials)
        by_name = standard_figures(Study(tmp_path / name))
        assert list(by_name) == ["restarts", "heat_map", "curves", "profiles", "best_of_k"]
        result.append({key: drawn(figure) for key, figure in by_name.items()})
    assert result[0] == result[1]


def test_a_figure_of_two_baselines_names_them(tmp_path):
    points = [BASE, LINEAR, STRONG]
    table = write(tmp_path, points, random_trials(points))
    for figure in (f(table, ablation(table)) for f in (standard.profiles, standard.budget)):
        assert [ax.get_title() for ax in figure.axes] == ["base", "linear"]


def test_dots_of_what_has_no_upper_end_are_arrows():
    """At the lower end; all others have their interval."""
    rows = {"a": Interval(3.0, 2.0, 5.0, n=9), "b": Interval(np.inf, 7.0, np.inf, n=9)}
    figure, (ax,) = figures.panels(1)
    figures.dots(ax, rows)
    ax.set_xscale("log")
    drawn(figure)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    (bars,) = ax.containers
    np.testing.assert_array_equal(bars.lines[0].get_xydata(), [[3.0, 0.0]])
    (segment,) = bars.lines[2][0].get_segments()
    np.testing.assert_allclose(segment, [[2.0, 0.0], [5.0, 0.0]])
    (arrow,) = [line for line in ax.lines if line.get_marker() == ">"]
    np.testing.assert_array_equal(arrow.get_xydata(), [[7.0, 1.0]])


def test_panels_in_columns_with_ticks_at_whole_numbers():
    """Where x counts something; a number such as a rate has ticks between."""
    line = {x: Interval(float(x), x - 1.0, x + 1.0, n=9) for x in (1, 2)}
    rates = {x / 2: interval for x, interval in line.items()}
    panels = {"a": {"n": line}, "b": {"n": line}, "c": {"rate": rates}, "none": {"n": {}}}
    figure = figures.interval_panels(panels, "caption", columns=2)
    drawn(figure)
    a, b, c = [ax for ax in figure.axes if ax.get_visible()]
    corners = [ax.get_position() for ax in (a, b, c)]
    assert corners[0].x0 == corners[2].x0 < corners[1].x0
    assert corners[0].y0 == corners[1].y0 > corners[2].y0
    assert all(float(tick).is_integer() for ax in (a, b) for tick in ax.get_xticks())
    assert not all(float(tick).is_integer() for tick in c.get_xticks())
