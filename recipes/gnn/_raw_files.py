"""Load a data set of PyTorch Geometric from a folder of raw files, and leave that folder as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_adapt.recipes.gnn._pyg import Dataset


def load_dataset(
    build: Callable[[str], Dataset], name: str, root: str | None, files: Sequence[str], download: bool
) -> Dataset:
    """Load ``root/name/raw/*`` with PyG's own loader.

    PyG writes what it makes of the raw files beside them. So that ``root`` may be read-only, or shared, it is
    given a copy in a temporary folder; only ``download=True`` lets it write into ``root``.

    Args:
        build: Folder -> data set.
        name: The data set's folder in ``root``.
        root: The folder that holds it.
        files: Names of the raw files it needs.
        download: Whether PyG may fetch missing files from the internet into ``root``.

    Returns:
        The data set, in memory.

    Raises:
        FileNotFoundError: If files are missing and may not be downloaded, or could not be.
        ImportError: If the loader needs a package that is not installed.
        ValueError: If the files cannot be read.
    """
    if root is None:
        raise FileNotFoundError(
            f"`data.root` must be the folder that holds {name}/raw, got None; give --data.root FOLDER, "
            "and --data.download true to have missing files fetched into it"
        )
    raw = Path(root) / name / "raw"
    missing = [file for file in files if not (raw / file).is_file()]
    if missing and not download:
        raise FileNotFoundError(
            f"`data.root` must hold {name}/raw/{missing[0]}, got {root!r}, where {len(missing)} of "
            f"{len(files)} are missing; name another folder, or let them be fetched with --data.download true"
        )
    try:
        if missing:
            return build(root)
        with TemporaryDirectory() as scratch:
            shutil.copytree(raw, Path(scratch) / name / "raw")
            return build(scratch)
    except ImportError as error:
        raise ImportError(
            f"{name} needs {error.name}, which is not installed; pip install 'lightning-adapt[gnn]'",
            name=error.name,
        ) from error
    except Exception as error:
        # PyG's readers fail in as many ways as a file can be wrong; all of them mean this one thing.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"`data.root` must hold the raw files of {name} as PyTorch Geometric reads them, got {root!r} "
            f"({reason}); fetch them anew"
        ) from error
