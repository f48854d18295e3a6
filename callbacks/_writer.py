"""Writing off the training thread: jobs in order, nothing lost at the end, never in the way."""

from __future__ import annotations

from collections.abc import Callable
from queue import Full, Queue
from threading import Thread
from time import thread_time

Job = Callable[[], None]


class Writer:
    """Does jobs one after the other on a thread of its own.

    Args:
        most: Jobs that may wait; one more is dropped and counted, so that ``put`` never blocks.

    Example:
        >>> done = []
        >>> writer = Writer()
        >>> writer.put(lambda: done.append(1))
        True
        >>> writer.drain()
        >>> done
        [1]
    """

    def __init__(self, most: int = 16) -> None:
        self.dropped = 0
        self.seconds = 0.0
        """Computing time of the jobs so far: while they compute, Python computes nothing else."""
        self._jobs: Queue[Job] = Queue(most)
        self._error: BaseException | None = None
        self._thread: Thread | None = None

    def put(self, job: Job) -> bool:
        """Hand over ``job``; ``False`` when it was dropped because too many wait.

        Raises:
            Exception: What an earlier job raised, once.
        """
        self._raise()
        if self._thread is None:
            # A daemon, because nothing here may keep a process alive that is told to end.
            self._thread = Thread(target=self._work, name="lightning-adapt-writer", daemon=True)
            self._thread.start()
        try:
            self._jobs.put_nowait(job)
        except Full:
            self.dropped += 1
            return False
        return True

    def drain(self) -> None:
        """Wait until every job is done.

        Raises:
            Exception: What a job raised, once.
        """
        self._jobs.join()
        self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            started = thread_time()
            try:
                job()
            except BaseException as error:  # a thread that ends would let `drain` wait for ever
                self._error = error
            finally:
                self.seconds += thread_time() - started
                self._jobs.task_done()
