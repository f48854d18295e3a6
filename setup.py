"""Refuse to build from a checkout in which the links inside the package are missing.

Everything else about the build stands in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup

for name in ("callbacks", "recipes"):
    if not (Path(__file__).parent / "lightning_adapt" / name / "__init__.py").is_file():
        raise SystemExit(
            f"`lightning_adapt/{name}` must be a link to ../{name} or that folder, got something else; "
            "run `git config core.symlinks true`, then `git checkout lightning_adapt`"
        )

setup()
