"""TensorBoard as a user starts it, on a folder of logs, with the plugin found by its entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def site(folder: Path) -> Path:
    """A folder for ``PYTHONPATH`` that makes this checkout known, where its installation is an older one."""
    if not any("lightning_adapt" in e.value for e in entry_points(group="tensorboard_plugins")):
        about = folder / "lightning_adapt_tab-0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lightning-adapt-tab\nVersion: 0\n")
        text = (ROOT / "pyproject.toml").read_text()
        (entry,) = re.findall(r'^\[project\.entry-points\.tensorboard_plugins]\n(\w+) = "(.*)"$', text, re.M)
        (about / "entry_points.txt").write_text(f"[tensorboard_plugins]\n{entry[0]} = {entry[1]}\n")
    return folder


@contextmanager
def board(logs: Path, folder: Path, *flags: str) -> Iterator[str]:
    """Run TensorBoard on ``logs`` and give its address.

    Args:
        logs: The folder of logs.
        folder: For what it needs itself.
        flags: Further flags.
    """
    path = os.pathsep.join([str(ROOT), str(site(folder)), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", "0"]
    said = folder / "stderr.txt"
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--reload_interval", "1", *flags],
            env={**os.environ, "PYTHONPATH": path},
            stderr=stderr,
            cwd=folder,
        )
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/", said.read_text())):
            if process.poll() is not None:
                raise RuntimeError(f"TensorBoard did not start:\n{said.read_text()}")
            time.sleep(0.05)
        yield found.group()
    finally:
        process.terminate()
        process.wait(20)
