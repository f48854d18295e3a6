"""Which engine ``auto`` takes on the host, and what is said while it is compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.cpu_rows import STRIDE, adamw_row, assert_close, ordinary

from lightning_adapt.dynamics import engines
from lightning_adapt.dynamics.engines import cpu, reference
from lightning_adapt.dynamics.engines.cpu import _pass


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiled engine measured is told from the strides it took."""
    monkeypatch.setattr(cpu, "sample_stride", lambda shape: STRIDE)


def test_auto_takes_the_compiled_engine_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engines.choose(torch.device("cpu")) == ("numba", "it is the fastest for cpu")
    assert engines.prepare("auto", torch.device("cpu")) == "engine numba on cpu: it is the fastest for cpu"
    assert engines.prepare("eager", torch.device("cpu")) == "engine eager on cpu: it was asked for"
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    name, why = engines.choose(torch.device("cpu"))
    assert name == "eager"
    assert "numba is not installed" in why
    with pytest.raises(
        ValueError, match=r"`engine` must be one that is installed, got 'numba'; pip install numba"
    ):
        engines.find_engine("numba")


@pytest.mark.parametrize(("present", "expected"), [(True, [STRIDE]), (False, [])])
def test_auto_measures_with_what_it_chose(
    present: bool, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not present:
        monkeypatch.setattr(engines, "find_spec", lambda name: None)
    rows = [adamw_row(*ordinary())]
    packed = engines.find_engine("auto")(rows)
    assert list(packed.strides) == expected
    assert_close(packed, reference.measure(rows), 1e-6)
    assert engines.find_engine("auto")([]).figures.shape[0] == 0


def test_auto_falls_back_where_the_library_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_faults", {})
    real = engines.import_module

    def broken(name: str) -> Any:
        if name.endswith(".cpu"):
            raise ImportError("Numba needs another NumPy")
        return real(name)

    monkeypatch.setattr(engines, "import_module", broken)
    name, why = engines.choose(torch.device("cpu"))
    assert name == "eager"
    assert "Numba needs another NumPy" in why
    assert engines.prepare("auto", torch.device("cpu")).startswith("engine eager on cpu")
    assert engines.find_engine("auto")([adamw_row(*ordinary())]).figures.shape[0] == 1


def test_where_no_folder_may_be_written_it_is_compiled_without_keeping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def cfunc(_: Any, **options: Any) -> Any:
        asked.append(options.get("cache", False))
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(_pass, "cfunc", cfunc)
    assert callable(_pass._compile("a version"))
    assert asked == [True, False]


def test_a_long_compilation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patient(engines.Timer):
        def start(self) -> None:
            self.function(*self.args)

    monkeypatch.setattr(engines, "Timer", Patient)
    told: list[str] = []
    engines.prepare("auto", torch.device("cpu"), told.append)
    assert told == ["the engine numba is being compiled, once on this machine: up to a minute"]
