"""Children of snapshots: trials that start from what their parents left."""

import dataclasses
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from ablax.errors import UserError
from ablax.study import run as launched
from ablax.study import train as study
from ablax.study.rounds import OneRound, Wanted
from tests.study.halved import killed_after, plan_of, rows_of, variables_of
from tests.study.launches import tables
from tests.toys import SHORT, Config, quadratic


@dataclass(frozen=True)
class Transfer:
    """Two rounds: parents, and children that start from the parents' snapshots."""

    children: dict[str, str]  # {point: its parent's point}
    restarts: int
    n: int = 2
    name: str = "transfer"
    gives: str = "snapshot"

    @property
    def size(self) -> int:
        return len(self.wanted(0, None)) + len(self.wanted(1, None))

    def wanted(self, number, results):
        assert (results is None) or set(results["point"]) == set(self.children.values())
        every = range(self.restarts)
        if number == 0:
            parents = dict.fromkeys(self.children.values())
            return [Wanted(parent, r) for parent in parents for r in every]
        pairs = self.children.items()
        return [Wanted(child, r, parent=(parent, r)) for child, parent in pairs for r in every]

    def describe(self):
        return "parents, then children"


def inheriting(config: Config):
    """Training and validation disagree, so that a parent's best step is not its last."""
    return dataclasses.replace(
        quadratic(config), inherit=lambda trial, data, variables: {"x": variables["x"]}
    )


SETTINGS = [
    {"learning_rate": 0.2},
    {"learning_rate": 0.05},
    {"learning_rate": 0.0},
    {"learning_rate": 0.0, "l2": 0.1},
    {"learning_rate": 0.0, "activation": "tanh"},  # another program, of the same shapes
    {"learning_rate": 0.3, "activation": "tanh"},
]


@pytest.fixture(scope="module")
def transfer():
    plan = plan_of(
        replace(SHORT, noise=1.0), points=lambda config: SETTINGS, halving=None,
        task=inheriting, restarts=5,
    )  # fmt: skip
    names = [point.name for point in plan.points]
    children = dict(zip(names[2:], (names[0], names[1], names[0], names[1]), strict=True))
    return dataclasses.replace(plan, rounds=Transfer(children, 5))


@pytest.fixture(scope="module")
def transferred(transfer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("transfer") / "run"
    result = study.train(transfer, directory)
    assert (result.trained, result.missing) == (30, 0)
    return directory


def test_children_start_from_the_selected_snapshot_of_their_parents(transfer, transferred):
    """With a rate of 0 a child stays where it started; --keep is none, and yet all are kept."""
    rows = rows_of(transferred).set_index("trial")
    variables = variables_of(transferred, transfer)
    assert set(variables) == set(rows.index)
    parents = rows[rows["round"] == 0]
    assert (parents["best_step"] < parents["steps"]).any(), "the last is not the best"
    children = rows[rows["round"] == 1]
    still = children[children["learning_rate"] == 0]
    assert len(still) == 15
    assert set(still["activation"]) == {"relu", "tanh"}
    for child, row in still.iterrows():
        assert variables[child] == variables[row["parent"]]
        np.testing.assert_allclose(row["norm"], rows.loc[row["parent"], "norm"], rtol=1e-6)
    moving = children[children["learning_rate"] > 0]
    assert all(variables[child] != variables[row["parent"]] for child, row in moving.iterrows())
    assert (children["steps"] == 30).all(), "a child of a snapshot makes all its steps"
    same = children["restart"].to_numpy() == rows.loc[children["parent"], "restart"].to_numpy()
    assert same.all()
    curves = pd.read_parquet(transferred / "curves.parquet")
    assert (curves.groupby("trial")["step"].apply(list).apply(lambda s: s == [10, 20, 30])).all()


def test_the_parent_is_in_the_childs_identity(transfer):
    roots = transfer.trials()
    ordinary = {t.id for t in dataclasses.replace(
        transfer, rounds=OneRound(transfer.points, 5)).trials()}  # fmt: skip
    assert {t.id for t in roots} < ordinary, "a parent is an ordinary trial"
    rows = pd.DataFrame({"point": [t.point.name for t in roots]})
    children = transfer.trials(1, roots, rows)
    assert not {t.id for t in children} & ordinary
    assert {(t.inherits, t.start, t.until) for t in children} == {("snapshot", 0, None)}
    first, second = (p.name for p in transfer.points[:2])
    swapped = {c: {first: second, second: first}[p] for c, p in transfer.rounds.children.items()}
    other = dataclasses.replace(transfer, rounds=Transfer(swapped, 5)).trials(1, roots, rows)
    assert [(t.point, t.restart) for t in children] == [(t.point, t.restart) for t in other]
    assert not {t.id for t in children} & {t.id for t in other}


@pytest.mark.parametrize(("minutes", "stride"), [(1e9, 9), (0.0, 19)])
def test_children_of_snapshots_killed_at_any_write(
    minutes, stride, transfer, transferred, tmp_path
):
    event = 2
    while killed_after(event, transfer, directory := tmp_path / f"{event}", minutes=minutes):
        assert study.train(transfer, directory).missing == 0
        assert tables(directory) == tables(transferred), event
        assert variables_of(directory, transfer) == variables_of(transferred, transfer)
        event += stride
    assert event > 12, "the study has as many writes"


def test_children_without_the_snapshots_of_their_parents_are_refused(
    transfer, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(study, "train_program", lambda run, program, trials: (
            launched.train_program(run, program, trials), run.stop.set(),
            setattr(run, "stopped", True),
        ))  # fmt: skip
        assert study.train(transfer, tmp_path).missing == 20
    assert set(rows_of(tmp_path)["round"]) == {0}
    for path in sorted((tmp_path / "params").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "params").rmdir()
    with pytest.raises(UserError, match="the snapshots of 10 parents are missing under"):
        study.train(transfer, tmp_path)


def test_a_task_that_does_not_say_what_is_inherited_is_an_error(transfer, tmp_path):
    programs = tuple(
        dataclasses.replace(p, task=dataclasses.replace(p.task, inherit=None))
        for p in transfer.programs
    )
    with pytest.raises((AssertionError, UserError), match="says what is inherited"):
        study.train(dataclasses.replace(transfer, programs=programs), tmp_path)
