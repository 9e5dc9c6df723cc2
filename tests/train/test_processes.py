import multiprocessing

import cv2
import numpy as np

from stdeploy.train.clips import begin_worker
from stdeploy.train.processes import before_they_begin


def test_workers_begin_in_a_program_that_has_used_the_threads_of_opencv() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(-1)  # as many as there are processors
    try:
        picture = np.zeros((4000, 4000, 3), np.uint8)
        for _ in range(3):  # which makes them
            cv2.GaussianBlur(cv2.resize(picture, (4000, 4000)), (31, 31), 3)
        with before_they_begin():
            worker = multiprocessing.get_context("fork").Process(target=begin_worker, args=(0,))
            worker.start()
        worker.join(timeout=30)
        assert worker.exitcode == 0
        assert cv2.getNumThreads() == cv2.getNumberOfCPUs()
    finally:
        worker.kill()
        cv2.setNumThreads(before)
