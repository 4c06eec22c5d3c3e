"""`bench gpu`, tiny and on the CPU: what it writes, and that all sides do the same work."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ablax.bench import gpu, gpu_ours, ours
from ablax.bench.workload import L2, pairs
from ablax.data.order import epoch_rows
from ablax.engine.trials import take

ROOT = Path(__file__).parents[2]
TORCH = ("torch_loop", "torch_vmap")


def bench(out, *arguments: str, data: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    lib = os.pathsep.join([path, str(ROOT / "lib"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "experiments", "bench", "gpu", "--out", str(out), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": lib.lstrip(os.pathsep), "ABLAX_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The whole bench, where no MNIST is."""
    place = tmp_path_factory.mktemp("bench")
    done = bench(place / "gpu.json", "--quick", data=place)
    assert done.returncode == 0, done.stderr
    return json.loads((place / "gpu.json").read_text()), done.stdout


def test_it_says_what_was_measured_and_where(quick):
    result, printed = quick
    assert not result["gpu"]
    assert "no GPU: this is a CPU" in result["device"]
    assert "generated, of MNIST's shape" in result["work"]
    assert "2 epochs of whole minibatches = 32 steps" in result["work"]
    assert result["command"].startswith("./launch.sh bench gpu --out")
    assert "compilation" in result["not_counted"]
    assert [t["verdict"] for t in result["targets"]] == ["not judged"] * len(result["targets"])
    setup = result["sides"]["ablax"]["setup"]
    assert setup["precision"]["jax_default_matmul_precision"] == "default"
    assert setup["precision"]["error of a product"] < 1e-5  # float32 on a CPU
    for words in ("jax_default_matmul_precision default", "no GPU: this is a CPU", "TFLOP/s"):
        assert words in printed


def test_ablax_is_measured_at_every_number_of_slots(quick):
    side = quick[0]["sides"]["ablax"]
    peak = side["matrix_products"]["flops_per_second"]
    assert peak > 0
    assert [row["slots_per_device"] for row in side["slots"]] == [1, 16]
    for row in side["slots"]:
        assert row["networks"] % row["slots_per_device"] == 0
        rate = row["networks"] / row["seconds_per_step"]
        assert row["steps_per_second"] == pytest.approx(rate)
        assert 0 < row["networks_per_second"] <= rate / 32
        assert row["flops_per_second"] == pytest.approx(rate * gpu_ours.flops_per_step())
        assert row["share_of_matrix_products"] == pytest.approx(row["flops_per_second"] / peak)


def test_every_side_trains_to_the_end_and_learns(quick):
    sides = quick[0]["sides"]
    assert list(sides) == ["ablax", *TORCH]
    for name, side in sides.items():
        if side.get("failed", "").startswith("not installed"):
            continue
        assert "failed" not in side, name
        done = side["training"]
        assert done["steps_run"] == 32
        assert not done["extrapolated"]
        assert done["networks_per_second"] == pytest.approx(done["networks"] / done["seconds"])
        strengths = [f"{l2:g}" for l2 in L2[: done["networks"]]]
        assert list(done["valid_accuracy"]) == strengths
        assert all(0.7 < accuracy <= 1 for accuracy in done["valid_accuracy"].values())
        if name != "ablax":
            ours = sides["ablax"]["training"]["networks_per_second"]
            assert side["ablax_over"] == pytest.approx(ours / done["networks_per_second"])


def test_pytorch_takes_part_in_the_same_precision(quick):
    pytest.importorskip("torch")
    result, _ = quick
    for name in TORCH:
        setup = result["sides"][name]["setup"]
        assert setup["precision"]["torch.get_float32_matmul_precision"] == "highest"
        assert setup["precision"]["torch.backends.cuda.matmul.allow_tf32"] is False
        assert setup["steps"] == result["sides"]["ablax"]["setup"]["steps"]
    assert [row["networks"] for row in result["sides"]["torch_vmap"]["ensembles"]] == [2, 4]
    assert len(result["targets"]) == 3


