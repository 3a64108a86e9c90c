"""Time and memory that the shipped weights take for one large head.

    python benchmarks/head_inference.py skull_stripping_2d skull_stripping_3d

writes a phantom of 256 x 256 x 192 voxels of 1 mm, runs ``python -m monai_lossext predict`` on it for each bundle in a
process of its own, and prints seconds, from start to mask, and the most memory that was resident.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np

from monai_lossext.data import head_phantom

SIZE = (256, 256, 192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+")
    bundles = parser.parse_args().bundles
    with tempfile.TemporaryDirectory() as folder:
        heads = Path(folder) / "heads"
        heads.mkdir()
        head = head_phantom(0, SIZE, (1.0, 1.0, 1.0))
        nibabel.save(nibabel.Nifti1Image(head.image.astype(np.float32), head.affine), heads / "sub-01_T1w.nii.gz")
        for bundle in bundles:
            begin = time.perf_counter()
            command = [sys.executable, "-m", "monai_lossext", "predict", bundle, str(heads), str(Path(folder) / bundle)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)  # which tells the memory of this process alone
            if status:
                raise SystemExit(f"{' '.join(command)}: failed, exit code {os.waitstatus_to_exitcode(status)}")
            print(f"{bundle}: {time.perf_counter() - begin:.0f} s, {usage.ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
