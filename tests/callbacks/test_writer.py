"""Jobs keep their order, none is lost, none blocks, and an error is told once."""

from __future__ import annotations

from functools import partial
from threading import Event, current_thread
from time import sleep

import pytest

from lightning_adapt.callbacks._writer import Writer


def test_jobs_keep_their_order_on_one_other_thread() -> None:
    writer, done, threads = Writer(most=1000), [], set()

    def job(number: int) -> None:
        done.append(number)
        threads.add(current_thread().name)

    for number in range(500):
        assert writer.put(lambda number=number: job(number))  # type: ignore[misc]
    writer.drain()
    assert done == list(range(500))
    assert threads == {"lightning-adapt-writer"}
    assert writer.dropped == 0


def test_a_full_queue_drops_and_counts_and_does_not_block() -> None:
    writer, go, done = Writer(most=2), Event(), []
    started = Event()

    def slow() -> None:
        started.set()
        go.wait(10)
        done.append(0)

    writer.put(slow)
    started.wait(10)
    kept = sum(writer.put(lambda: done.append(1)) for _ in range(10))
    assert kept == 2
    assert writer.dropped == 10 - kept
    go.set()
    writer.drain()
    assert len(done) == 1 + kept
    assert done[0] == 0


def test_an_error_is_raised_once_and_later_jobs_are_done() -> None:
    writer, done = Writer(patience=0), []
    writer.put(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    while writer._error is None:
        sleep(0.001)
    with pytest.raises(ZeroDivisionError):
        writer.put(lambda: done.append(1))
    writer.put(lambda: done.append(2))
    writer.drain()
    assert done == [2]


def test_an_error_is_told_at_the_end_at_the_latest() -> None:
    writer = Writer()
    writer.put(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        writer.drain()
    writer.drain()


def test_nothing_to_drain_needs_no_thread() -> None:
    writer = Writer()
    writer.drain()
    assert writer._thread is None


def test_a_job_that_would_end_the_thread_does_not() -> None:
    writer, done = Writer(), []

    def end() -> None:
        raise SystemExit("enough")

    writer.put(end)
    with pytest.raises(SystemExit, match="enough"):
        writer.drain()
    writer.put(lambda: done.append(1))
    writer.drain()
    assert done == [1]


def test_jobs_are_begun_several_at_a_time() -> None:
    writer, begun, done = Writer(few=3, patience=60), Event(), []
    writer.put(lambda: done.append(1))
    writer.put(lambda: done.append(2))
    assert not begun.wait(0.2)
    assert done == []
    writer.put(begun.set)
    assert begun.wait(10)
    assert done == [1, 2]


def test_fewer_are_begun_when_the_first_has_waited() -> None:
    writer, begun = Writer(few=100, patience=0.05), Event()
    writer.put(begun.set)
    assert begun.wait(10)


def test_the_end_does_not_wait_for_more() -> None:
    writer, done = Writer(few=100, patience=3600), []
    for number in range(3):
        writer.put(partial(done.append, number))
        writer.drain()
    assert done == [0, 1, 2]


def test_no_job_waits_for_more_than_may_wait() -> None:
    writer, begun = Writer(most=2, few=8, patience=3600), Event()
    writer.put(begun.set)
    writer.put(begun.set)
    assert begun.wait(10)


def test_jobs_that_wait_are_expected_to_take_what_others_took() -> None:
    writer = Writer(few=100, patience=3600)

    def work() -> None:
        sum(range(100_000))

    assert writer.seconds == 0
    for _ in range(2):
        writer.put(work)
    assert writer.seconds == 0  # nobody knows yet
    writer.drain()
    took = writer.seconds
    assert took > 0
    writer.put(lambda: None)
    assert writer.seconds == pytest.approx(1.5 * took)
    writer.drain()
    assert took <= writer.seconds < 1.5 * took
