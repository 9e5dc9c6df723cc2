import os
import pickle

import numpy as np
import pytest

from stdeploy.errors import DownloadError
from stdeploy.pull.arrays_pickle import load_arrays


class Attack:
    def __reduce__(self):
        return os.system, ("touch /tmp/stdeploy-was-here",)


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_in_containers_come_back(protocol: int) -> None:
    tree = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": [np.ones(2)]}
    found = load_arrays(pickle.dumps(tree, protocol=protocol))
    np.testing.assert_array_equal(found["a"]["b"], tree["a"]["b"])
    assert found["a"]["b"].dtype == np.float32
    np.testing.assert_array_equal(found["c"][0], [1, 1])


@pytest.mark.parametrize("thing", [Attack(), print, np.load, {"x": [os.path.join]}])
def test_anything_that_could_run_is_refused(thing: object) -> None:
    with pytest.raises(DownloadError, match="only NumPy arrays are admitted"):
        load_arrays(pickle.dumps(thing))


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": np.ones(9)})[:-20]])
def test_damaged_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(DownloadError, match="cannot be read"):
        load_arrays(content)
