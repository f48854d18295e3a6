"""What a build holds: the wheel equals the tree, from a checkout and from an sdist, or there is no wheel."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    "lightning_adapt",
    "callbacks",
    "recipes",
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "tests",
]


def checkout(to: Path) -> Path:
    """A copy of the tree, links as links, so that nothing is built in the real one."""
    to.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name,
                to / name,
                symlinks=True,
                ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
            )
        else:
            shutil.copy(ROOT / name, to / name)
    return to


def build(tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "."]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True)


def in_the_tree() -> set[str]:
    """The files that belong into a wheel."""
    return {
        (Path(folder) / name).relative_to(ROOT).as_posix()
        for folder, _, names in os.walk(ROOT / "lightning_adapt", followlinks=True)
        for name in names
        if name == "py.typed" or name.endswith((".py", ".yaml", ".js", ".css"))
    }


def in_the_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An sdist and the wheel built from it, as ``python -m build`` makes them."""
    tree = checkout(tmp_path_factory.mktemp("build") / "tree")
    done = build(tree)
    assert done.returncode == 0, done.stdout + done.stderr
    return tree / "dist"


def test_the_wheel_from_the_sdist_equals_the_tree(built):
    (wheel,) = built.glob("*.whl")
    assert in_the_wheel(wheel) == in_the_tree()


def test_the_wheel_from_the_checkout_equals_the_tree(tmp_path):
    tree = checkout(tmp_path / "tree")
    done = build(tree, "--wheel")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    assert in_the_wheel(wheel) == in_the_tree()


def test_the_sdist_holds_files_and_no_links(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert [member.name for member in members if member.issym() or member.islnk()] == []
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert in_the_tree() | {"setup.py", "pyproject.toml", "LICENSE"} <= names


def test_the_command_runs_from_the_installed_wheel(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from importlib.metadata import distribution\n"
        "import lightning_adapt\n"
        "print(lightning_adapt.__file__)\n"
        "(script,) = distribution('lightning-adapt').entry_points.select(group='console_scripts')\n"
        "sys.exit(script.load()(['recipes']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert "nlp/char-lm" in done.stdout


@pytest.mark.parametrize("name", ["callbacks", "recipes"])
@pytest.mark.parametrize("what", ["missing", "text"])
def test_a_checkout_without_links_does_not_build(tmp_path, name, what):
    tree = checkout(tmp_path / "tree")
    link = tree / "lightning_adapt" / name
    link.unlink()
    if what == "text":  # how git writes a link where the system has none
        link.write_text(f"../{name}")
    done = build(tree, "--wheel")
    assert done.returncode != 0
    assert f"`lightning_adapt/{name}` must be a link to ../{name}" in done.stdout + done.stderr
    assert list(tree.glob("dist/*.whl")) == []
