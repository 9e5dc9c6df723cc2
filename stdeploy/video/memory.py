"""Keeping the memory of processes that decode flat."""

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3  # of glibc's mallopt
_LARGE_BYTES = 4 * 2**20


def give_back_large_arrays() -> None:
    """Let arrays of 4 MiB and more go back to the system as soon as they are freed.

    glibc learns from the first large arrays that are freed to keep later ones; of clips whose sizes
    differ from video to video it then keeps gigabytes that fit nothing. Other C libraries have no
    such switch, and need none.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
