"""PyTorch's sides of `bench gpu`: one network after another, and a vmapped ensemble.

Both are written as a good user would: the data lie on the device, minibatches are gathered
there, orders are drawn there an epoch at a time, the optimizer is fused, nothing is read back
before the end. PyTorch's weight decay adds decay · w to the gradient, and that of λ Σ w² is 2 λ w.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch  # pyright: ignore[reportMissingImports]
from torch.func import (  # pyright: ignore[reportMissingImports]
    functional_call,
    grad_and_value,
    vmap,
)
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from ablax.bench.gpu_ours import (
    BATCH_SIZE,
    CLASSES,
    FEATURES,
    WIDTH,
    Asked,
    Say,
    Sizes,
    candidates,
    each,
    fitting,
    in_a_line,
    product_error,
    setup,
    splits_of,
    throughput,
    trained,
)
from ablax.bench.workload import LEARNING_RATE, MOMENTUM, pairs
from ablax.data.splits import Splits

Params = Mapping[str, torch.Tensor]
WEIGHTS = ("0.weight", "2.weight")
CHUNK = 2048
"""Rows evaluated at once."""


class Data(NamedTuple):
    """Everything that training needs, on the device."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    valid_x: torch.Tensor
    valid_y: torch.Tensor

    @classmethod
    def on(cls, device: torch.device, splits: Splits) -> "Data":
        x, y, valid_x, valid_y = map(torch.from_numpy, (*splits.train, *splits.valid))
        return cls(x.to(device), y.long().to(device), valid_x.to(device), valid_y.long().to(device))


