"""Settings of all tests."""

import os

from hypothesis import settings

from tests.cases import cases

# Tests run beside each other, a process of theirs on each core, and such small models only make
# threads wait. What tests start has it from here; torch reads it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None, max_examples=cases(50))
settings.load_profile("untimed")
