"""Data sets: load, verify, split, fingerprint; and the order in which rows are visited."""

from ablax.data.catalog import DATASETS
from ablax.data.dataset import Dataset
from ablax.data.loading import load
from ablax.data.splits import Split, Splits, Subset, split

__all__ = ["DATASETS", "Dataset", "Split", "Splits", "Subset", "load", "split"]
