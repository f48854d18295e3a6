"""The environment that peers live in: the packages of this one, and theirs beside them."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from _measure import ROOT

Steps = tuple[tuple[str, ...], ...]

#: Composer asks for older versions of what is here, and imports without them; the rest it needs to import.
PEERS: Mapping[str, Steps] = {
    "composer": (
        ("--no-deps", "mosaicml==0.32.1", "torch-optimizer", "pytorch-ranger"),
        ("coolname", "tabulate", "py-cpuinfo", "importlib-metadata", "psutil", "mosaicml-cli"),
    ),
    "wandb": (("wandb",),),
}


def environment(folder: Path) -> tuple[Path, dict[str, str]]:
    """Make the environment on first use.

    Args:
        folder: Where it lies; what is there already is used.

    Returns:
        Its interpreter, and why a peer could not be installed, by name.
    """
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    ready = folder / "peers.json"
    wanted = {name: [list(step) for step in steps] for name, steps in PEERS.items()}
    if ready.exists() and python.exists():
        kept = json.loads(ready.read_text())
        if kept["wanted"] == wanted and not kept["missing"]:
            return python, {}
    print(f"making the environment of the peers in {folder} …", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    _share(python)
    missing = {name: reason for name, steps in PEERS.items() if (reason := _install(python, steps))}
    ready.write_text(json.dumps({"wanted": wanted, "missing": missing}, indent=1))
    return python, missing


def _share(python: Path) -> None:
    """Let the environment see the packages of this one: the same torch, and no second one to fetch."""
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs = subprocess.run(
        [str(python), "-c", ask], capture_output=True, text=True, check=True
    ).stdout.strip()
    (Path(theirs) / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")


def _install(python: Path, steps: Steps) -> str:
    """Install; returns why it failed, in pip's last line, or nothing."""
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    for step in steps:
        done = subprocess.run([*pip, *step], capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
    return ""
