"""The process-wide memory setting."""

import platform
import subprocess
import sys

import pytest

from candor.network.memory import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")
def test_glibc_takes_the_setting() -> None:
    assert keep_freed_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")
def test_glibc_takes_the_setting_of_simulations() -> None:
    """In a process of its own: it holds for the whole of one."""
    code = "from candor.network.memory import keep_freed_memory as k; assert k(all_of_it=True)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
