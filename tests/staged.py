"""The plan whose evaluation keys are kept on disk in tests, and what its outputs are."""

from __future__ import annotations

import numpy as np

from runtime.key_stages import KeyNeeds
from tests.support import convolution_plan, run_slots

PLAN = convolution_plan()
NEEDS = KeyNeeds.of(PLAN)
SIZE = PLAN.parameters.key_bytes
IMAGES = np.random.default_rng(6).uniform(-1, 1, (2, 1, 2, 8, 8))
EXPECTED = run_slots(PLAN, {"x": IMAGES})["y"]
