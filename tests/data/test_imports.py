from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("library", ["PIL", "tqdm", "yaml", "nibabel"])
def test_absent_library_names_the_extra(library: str) -> None:
    result = python(f"import sys; sys.modules['{library}'] = None; import monai_lossext.data")
    last = result.stderr.strip().splitlines()[-1]
    assert last == f'ImportError: monai_lossext.data needs {library}: pip install "monai_lossext[bundles]"'


def test_import_is_light() -> None:
    result = python(
        "import sys, monai_lossext.data; print({'torch', 'monai', 'scipy', 'pandas', 'SimpleITK'} & set(sys.modules))"
    )
    assert result.stdout.strip() == "set()", result.stderr
