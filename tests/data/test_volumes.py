from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from monai_lossext.data import DatalistError, skull_stripping_datalist, volume_list, write_datalist
from monai_lossext.scripts.volume_files import orientation, read_grid, read_voxels
from tests.data.heads import AFFINE, noise, write

SCANS = ("01_ses-1", "01_ses-2", "02", "03_ses-1", "03_ses-2", "04", "05")


def write_series(folder: Path, uid: str = "1.2.3", slices: int = 4) -> None:
    """A DICOM series of axial slices."""
    folder.mkdir(parents=True, exist_ok=True)
    volume = SimpleITK.GetImageFromArray(noise().T[:slices])
    for number in range(slices):
        picture = volume[:, :, number]
        tags = {"0008|0060": "MR", "0020|000e": uid, "0020|000d": "1.2", "0020|0013": str(number)}
        tags |= {"0020|0032": f"0\\0\\{8 * number}", "0020|0037": "1\\0\\0\\0\\1\\0", "0008|0018": f"{uid}.{number}"}
        for tag, value in tags.items():
            picture.SetMetaData(tag, value)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid}-{number}.dcm"))
        writer.Execute(picture)


def test_a_file(heads: Path) -> None:
    file = heads / "sub-02_T1w.nii.gz"
    assert volume_list(file) == [{"case": "sub-02_T1w", "image": str(file)}]


def test_a_folder_without_its_masks(heads: Path, nfbs: Path) -> None:
    write(heads / "other.nii", noise())
    write(heads / "._hidden.nii", noise())
    (heads / "readme.txt").touch()
    listed = volume_list(heads)
    assert [item["case"] for item in listed] == ["other", *(f"sub-{case}_T1w" for case in SCANS)]
    assert all(Path(item["image"]).is_file() for item in listed)
    assert [item["case"] for item in volume_list(nfbs / "A00000003")] == ["sub-A00000003_ses-NFB3_T1w"]


def test_other_formats(tmp_path: Path) -> None:
    image = SimpleITK.ReadImage(str(write(tmp_path / "a.nii.gz", noise())))
    for name in ("b.nrrd", "c.mha", "d.mhd"):
        SimpleITK.WriteImage(image, str(tmp_path / name))
    listed = volume_list(tmp_path)
    assert [item["case"] for item in listed] == ["a", "b", "c", "d"]
    for item in listed:
        grid = read_grid(Path(item["image"]))
        assert grid.shape == noise().shape
        np.testing.assert_allclose(grid.affine, AFFINE)
        np.testing.assert_array_equal(read_voxels(Path(item["image"])), noise())


def test_dicom(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    assert volume_list(tmp_path / "scan") == [{"case": "scan", "image": str(tmp_path / "scan")}]
    write_series(tmp_path / "another")
    assert [item["case"] for item in volume_list(tmp_path)] == ["another", "scan"]
    with pytest.raises(DatalistError, match=r"is no volume; looked for .*; name the folder of the series"):
        volume_list(tmp_path / "scan" / "1.2.3-0.dcm")
    write_series(tmp_path / "scan", uid="1.2.4")
    for folder in (tmp_path, tmp_path / "scan"):
        with pytest.raises(DatalistError, match=r"expected one DICOM series in each folder, found\n  .*scan: 2 series"):
            volume_list(folder)


def test_a_datalist(heads: Path, tmp_path: Path) -> None:
    datalist = skull_stripping_datalist(heads)
    listed = volume_list(write_datalist(datalist, heads / "datalist.json"))
    assert sorted(item["case"] for item in listed) == [f"sub-{case}" for case in SCANS]
    assert {item["image"] for item in listed} == {item["image"] for items in datalist.values() for item in items}
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(["heads/a.nii.gz", {"image": "/b.nii"}]))
    assert volume_list(bare) == [
        {"case": "a", "image": str(tmp_path / "heads" / "a.nii.gz")},
        {"case": "b", "image": "/b.nii"},
    ]


@pytest.mark.parametrize("text", ["[", '{"testing": [{"label": "a"}]}', "3", '[{"image": 3}]', "[[1]]"])
def test_json_that_is_no_datalist(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatalistError, match=r"a.json is no datalist|a.json holds no volume"):
        volume_list(tmp_path / "a.json")


def test_nothing_to_list(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match="there is no such folder or volume"):
        volume_list(tmp_path / "nowhere")
    with pytest.raises(DatalistError, match=r"holds no volume; looked for \.nii\.gz, .* and DICOM series"):
        volume_list(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(DatalistError, match=r"a.txt is no volume; looked for \.nii\.gz, \.nii, \.nrrd, \.mha, \.mhd$"):
        volume_list(tmp_path / "a.txt")
    write(tmp_path / "a.nii", noise())
    write(tmp_path / "a.nii.gz", noise())
    with pytest.raises(DatalistError, match=r"more than one file for a case.*\n  a: .*a.nii and .*a.nii.gz"):
        volume_list(tmp_path)


def test_orientation() -> None:
    assert orientation(AFFINE) == "RAS"
    assert orientation(AFFINE[:, [2, 0, 1, 3]]) == "SRA"
