from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as slow
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from lightning_adapt.views import checksums
from lightning_adapt.views.checksums import hasten, masked_crc32c
from lightning_adapt.views.records import records


@pytest.mark.parametrize("size", [*range(0, 300), 4096, 10_007])
def test_it_is_the_checksum_of_tensorboard(size: int):
    data = np.random.default_rng(size).bytes(size)
    assert masked_crc32c(data) == slow(data)


def test_a_hastened_writer_writes_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = []
    for name in ("as it is", "hastened"):
        writer = SummaryWriter(str(tmp_path / name))
        if name == "hastened":
            hasten(writer)
            # Nothing may go TensorBoard's way any more.
            monkeypatch.setattr(RecordWriter, "write", None)
        for step in range(20):
            writer.add_scalar("loss", step**2, step, walltime=step)
        writer.add_text("long", "text " * 5000, 7, walltime=7)
        writer.close()
        (file,) = (tmp_path / name).iterdir()
        # The first record has the time in it.
        first, *others = records(file)
        written.append(file.read_bytes()[len(first) + 16 :])
        assert len(others) == 21
    assert written[0] == written[1]


def test_without_the_library_tensorboards_own_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checksums, "_in_c", None)
    assert masked_crc32c(b"123456789") == slow(b"123456789")
    with SummaryWriter(str(tmp_path)) as writer:
        hasten(writer)
        writer.add_scalar("loss", 1, 1)
    (file,) = tmp_path.iterdir()
    assert len(list(records(file))) == 2


@pytest.mark.parametrize("writer", [None, object()])
def test_a_writer_that_is_built_otherwise_stays_as_it_is(writer: object):
    hasten(writer)
