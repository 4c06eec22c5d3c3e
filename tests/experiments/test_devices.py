"""Every experiment's programs on the devices that Ablax knows: no collectives, lowered for all."""

import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from ablax.cli.experiments import load, names
from ablax.engine import slots
from ablax.engine.mesh import AXIS, LANES, mesh_of, replicated, sharded
from ablax.engine.programs import (
    Orders,
    adopt_function,
    final_function,
    load_function,
    segment_function,
)
from ablax.engine.shapes import buffered, training_data
from ablax.study.plan import make_plan
from tests.toys import COLLECTIVES


def plan_of(name):
    experiment = load(name)
    preset = experiment.presets["smoke"]
    return make_plan(experiment, preset.config, restarts=preset.restarts, seed=0)


@pytest.mark.parametrize("name", names())
def test_no_program_waits_for_another_device(name, smoke_study):
    """Segment, which holds retirement and refill, and final evaluation, compiled for two."""
    text = Path(f"{smoke_study(name)}.hlo").read_text()
    assert text.count("ENTRY") == 2 * len(plan_of(name).programs)
    assert "fusion" in text
    assert re.findall(COLLECTIVES, text) == []


def test_the_words_are_found_where_there_is_a_collective():
    """Reading the scalars of all hosts is an all-gather, and a program of its own."""
    mesh = mesh_of(jax.devices()[:8])
    shape = jax.ShapeDtypeStruct((128, 12), np.int32, sharding=sharded(mesh))
    gather = jax.jit(lambda x: x, out_shardings=replicated(mesh)).lower(shape).compile()
    assert re.findall(COLLECTIVES, gather.as_text())


@pytest.mark.parametrize("name", names())
def test_every_program_lowers_for_gpus_and_tpus(name):
    """On a machine that has neither: the whole vmapped, sharded functions, ahead of time."""
    for program in plan_of(name).programs:
        check_lowering(program)


def check_lowering(program):
    mesh = mesh_of(jax.devices()[:8])
    task, n = program.task, 8 * LANES
    training = training_data(task)
    one = jax.eval_shape(partial(slots.fill, task), program.example, training)

    def rows(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), tree)

    held, buffer = rows(one), rows(buffered(one, park=False))
    place, fill = (jax.ShapeDtypeStruct((n,), kind) for kind in (np.int32, np.bool_))
    orders = Orders(place, fill, rows(one.trial))
    everything = {**training, "test": task.data["test"]}
    functions = {
        "segment": (segment_function(task, mesh), (held, buffer, orders, np.int32(1), training)),
        "final": (final_function(task, mesh), (buffer, everything)),
        "load": (load_function(mesh), (held, fill, held)),
    }
    if task.inherit is not None:
        adopted = (held, fill, rows(one.trial), rows(one.best), training)
        functions["adopt"] = (adopt_function(task, mesh), adopted)
    for function, arguments in functions.values():
        exported = jax.export.export(jax.jit(function), platforms=("cuda", "tpu"))(*arguments)
        assert exported.platforms == ("cuda", "tpu")
        text = exported.mlir_module()
        assert "stablehlo" in text
        assert AXIS in text
