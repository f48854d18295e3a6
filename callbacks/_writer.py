"""Writing off the training thread: jobs in order, nothing lost at the end, never in the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from time import thread_time

Job = Callable[[], None]


class Writer:
    """Does jobs one after the other on a thread of its own.

    Jobs are done several at a time: what a thread does while another trains is dear the first time, when
    nothing of it is in the processor's caches and both want Python's lock, and cheap the times after.

    Args:
        most: Jobs that may wait; one more is dropped and counted, so that ``put`` never blocks.
        few: So many are begun with at once.
        patience: Seconds after which fewer are.

    Example:
        >>> done = []
        >>> writer = Writer()
        >>> writer.put(lambda: done.append(1))
        True
        >>> writer.drain()
        >>> done
        [1]
    """

    def __init__(self, most: int = 16, *, few: int = 8, patience: float = 1.0) -> None:
        self.dropped = 0
        self._spent, self._done = 0.0, 0
        self._most, self._few, self._patience = most, min(few, most), patience
        self._jobs: deque[Job] = deque()
        self._working = self._hurry = False
        self._changed = Condition()
        self._error: BaseException | None = None
        self._thread: Thread | None = None

    @property
    def seconds(self) -> float:
        """Computing time of all jobs, in which Python computes nothing else; of those that wait, the mean."""
        return self._spent * (1 + len(self._jobs) / self._done) if self._done else 0.0

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
        with self._changed:
            if len(self._jobs) >= self._most:
                self.dropped += 1
                return False
            self._jobs.append(job)
            if len(self._jobs) in (1, self._few):  # the thread wakes for no other
                self._changed.notify_all()
        return True

    def drain(self) -> None:
        """Wait until every job is done.

        Raises:
            Exception: What a job raised, once.
        """
        with self._changed:
            self._hurry = True
            try:
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._jobs and not self._working)
            finally:
                self._hurry = False
        self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                self._changed.wait_for(self._enough, self._patience)
            while (job := self._next()) is not None:
                started = thread_time()
                try:
                    job()
                except BaseException as error:  # a thread that ends would let `drain` wait for ever
                    self._error = error
                finally:
                    self._spent, self._done = self._spent + thread_time() - started, self._done + 1

    def _enough(self) -> bool:
        return self._hurry or len(self._jobs) >= self._few

    def _next(self) -> Job | None:
        with self._changed:
            self._working = bool(self._jobs)
            if self._working:
                return self._jobs.popleft()
            self._changed.notify_all()
            return None
