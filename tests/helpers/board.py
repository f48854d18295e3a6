"""TensorBoard as a user starts it, on a folder of logs, with the plugin found by its entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
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
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--reload_interval", "1", *flags],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    said: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            if found:
                # Nobody reads on: a full pipe would stop the server.
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield found.group()
                break
        else:
            raise RuntimeError("TensorBoard did not start:\n" + "".join(said))
    finally:
        process.terminate()
        process.wait(20)
        if process.stderr is not None and not process.stderr.closed:
            pass