@pytest.mark.parametrize(
    ("torch", "failure"),
    [
        ("raise RuntimeError('a broken library')", "RuntimeError: a broken library"),
        ("import os; os._exit(3)", "its process died with status 3"),
    ],
)
def test_a_side_that_fails_does_not_end_the_bench(tmp_path, torch, failure):
    (tmp_path / "torch.py").write_text(torch)
    out = tmp_path / "gpu.json"
    done = bench(out, "--quick", "--sides", *TORCH, data=tmp_path, path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    sides = json.loads(out.read_text())["sides"]
    assert [sides[name]["failed"] for name in TORCH] == [failure] * 2
    assert failure in done.stdout


def test_a_side_is_stopped_at_its_limit(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'lib'}{os.pathsep}{ROOT}")
    started = time.perf_counter()
    asked = gpu_ours.Asked(quick=True, precision="default", slots=(), limit=0.2)
    assert gpu.apart("ablax", asked) == {"failed": "stopped after 0.2 s"}
    assert time.perf_counter() - started < 5


def test_a_missing_library_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "missing", lambda name: "not installed (pip install ablax[bench])")
    result = gpu.measure(gpu.Flags(sides=TORCH))
    assert {side["failed"] for side in result["sides"].values()} == {gpu.missing("torch")}
    assert result["targets"] == []


def test_what_does_not_fit_is_a_row_and_no_larger_one_is_tried():
    def measure(size: int) -> dict:
        if size == 4:
            raise ValueError("another fault\nand more of it")
        if size > 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9")
        return {"networks": size}

    shown: list[int] = []
    until = time.perf_counter() + 60
    rows = gpu_ours.each((1, 4, 8, 16, 64), measure, lambda rows: shown.append(len(rows)), until)
    assert rows == [
        {"networks": 1},
        {"networks": 4, "failed": "ValueError: another fault"},
        {"networks": 8},
        {
            "networks": 16,
            "failed": "does not fit into the device's memory (JaxRuntimeError)",
        },
        {"networks": 64, "failed": "not tried: 16 did not fit"},
    ]
    assert shown == [1, 2, 3, 4, 5]
    late = gpu_ours.each((1,), measure, lambda rows: None, until=0)
    assert late == [{"networks": 1, "failed": "not tried: the time was up"}]


def test_training_uses_the_best_slots_that_work(monkeypatch):
    sizes = gpu_ours.Sizes()
    assert sizes.steps == 4680
    rows = [
        gpu_ours.throughput(16, 1e-3, 0.0, sizes),
        {"networks": 64, "failed": "does not fit"},
        gpu_ours.throughput(256, 4e-3, 0.0, sizes),
        gpu_ours.throughput(1024, 12e-3, 0.0, sizes),  # the best rate, but 56 s
    ]

    def chosen() -> list[tuple[int, int]]:
        return [(row["networks"], steps) for row, steps in gpu_ours.candidates(rows, sizes)]

    assert chosen() == [(1024, 3750), (256, 4680), (16, 4680)]
    rows[2] = gpu_ours.throughput(256, 3.1e-3, 0.0, sizes)  # hardly worse, and to the end
    assert chosen() == [(256, 4680), (1024, 3750), (16, 4680)]

    def train(program, slots, steps, sizes):
        if slots == 256:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return {"slots": slots}

    monkeypatch.setattr(gpu_ours, "train", train)
    for row in rows:
        row["slots_per_device"] = row["networks"]
    result = gpu_ours.training(None, rows, sizes)
    assert result["slots"] == 1024
    assert list(result["failed_with"]) == [256]


def test_fewer_steps_are_extrapolated_linearly():
    sizes = gpu_ours.Sizes()
    part = gpu_ours.trained(8, 2.0, 468, [0.5] * 8, sizes)
    assert part["extrapolated"]
    assert part["networks_per_second"] == pytest.approx(8 / 20)
    assert part["valid_accuracy"] is None
    whole = gpu_ours.trained(8, 2.0, 4680, [0.1, 0.2, 0.3, 0.4, 0.3, 0.4, 0.5, 0.6], sizes)
    assert not whole["extrapolated"]
    assert whole["networks_per_second"] == pytest.approx(4)
    means = dict(zip(("1e-05", "0.0001", "0.001", "0.003"), (0.2, 0.3, 0.4, 0.5), strict=True))
    assert whole["valid_accuracy"] == pytest.approx(means)
    assert list(gpu_ours.trained(1, 1.0, 4680, [0.5], sizes)["valid_accuracy"]) == ["1e-05"]


@pytest.fixture(scope="module")
def program():
    data = gpu_ours.generated(256, 128)
    splits = gpu_ours.split(data, train_size=256, valid_size=0, test_size=128, seed=0)
    return gpu_ours.task(splits)


