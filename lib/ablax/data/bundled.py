"""The small real data sets that come with scikit-learn: nothing is downloaded.

scikit-learn is imported inside the functions, because the import takes seconds.
"""

from typing import Any

import numpy as np

from ablax.data.dataset import Dataset


def digits() -> Dataset:
    """Handwritten digits: x [1797, 8, 8], ink counts 0..16 divided by 16.

    >>> digits().x.shape
    (1797, 8, 8)
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return Dataset(
        name="digits",
        x=(bunch.images / 16).astype(np.float32),
        y=bunch.target.astype(np.int32),
        problem="classification",
        source="scikit-learn load_digits (UCI optical digits, test part)",
        classes=tuple(str(digit) for digit in bunch.target_names),
        scale_features="none",
    )


def iris() -> Dataset:
    """Three species of iris from four lengths in cm: x [150, 4]."""
    from sklearn.datasets import load_iris

    return _classification("iris", load_iris())


def wine() -> Dataset:
    """Three cultivars of wine from thirteen chemical measurements: x [178, 13]."""
    from sklearn.datasets import load_wine

    return _classification("wine", load_wine())


def breast_cancer() -> Dataset:
    """Malignant or benign, from thirty measurements of cell nuclei: x [569, 30]."""
    from sklearn.datasets import load_breast_cancer

    return _classification("breast_cancer", load_breast_cancer())


def diabetes() -> Dataset:
    """Progression of diabetes after one year from ten measurements in their own units.

    x [442, 10]; the target is a score of 25 to 346.
    """
    from sklearn.datasets import load_diabetes

    bunch: Any = load_diabetes(scaled=False)
    return Dataset(
        name="diabetes",
        x=bunch.data.astype(np.float32),
        y=bunch.target.astype(np.float32),
        problem="regression",
        source="scikit-learn load_diabetes(scaled=False)",
        feature_names=tuple(bunch.feature_names),
    )


def _classification(name: str, bunch: Any) -> Dataset:
    return Dataset(
        name=name,
        x=bunch.data.astype(np.float32),
        y=bunch.target.astype(np.int32),
        problem="classification",
        source=f"scikit-learn load_{name}",
        classes=tuple(str(label) for label in bunch.target_names),
        feature_names=tuple(str(feature) for feature in bunch.feature_names),
    )
