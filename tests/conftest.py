"""What all tests share: where the real data lies; kernels are interpreted where there is no GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# Triton decides when it is first imported. With a GPU, the tests in tests/gpu run the compiled kernels.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def data_path() -> Callable[..., Path]:
    """``data_path("trec", "train.txt")``: a file or folder of the real data, or skip the test and say why."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("LIGHTNING_ADAPT_DATA") or default)

    def find(*parts: str) -> Path:
        path = root.joinpath(*parts)
        if not path.exists():
            pytest.skip(f"no {'/'.join(parts)} in {root}; set LIGHTNING_ADAPT_DATA to the data folder")
        return path

    return find