def test_the_operations_are_those_that_xla_counts(program):
    by_hand = 2 * 128 * (784 * 128 + 128 * 10)  # forward
    by_hand += 2 * 128 * (784 * 128 + 128 * 10)  # the weights' gradients
    by_hand += 2 * 128 * (128 * 10)  # the hidden layer's gradient
    assert gpu_ours.flops_per_step() == by_hand
    trial = take(ours.trials(pairs(1)), 0)
    view = program.view(trial, program.data)
    state = jax.eval_shape(program.init, trial, view)
    counted = jax.jit(program.step).lower(state, trial, view).cost_analysis()["flops"]
    # It also counts the loss, the penalty and the update: a few operations per parameter.
    assert by_hand < counted < 1.05 * by_hand


def test_mnist_is_used_where_it_is(monkeypatch, tmp_path):
    sizes = gpu_ours.QUICK
    _, words = gpu_ours.splits_of(sizes)
    if words != "MNIST":
        pytest.skip("MNIST is not in the data directory")
    monkeypatch.setenv("ABLAX_DATA", str(tmp_path))
    splits, words = gpu_ours.splits_of(sizes)
    assert words.startswith("generated")
    assert splits.train.x.shape == (2048, 784)
    assert splits.valid.x.shape == (256, 784)
    assert len(splits.test.y) == 0


def test_all_sides_compute_the_same_losses(program):
    """From the same weights, on the same minibatches: Ablax, PyTorch's loop, and its ensemble."""
    torch = pytest.importorskip("torch")
    from ablax.bench import gpu_peers

    chosen = [(0.0, 0), (1e-2, 1), (3e-2, 2)]
    n, steps = len(chosen), 6
    trials = ours.trials(chosen)
    train = program.data["train"]
    step = jax.jit(program.step)
    starts, rows, losses = [], [], np.zeros((3, n, steps))
    for i in range(n):
        trial = take(trials, i)
        view = program.view(trial, program.data)
        state = jax.jit(program.init)(trial, view)
        starts.append(state.params)
        for at in range(steps):
            trial = dataclasses.replace(trial, step=jnp.int32(at))
            rows.append(np.asarray(epoch_rows(view["order"], trial.step, 128, len(train.x))))
            state, measured = step(state, trial, view)
            losses[0, i, at] = measured["loss"]
    rows = torch.tensor(np.array(rows)).long().view(n, steps, -1)
    names = {"0": "hidden_0", "2": "output"}
    start = {
        f"{theirs}.{leaf}": torch.tensor(np.array([p[name][leaf] for p in starts]))
        for theirs, name in names.items()
        for leaf in ("weight", "bias")
    }
    x, y = torch.tensor(train.x), torch.tensor(train.y).long()
    l2 = [l2 for l2, _ in chosen]
    for i in range(n):
        loop = gpu_peers.Loop({name: value[i] for name, value in start.items()}, l2[i])
        losses[1, i] = [loop.step(x[r], y[r]).item() for r in rows[i]]
    ensemble = gpu_peers.Ensemble(start, torch.tensor(l2))
    for at in range(steps):
        losses[2, :, at] = ensemble.step(x[rows[:, at]], y[rows[:, at]]).numpy()
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-5)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert np.ptp(losses[1], axis=0).min() > 0  # they are networks of their own
    last = loop.accuracies(x, y)
    assert ensemble.accuracies(x, y)[n - 1 :] == pytest.approx(last)


def test_orders_are_epochs_of_whole_minibatches():
    torch = pytest.importorskip("torch")
    from ablax.bench import gpu_peers

    device = torch.device("cpu")
    start = gpu_peers.starts(3, device)
    ensemble = gpu_peers.Ensemble(start, torch.zeros(3))
    loop = gpu_peers.Loop({name: value[0] for name, value in start.items()}, 0.0)
    assert loop.order(300, device).shape == (2, 128)
    assert len(loop.order(300, device).unique()) == 256
    order = ensemble.order(300, device)
    assert order.shape == (2, 3, 128)
    assert all(len(order[:, i].unique()) == 256 for i in range(3))
    assert not torch.equal(order[:, 0], order[:, 1])
    bound = (6 / (784 + 128)) ** 0.5
    assert 0.99 * bound < start["0.weight"].abs().max() <= bound
    assert start["0.bias"].abs().max() == 0


def test_bad_flags_are_refused():
    with pytest.raises(gpu.UserError, match="--slots: expected at least 1, got 0"):
        gpu.main(["--slots", "16", "0"])
