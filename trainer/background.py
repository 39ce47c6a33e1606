"""One thread for work that training must not wait for, and that may be left out when late."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Does jobs one after the other. One may wait while one is done: a newer one replaces it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background")
        self._jobs: list[Future[Result]] = []

    def submit(self, job: Callable[[], Result]) -> None:
        """Do a job soon, or a newer one in its place."""
        self._jobs = [waiting for waiting in self._jobs if not waiting.cancel()]
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
        """End the thread, when the job it is at is done; what still waits is left out."""
        self._pool.shutdown(cancel_futures=True)
