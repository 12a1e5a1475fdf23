"""The process-wide memory setting."""

import platform

import pytest

from network.zeromq_memory import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")
def test_glibc_takes_the_setting() -> None:
    assert keep_freed_memory()
