"""Keeps the process from giving memory back to the system and fetching it again, until told to.

libzmq allocates a buffer for every chunk it encrypts, decrypts or receives, and a simulation its
models every round. glibc returns blocks of that size to the kernel when they are freed, and the
kernel clears every page of the next one: a sixth of the processor time of an encrypted exchange of
4 MB with two neighbours, half of that of a simulated round of 4,096 models of 2,762 parameters.
"""

import ctypes

from candor.network.transport import MIB

# From malloc.h. Setting a threshold turns off the adjustment of both, so both are set.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
# What a heap may keep free at its top: beyond the high-water marks of a few neighbours.
_KEPT_BYTES = 128 * MIB
# The largest value that glibc takes: chunks, and vectors below it, come from the heap.
_MAPPED_BYTES_MIN = 32 * MIB


def keep_freed_memory(*, all_of_it: bool = False) -> bool:
    """Tell the C library, for the whole process; False, and nothing done, where it is not glibc.

    Without `all_of_it`, blocks of 32 MiB and what is free beyond 128 MiB still go back."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    kept = 2**31 - 1 if all_of_it else _KEPT_BYTES
    blocks = (_M_MMAP_MAX, 0) if all_of_it else (_M_MMAP_THRESHOLD, _MAPPED_BYTES_MIN)
    return bool(mallopt(*blocks) and mallopt(_M_TRIM_THRESHOLD, kept))


def give_back() -> bool:
    """Return all pages that nothing lies on to the system, whatever is to be kept: after a flood;
    False, and nothing done, where the C library is not glibc. Takes milliseconds."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):
        return False
