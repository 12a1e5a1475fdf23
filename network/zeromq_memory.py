"""Keeps the process from giving the memory of each chunk back and fetching it again.

libzmq allocates a buffer for every chunk it encrypts, decrypts or receives. glibc returns buffers
of that size to the kernel when they are freed, and the kernel clears every page of the next one: a
sixth of the processor time of an encrypted exchange of 4 MB with two neighbours.
"""

import ctypes

from network.transport import MIB

# From malloc.h. Setting the one turns off the adjustment of both, so both are set.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# What a heap may keep free at its top: beyond the high-water marks of a few neighbours.
_KEPT_BYTES = 128 * MIB
# The largest value that glibc takes: chunks, and vectors below it, come from the heap.
_MAPPED_BYTES_MIN = 32 * MIB


def keep_freed_memory() -> bool:
    """Tell the C library, for the whole process; False, and nothing done, where it is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES_MIN) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    )
