"""Benchmarks that set Ablax beside other ways to train the same networks."""

BENCHES: dict[str, str] = {
    "sweep": "trials per minute of a sweep: Ablax, one JAX trial at a time, PyTorch, scikit-learn",
    "gpu": "networks per second on a GPU: Ablax, a PyTorch loop, PyTorch's vmapped ensemble",
}
"""Name → what it measures; each is a module of this folder with `main(arguments)`."""
