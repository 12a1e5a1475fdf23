"""Tests lie in the folder of the room that they test, and every room has some."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("agent", "mechanisms", "network", "topologies")


def rooms(root: Path, pattern: str) -> set[str]:
    """The folders below `root` that hold a file of this form, as paths from there."""
    found = (path for name in PACKAGES for path in (root / name).rglob(pattern))
    return {str(path.parent.relative_to(root)) for path in found}


def test_every_folder_of_tests_is_that_of_a_room() -> None:
    assert rooms(ROOT / "tests", "*.py") <= rooms(ROOT, "*.py")


def test_every_room_has_tests() -> None:
    # A package alone holds what its rooms share: the version, exit codes, `python -m`.
    assert rooms(ROOT, "[!_]*.py") - {*PACKAGES} <= rooms(ROOT / "tests", "test_*.py")
