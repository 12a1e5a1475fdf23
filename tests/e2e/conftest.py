"""What tests of daemons share."""

from collections.abc import Iterator

import pytest

from candor.agent.testbed.nursery import Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What daemons outside a testbed are forked from: a fresh interpreter takes two seconds of
    processor time. `test_testbed.py` and `test_fsync_order.py` have those."""
    made = Nursery()
    yield made
    made.close()
