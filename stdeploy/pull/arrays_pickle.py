"""Reading a pickle that may hold NumPy arrays in plain containers, and nothing that runs."""

import io
import pickle
from typing import Any

import numpy as np

from stdeploy.errors import DownloadError

# Exactly what pickled arrays name. NumPy 2 moved its internals; old files keep the old path.
_ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
# What rebuilds an array, taken from how NumPy itself pickles one.
_RECONSTRUCT = np.empty(0).__reduce__()[0]


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise DownloadError(
                f"the pickle asks for {module}.{name}; only NumPy arrays are admitted"
            )
        if module == "numpy":
            return getattr(np, name)
        return _RECONSTRUCT


def load_arrays(content: bytes) -> Any:
    """Unpickle arrays in dicts, lists and tuples.

    Raises:
        DownloadError: the pickle names anything but NumPy arrays, or is damaged.
    """
    try:
        return _ArraysOnly(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, TypeError) as error:
        raise DownloadError(f"the pickle of weights cannot be read: {error}") from error