class Trains(Protocol):
    """One network, or an ensemble: what `train` needs of it."""

    def order(self, rows: int, device: torch.device) -> torch.Tensor:
        """An epoch's rows, a minibatch (of every network) per entry."""
        ...

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One update; the loss before it, without the penalty."""
        ...


def network() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Linear(FEATURES, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, CLASSES)
    )


def starts(n: int, device: torch.device) -> dict[str, torch.Tensor]:
    """The parameters of n networks, stacked: Glorot-uniform weights, zero biases."""
    stacked = {}
    for name, shape in ((k, v.shape) for k, v in network().state_dict().items()):
        bound = (6 / sum(shape)) ** 0.5 if name in WEIGHTS else 0.0
        stacked[name] = torch.empty(n, *shape, device=device).uniform_(-bound, bound)
    return stacked


def sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)


class Loop:
    """One network, trained by an eager step."""

    def __init__(self, start: Params, l2: float):
        self.model = network().to(start["0.weight"].device)
        self.model.load_state_dict(dict(start))
        named = dict(self.model.named_parameters())
        weights = [named[name] for name in WEIGHTS]
        biases = [p for name, p in named.items() if name not in WEIGHTS]
        self.optimizer = sgd([{"params": weights, "weight_decay": 2 * l2}, {"params": biases}])

    def order(self, rows: int, device: torch.device) -> torch.Tensor:
        n = rows // BATCH_SIZE
        return torch.randperm(rows, device=device)[: n * BATCH_SIZE].view(n, BATCH_SIZE)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def accuracies(self, x: torch.Tensor, y: torch.Tensor) -> list[float]:
        return [(self.model(x).argmax(-1) == y).double().mean().item()]


class Ensemble:
    """Networks side by side: vmap over stacked parameters, each its own minibatch and L2."""

    def __init__(self, start: Params, l2: torch.Tensor):
        self.params = {name: value.clone() for name, value in start.items()}
        self.decay = {name: (2 * l2).view(-1, 1, 1) for name in WEIGHTS}
        self.optimizer = sgd(list(self.params.values()))
        model = network().to("meta")  # its parameters are given with every call

        def loss(params: Params, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(functional_call(model, dict(params), (x,)), y)

        self.gradients = vmap(grad_and_value(loss))
        self.scores = vmap(lambda p, x: functional_call(model, p, (x,)), in_dims=(0, None))

    def order(self, rows: int, device: torch.device) -> torch.Tensor:
        size, n = len(self.params["0.weight"]), rows // BATCH_SIZE
        order = torch.rand(size, rows, device=device).argsort(1)[:, : n * BATCH_SIZE]
        return order.view(size, n, BATCH_SIZE).transpose(0, 1)

    @torch.no_grad()
    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        gradients, losses = self.gradients(self.params, x, y)
        for name, value in self.params.items():
            if name in self.decay:
                gradients[name].addcmul_(value, self.decay[name])
            value.grad = gradients[name]
        self.optimizer.step()
        return losses

    @torch.no_grad()
    def accuracies(self, x: torch.Tensor, y: torch.Tensor) -> list[float]:
        chunks = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        right = [(self.scores(self.params, x).argmax(-1) == y).sum(1) for x, y in chunks]
        return (torch.stack(right).sum(0).double() / len(x)).tolist()


def train(network: Trains, data: Data, steps: int) -> None:
    """Train for a number of steps, with an order of the rows drawn for every epoch."""
    per_epoch, order = len(data.train_x) // BATCH_SIZE, None
    for step in range(steps):
        if order is None or step % per_epoch == 0:
            order = network.order(len(data.train_x), data.train_x.device)
        rows = order[step % per_epoch]
        network.step(data.train_x[rows], data.train_y[rows])


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds until the device has finished the work."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def begin(asked: Asked, say: Say) -> tuple[Sizes, Data]:
    """The data on the device, in the precision that was asked for.

    XLA multiplies float32 matrices in TF32 on a GPU unless told otherwise, and PyTorch in
    float32: "default" gives it TF32 there too. On a CPU both are at full precision.
    """
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    torch.set_float32_matmul_precision(
        "high" if gpu and asked.precision == "default" else "highest"
    )
    torch.manual_seed(0)
    sizes = asked.sizes(gpu)
    splits, words = splits_of(sizes)

    def product(a: Any, b: Any) -> Any:
        return (torch.from_numpy(a).to(device) @ torch.from_numpy(b).to(device)).cpu().numpy()

    precision = {
        "torch.backends.cuda.matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "torch.get_float32_matmul_precision": torch.get_float32_matmul_precision(),
        "error of a product": product_error(product),
    }
    kind = (
        f"1 × {torch.cuda.get_device_name()}" if gpu else f"cpu, {torch.get_num_threads()} threads"
    )
    platform = "gpu" if gpu else "cpu"
    say("setup", setup(sizes, platform, kind, words, precision))
    return sizes, Data.on(device, splits)


def torch_loop(asked: Asked, say: Say) -> None:
    """One network after another, as many as there is time for."""
    sizes, data = begin(asked, say)

    def one(l2: float, steps: int) -> list[float]:
        start = {name: value[0] for name, value in starts(1, data.train_x.device).items()}
        model = Loop(start, l2)
        train(model, data, steps)
        return model.accuracies(data.valid_x, data.valid_y)

    one(0.0, sizes.probe_steps)  # warm-up
    probe = seconds_of(lambda: one(0.0, sizes.probe_steps)) / sizes.probe_steps
    ran = fitting(probe, sizes)
    networks = max(min(sizes.loop_networks, int(sizes.seconds / (probe * ran))), 1)
    accuracies: list[float] = []
    seconds = seconds_of(
        lambda: [accuracies.extend(one(l2, ran)) for l2, _ in pairs(networks)],
    )
    say("training", trained(networks, seconds, ran, accuracies, sizes))


def curve_point(model: Ensemble, size: int, data: Data, sizes: Sizes) -> dict[str, Any]:
    """Cost of one step of an ensemble, without data orders and evaluation."""

    def order() -> torch.Tensor:
        return model.order(len(data.train_x), data.train_x.device)

    def steps(n: int) -> None:
        for rows in orders[:n]:
            model.step(data.train_x[rows], data.train_y[rows])

    orders = order()
    steps(3)  # warm-up
    model.accuracies(data.valid_x, data.valid_y)
    n = min(sizes.probe_steps, len(orders))
    per_step = seconds_of(lambda: steps(n)) / n
    per_training = sizes.epochs * seconds_of(order)
    per_training += seconds_of(lambda: model.accuracies(data.valid_x, data.valid_y))
    return throughput(size, per_step, per_training, sizes)


def torch_vmap(asked: Asked, say: Say) -> None:
    """Ensembles of several sizes, and a training at the best of them."""
    started = time.perf_counter()
    sizes, data = begin(asked, say)
    until = started + asked.limit - 2 * sizes.seconds  # the training comes after it

    def ensemble(size: int) -> Ensemble:
        device = data.train_x.device
        l2 = torch.tensor([l2 for l2, _ in pairs(size)], device=device)
        return Ensemble(starts(size, device), l2)

    def probe(size: int) -> dict[str, Any]:
        torch.cuda.empty_cache()  # of the size before, which may not have fitted
        return curve_point(ensemble(size), size, data, sizes)

    rows = each(sizes.ensembles, probe, lambda r: say("ensembles", r), until)
    failed = {}
    for row, steps in candidates(rows, sizes):
        size, accuracies = row["networks"], []

        def whole(size: int = size, steps: int = steps, accuracies: list = accuracies) -> None:
            model = ensemble(size)
            train(model, data, steps)
            accuracies += model.accuracies(data.valid_x, data.valid_y)

        try:
            seconds = seconds_of(whole)
        except torch.OutOfMemoryError as error:
            failed[size] = in_a_line(error)
        else:
            result = trained(size, seconds, steps, accuracies, sizes)
            return say("training", result | {"failed_with": failed})
    raise RuntimeError(f"no ensemble could be trained: {failed}")
