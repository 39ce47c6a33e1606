"""One thread for work that training need not wait for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

Result = TypeVar("Result")

_MOST = 4  # jobs that wait or are being done: they hold memory, and the end of a run waits for them


class Background(Generic[Result]):
    """Does jobs one after the other; none is left out."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background")
        self._jobs: list[Future[Result]] = []

    def submit(self, job: Callable[[], Result]) -> None:
        """Do a job soon; waits where many are there already."""
        unfinished = [job for job in self._jobs if not job.done()]
        if len(unfinished) >= _MOST:
            wait(unfinished[:1])
        self._jobs.append(self._pool.submit(job))

    def collect(self, *, wait: bool = False) -> list[Result]:
        """Return the results there are, each once, in order; with `wait`, of all jobs.

        Raises:
            Exception: what a job raised.
        """
        results = []
        while self._jobs and (wait or self._jobs[0].done()):
            results.append(self._jobs.pop(0).result())
        return results

    def close(self) -> None:
        """End the thread when the job it is at is done; what still waits is left out."""
        self._pool.shutdown(cancel_futures=True)
