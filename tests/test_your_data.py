"""The page docs/your_data.md, typed as it stands: with phantoms for the user's files, one epoch and one seed."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from monai_lossext.data.phantoms import dermoscopy_phantom

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(bash|python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\S+\.(?:yaml|py))\n")
SHORTER = {"--epochs 20": "--epochs 1", "epochs: 20": "epochs: 1", "seeds: 3": "seeds: 1"}

# What the page does not install is not imported, as far as that takes long.
ABSENT = "import sys; sys.modules.update(dict.fromkeys(('mlflow', 'ray', 'onnx', 'skimage', 'kornia')))"
# `python -m MODULE ...` for each command, forked from a process that has imported what takes most of the time.
DRIVER = """
import json, os, runpy, sys
import monai.bundle, monai_lossext.compare.report, monai_lossext.compare.terminal, monai_lossext.engines
import monai_lossext.handlers, monai_lossext.predict
for command in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        sys.argv = command
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        sys.exit()
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(f"{command}: exit code {code}")
"""


def page() -> tuple[dict[str, str], list[list[str]]]:
    """The files of the page, by their names, and the modules that its commands call, with their arguments."""
    text = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")
    for long, short in SHORTER.items():
        assert long in text
        text = text.replace(long, short)
    files, commands = {}, []
    for language, block in BLOCK.findall(text):
        if language == "bash":
            commands += [shlex.split(line) for line in block.replace("\\\n", "").splitlines()]
        else:
            named = NAMED.match(block)
            assert named, f"the first line of a block names its file: {block}"
            files[named[1]] = block
    assert commands[0][:2] == ["pip", "install"]
    assert all(command[:2] == ["python", "-m"] for command in commands[1:])
    return files, [command[2:] for command in commands[1:]]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
def test_the_page_leads_from_a_folder_to_a_report(tmp_path: Path) -> None:
    for name in ("photos", "outlines"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    for number in range(10):
        picture, mask = dermoscopy_phantom((5, number), (48, 64))
        Image.fromarray(picture).save(tmp_path / "mine" / "photos" / f"{number:04} derm.jpg")
        Image.fromarray(mask).save(tmp_path / "mine" / "outlines" / f"{number:04} lesion.png")
    files, commands = page()
    for file, content in files.items():
        (tmp_path / file).write_text(content, encoding="utf-8")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(ABSENT, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(ROOT), str(tmp_path / "first"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(commands)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    assert "training: 6 cases\nvalidation: 1 cases\ntesting: 3 cases" in done.stdout
    assert len(list((tmp_path / "masks").glob("* derm.png"))) == 10
    assert (tmp_path / "drawings" / "contact_sheet.png").is_file()
    for run in ("run", "run_my_loss"):
        assert (tmp_path / run / "models" / "best.pt").is_file()
    with (tmp_path / "run" / "evaluation" / "cases.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 3
    report = (tmp_path / "study" / "report" / "report.md").read_text(encoding="utf-8")
    assert "SoftDiceLoss" in report
    assert r"my\_loss" in report
