"""The kernels compile for a GPU where there is none, to what makes them fast; in a process of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

SCRIPT = """
import json, sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_adapt.dynamics.engines.descriptors import CANONICAL, HAS_EPS, HAS_SNR, SLOTS
from lightning_adapt.dynamics.engines.triton_kernel import measure_blocks as kernel

state = getattr(tl, sys.argv[1])
dtypes = [tl.float32, tl.float32, tl.float32, state, None, state, None, None]
numbers = dict(FORM=CANONICAL | HAS_EPS | HAS_SNR, TILE=512, EACH=4, WIDE=128, COUNTED=512)
flags = dict(HAS_L2=False, ALIGNED=True, FAST=True, HISTOGRAMS=True)
names = ["PARAMETER", "BEFORE", "GRADIENT", "FIRST", "NUMERATOR", "SECOND", "CENTERING", "RATE"]
constants = dict(zip(names, dtypes)) | numbers | flags
pointers = dict(table="*i64", partials="*fp64", counts="*i32")
integers = dict(rows="i32", blocks="i32", first_block="i32")
signature = pointers | integers | dict.fromkeys(constants, "constexpr")
places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(pointers))}
options = {"num_warps": 4, "enable_fp_fusion": True}
built = triton.compile(ASTSource(kernel, signature, places, aligned), GPUTarget("cuda", 90, 32), options)
print(json.dumps({"ptx": built.asm["ptx"], "ttgir": built.asm["ttgir"]}))
"""


BEGIN = """
import json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_adapt.dynamics.engines.triton_kernel import begin as kernel

constants = dict(FETCH=True, SIZE=1024)
signature = dict(table="*i64", counts="*i32", rows="i32", size="i32") | dict.fromkeys(constants, "constexpr")
places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
options = {"num_warps": 4, "enable_fp_fusion": True}
built = triton.compile(ASTSource(kernel, signature, places, {}), GPUTarget("cuda", 90, 32), options)
print(json.dumps({"ptx": built.asm["ptx"]}))
"""


def _built(tmp_path: Path, text: str, *arguments: str) -> dict[str, str]:
    """What a script that compiles a kernel says of it."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if Version(importlib.metadata.version("triton")) < Version("3.4"):
        pytest.skip("older versions are compiled for in another way")
    script = tmp_path / "compile.py"
    script.write_text(text)
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
@pytest.mark.parametrize(("state", "wide_loads"), [("float32", 5), ("bfloat16", 3)])
def test_tensors_are_loaded_16_bytes_at_once_and_nothing_moves_between_threads(
    state: str, wide_loads: int, tmp_path: Path
) -> None:
    built = _built(tmp_path, SCRIPT, state)
    assert built["ptx"].count("ld.global.v4.b32") == wide_loads
    assert "convert_layout" not in built["ttgir"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
def test_bias_is_corrected_in_float64_by_no_call(tmp_path: Path) -> None:
    ptx = _built(tmp_path, BEGIN)["ptx"]
    assert "div.rn.f64" in ptx
    assert "ex2.approx" not in ptx  # which is of fp32
    assert "call" not in ptx
