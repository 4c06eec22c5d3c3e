"""Remarks on verdicts: why one study's claims came out as they did.

They are written by hand in experiments/REMARKS.toml, keyed by experiment, study, claim and verdict,
and are shown with that study and that verdict only: another preset, data set or grid may come out
otherwise, and so may the same study on another kind of processor, if an interval ends near a bound.

    [regularization.3f2a9c0d4b5e6f71]
    l2-is-even.refuted = "L2 takes the weights of pixels that are always blank to 0; …"
"""

import tomllib

from ablax.checkout import EXPERIMENTS
from ablax.report.claims import Remarks
from ablax.report.study import Study

FILE = EXPERIMENTS / "REMARKS.toml"


def remarks_on(study: Study) -> Remarks:
    """The remarks on one study; none for a study that nobody has written about."""
    if not FILE.exists():
        return {}
    experiment = tomllib.loads(FILE.read_text()).get(study.manifest["experiment"], {})
    return experiment.get(study.manifest.get("id", ""), {})
