"""Benchmarks that set Ablax beside other ways to train the same networks."""

BENCHES: dict[str, str] = {
    "sweep": "trials per minute of a sweep: Ablax, one JAX trial at a time, PyTorch, scikit-learn",
    "kill": "SIGKILL at random moments of a study, and whether it ends with the same bytes",
    "checkpoint": "what checkpoints cost a study, and how soon a resume trains",
    "scale": "100,000 tiny networks as one study: time, memory of the host, size of the tables",
    "coverage": "how often 95% intervals cover the truth, and tests find what is not there",
    "gpu": "networks per second on a GPU: Ablax, a PyTorch loop, PyTorch's vmapped ensemble",
}
"""Name → what it measures; each is a module of this folder with `main(arguments)`."""
