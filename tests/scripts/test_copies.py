from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import monai_lossext.scripts

SOURCE = Path(monai_lossext.scripts.__file__).parent
BUNDLES = sorted(path.name for path in (Path(__file__).parents[2] / "bundles").iterdir())


def modules(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.py")}


@pytest.mark.parametrize("name", BUNDLES)
def test_every_bundle_carries_the_same_scripts(bundles_dir: Path, name: str) -> None:
    """`make scripts` writes the copies. All bundles carry all of them: two in one process share the name `scripts`."""
    assert modules(bundles_dir / name / "scripts") == modules(SOURCE)
    assert not [path for path in (bundles_dir / name / "scripts").iterdir() if path.is_dir() and path.name[0] != "_"]


def test_scripts_need_nothing_of_this_package(bundles_dir: Path) -> None:
    """Pictures need neither nibabel nor SimpleITK, volumes no Pillow, and nothing needs the package itself."""
    code = "import sys; sys.modules |= dict.fromkeys(('monai_lossext', 'SimpleITK', 'nibabel', 'PIL')); "
    command = [sys.executable, "-c", f"{code}from scripts import inference, transforms; print(sorted(sys.modules))"]
    done = subprocess.run(command, cwd=bundles_dir / BUNDLES[0], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'scripts.volume_files'" in done.stdout
