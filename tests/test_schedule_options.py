"""The LSTM's options in the schedules with one launch for all time steps, against the NumPy engine and the loop."""

import numpy as np
import pytest

from tests import backends
from tests.schedule_cases import SCHEDULES, scheduled
from tests.variant_kernel_cases import RUNS, case, check

BACKENDS = backends.KERNELS
HELD = {
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
    "recurrent dropout": {"recurrent_dropout": 0.3},
    "recurrent dropout of the candidate": {"recurrent_dropout": 0.3, "recurrent_dropout_on": "candidate"},
    "zoneout of h": {"zoneout": (0.3, 0.0)},
    "zoneout of c": {"zoneout": (0.0, 0.3)},
    "weight drop": {"weight_drop": 0.4},
    "all together": {
        "peephole": True,
        "coupled": True,
        "recurrent_dropout": 0.3,
        "zoneout": (0.2, 0.4),
        "weight_drop": 0.2,
        "dropout": 0.2,
        "num_layers": 2,
        "bidirectional": True,
    },
}
SIZES = {"steps": 6, "batch": 5, "hidden": 12}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("lengths", [None, (6, 0, 3, 1, 5)], ids=["no lengths", "lengths"])
@pytest.mark.parametrize("name", HELD)
def test_each_option(backend, name, lengths, schedule):
    given = case(lengths=lengths, **{**SIZES, "bidirectional": lengths is not None, **HELD[name]})
    with scheduled(backend, schedule, 5):
        for run in RUNS:
            check(backend, given, run, "float32")
