"""Volumes as files: finding them, reading where their voxels lie and what they hold, and writing masks beside them.

What cannot be read with certainty is refused: a mask in the wrong place is worse than none. nibabel and SimpleITK are
imported where they are used, because they take a second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .files import clashes, reason, stop

NIFTI_SUFFIXES = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha", ".mhd")
LOOKED_FOR = f"{', '.join(SUFFIXES)} and DICOM series"
MASK_ENDING = "_brainmask"
MASK_ENDINGS = ("_T1w_brainmask", MASK_ENDING, "_desc-brain_mask")
STRIPPED_ENDING = "_T1w_brain"  # an image without its skull, which is no mask
# Channels of a case, by the names that files end in; those of nnU-Net are numbers.
CHANNELS = (("FLAIR", "0000"), ("T1w", "T1", "0001"))
PREPROCESSED = "pre"  # folder of a subject's images in the WMH challenge
LESION_ENDING = "_lesions"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK and DICOM count in LPS
NIFTI_UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # mm, by the first three bits of xyzt_units
NO_UNIT = "give no unit of length (xyzt_units): mm is taken"
TWO_AFFINES = "have an sform and a qform that disagree: the sform is taken"
AFFINES_AGREE = 0.1  # of a voxel, by which no corner of the volume may lie apart
SMALLEST_DETERMINANT = 1e-9  # mm^3 of a voxel; below, the affine maps the volume to a plane
LONGEST_SIDE = (10.0, 3000.0)  # mm of a head's volume; outside, units are wrong
SAME_POSITION = 0.001  # mm between two slices of a DICOM series that are one too many
UNEVEN = 0.1  # of the usual distance between slices, by which one may differ from it
ASKEW = 0.02  # of that distance, by which a slice may lie beside the one before
TURNED = 1e-3  # by which directions, and sizes of pixels, of slices may differ
GRID_TOLERANCE = 0.1  # voxels by which the corners of volumes that belong together may differ
ROUNDING = 1e-4  # of labels that a header scales to whole numbers

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# EchoTime and EchoNumbers; TemporalPositionIdentifier, TriggerTime, AcquisitionNumber, AcquisitionTime and -DateTime
ECHO_TAGS = ("0018|0081", "0018|0086")
TIME_TAGS = ("0020|0100", "0018|1060", "0020|0012", "0008|0032", "0008|002a")
# Kind of file; position, directions; samples, interpretation, frames, rows, columns and size of pixels
TAGS = (
    "0008|0016",
    "0020|0032",
    "0020|0037",
    *(f"0028|{end}" for end in ("0002", "0004", "0008", "0010", "0011", "0030")),
)
TAGS += ECHO_TAGS + TIME_TAGS


class Grid(NamedTuple):
    """Where the voxels of a volume lie."""

    shape: tuple[int, ...]  # without axes of length 1 after the third
    affine: NDArray[np.float64]  # (4, 4), voxels to mm in RAS
    problem: str = ""  # why the affine is a guess, as the rest of a sentence about the file
    notice: str = ""  # what was assumed, as the rest of a sentence about such files
    slices: tuple[str, ...] = ()  # the files of a DICOM series, in order


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a volume in small letters, empty for other files.

    >>> suffix_of("head.NII.GZ"), suffix_of("head.png")
    ('.nii.gz', '')
    """
    return next((suffix for suffix in SUFFIXES if os.fspath(path).lower().endswith(suffix)), "")


def stem_of(path: Path) -> str:
    """Return the name of a volume without its suffix; that of a folder is its whole name."""
    return path.name if path.is_dir() else path.name[: len(path.name) - len(suffix_of(path))]


def find_volumes(path: str | os.PathLike[str]) -> list[Path]:
    """List a volume, or those of a folder, sorted; empty where there is none.

    Args:
        path: a volume; a folder of volumes (hidden files, masks named `*_brainmask` and stripped brains named
            `*_T1w_brain` are left out); the folder of a DICOM series, or a folder of such folders.
    """
    root = Path(path).expanduser().absolute()
    if root.is_file():
        return [root]
    entries = sorted(root.iterdir()) if root.is_dir() else []
    files = [entry for entry in entries if suffix_of(entry) and not entry.name.startswith(".")]
    volumes = [file for file in files if not stem_of(file).endswith((*MASK_ENDINGS, STRIPPED_ENDING))]
    if volumes:
        return volumes
    if any(map(is_dicom, entries)):
        return [root]
    return [folder for folder in entries if folder.is_dir() and any(map(is_dicom, folder.iterdir()))]


def channel_of(path: Path, channels: Sequence[Sequence[str]] = CHANNELS) -> tuple[str, int] | None:
    """Tell by a file's name whose channel it is; None: it is none.

    Args:
        path: of a volume, `case_FLAIR.nii.gz`, `case-t2f.nii.gz` or `case/FLAIR.nii.gz`, in small or capital letters.
        channels: the names of each channel.

    Returns:
        The case, and the number of the channel.

    >>> channel_of(Path("sub-1_flair.nii.gz")), channel_of(Path("Utrecht/7/pre/T1.nii"))
    (('sub-1', 0), ('7', 1))
    """
    if not suffix_of(path):
        return None
    stem = path.name[: len(path.name) - len(suffix_of(path))]
    for number, names in enumerate(channels):
        for name in names:
            if stem.lower() == name.lower():
                folder = path.parent.parent if path.parent.name == PREPROCESSED else path.parent
                return folder.name, number
            case = stem[: -len(name) - 1]
            if case and stem[len(case)] in "_-." and stem[len(case) + 1 :].lower() == name.lower():
                return case, number
    return None


def find_cases(path: str | os.PathLike[str], channels: Sequence[Sequence[str]] = CHANNELS) -> list[tuple[Path, ...]]:
    """List the cases in a folder and in those below it: the files of all channels of each, in the channels' order.

    Args:
        path: a folder, or a file of one of the channels, for its case alone.
        channels: the names of each channel, as for :func:`channel_of`. Other files are left out.

    Returns:
        A tuple for each case, sorted; a file that is missing stands in it by the name that was expected.

    Raises:
        ValueError: two files are the same channel of a case; on the command line of MONAI the process ends with it.
    """
    root = Path(path).expanduser().absolute()
    folder = root.parent if root.is_file() else root
    found = {file: named for file in sorted(folder.rglob("*")) if (named := channel_of(file, channels))}
    found = {file: named for file, named in found.items() if file.is_file() and not file.name.startswith(".")}
    if doubled := clashes({file: str(file.parent / f"{case} {number}") for file, (case, number) in found.items()}):
        stop("\n".join(["several files for one channel of a case; keep one of each:", *doubled]))
    cases: dict[tuple[Path, str], dict[int, Path]] = {}
    for file, (case, number) in found.items():
        cases.setdefault((file.parent, case), {})[number] = file
    listed = [
        tuple(files.get(number, place / f"{case}_{names[0]}.nii.gz") for number, names in enumerate(channels))
        for (place, case), files in cases.items()
    ]
    return [files for files in listed if root in files] if root.is_file() else listed


def is_dicom(path: Path) -> bool:
    """Tell a DICOM file by its beginning."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def series_in(folder: Path) -> tuple[str, ...]:
    """Return the identifiers of the DICOM series in a folder.

    Raises:
        ValueError: GDCM stumbles over a file.
    """
    import SimpleITK

    try:
        return SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    except Exception as error:  # SimpleITK raises what GDCM throws as errors of several kinds
        raise ValueError(f"its DICOM files cannot be listed: {reason(error)}") from error


def read_grid(path: Path) -> Grid:
    """Read the header of a volume, or those of all slices of a DICOM series; the voxels stay unread.

    Raises:
        ValueError: a DICOM series is not one even stack of slices; the message names the slice.
        Exception: of many kinds, where a header cannot be read.
    """
    if path.is_dir():
        return _read_series(path)
    if suffix_of(path) in NIFTI_SUFFIXES:
        return _nifti_grid(path)
    if not suffix_of(path):
        advice = "; name the folder of the series" if is_dicom(path) else ""
        raise ValueError(f"it is no volume; looked for {', '.join(SUFFIXES)}{advice}")
    reader = _itk_header(path)
    if reader.GetDimension() != 3:
        return Grid(without_trailing_ones(reader.GetSize()), np.eye(4))  # the shape alone makes it unusable
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    problem = _nrrd_problem(path) if suffix_of(path) == ".nrrd" else _metaimage_problem(path)
    return Grid(reader.GetSize(), LPS_TO_RAS @ affine, problem)


def _nifti_grid(path: Path) -> Grid:
    import nibabel

    image: Any = nibabel.load(path)
    header = image.header
    unit = int(header["xyzt_units"]) & 7
    affine = np.array(image.affine, np.float64)
    affine[:3] *= NIFTI_UNITS.get(unit, 1.0)
    problem = ""
    if not (header["sform_code"] or header["qform_code"]):
        problem = "gives no orientation: sform_code and qform_code of its header are 0"
    elif unit not in NIFTI_UNITS:
        problem = f"gives its size in an unknown unit: xyzt_units of its header is {int(header['xyzt_units'])}"
    notices = [NO_UNIT] * (not unit) + [TWO_AFFINES] * _affines_disagree(header)
    return Grid(without_trailing_ones(image.shape), affine, problem, "; ".join(notices))


def _affines_disagree(header: Any) -> bool:
    """Tell whether a NIfTI header says twice where the voxels are, and not the same."""
    from nibabel.spatialimages import HeaderDataError

    if not (header["sform_code"] and header["qform_code"]):
        return False
    try:
        sform, qform = header.get_sform(), header.get_qform()
    except HeaderDataError:  # a quaternion that is none
        return True
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array([*header.get_data_shape(), 1, 1])[:3] - 1)
    apart = (sform - qform)[:3] @ np.vstack([corners.T, np.ones(8)])
    return not np.abs(apart).max() <= AFFINES_AGREE * np.abs(header.get_zooms()[:3]).min()


def _itk_header(path: Path) -> Any:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _fields(path: Path, separator: str, end: bytes) -> dict[str, str]:
    """The header of a text format by names in small letters; ITK fills in what is not there and does not tell."""
    fields = {}
    with path.open("rb") as file:
        for line in file:
            name, found, value = line.decode("latin-1").partition(separator)
            if found:
                fields[name.strip().lower()] = value.strip()
            if not line.strip() or line.startswith(end):
                break
    return fields


def _nrrd_problem(path: Path) -> str:
    fields = _fields(path, ":", b"data file")
    if "space directions" not in fields:
        return "gives no orientation: its header has no 'space directions'"
    space = fields.get("space", "nothing")
    if not re.fullmatch("(left|right)-(anterior|posterior)-superior|[LR][AP]S", space, re.IGNORECASE):
        return f"gives no orientation: the 'space' of its header is {space}, which is not one of a patient"
    units = set(re.findall('"(.*?)"', fields.get("space units", ""))) - {"mm", ""}
    return f"gives its size in {', '.join(sorted(units))}; expected mm" if units else ""


def _metaimage_problem(path: Path) -> str:
    fields = _fields(path, "=", b"ElementDataFile")
    if fields.keys().isdisjoint({"transformmatrix", "rotation", "orientation"}):
        return "gives no orientation: its header has no TransformMatrix"
    if fields.keys().isdisjoint({"elementspacing", "elementsize"}):
        return "gives no size of its voxels: its header has no ElementSpacing"
    unit = fields.get("distanceunits", "mm")
    return "" if unit.lower() in ("mm", "?") else f"gives its size in {unit}; expected mm"


def grid_problem(grid: Grid) -> str:
    """Say why a head cannot be used, as the rest of a sentence about its file, from its header alone; empty: it can."""
    if len(grid.shape) != 3 or min(grid.shape) < 1:
        return f"has {len(grid.shape)} dimensions ({times(grid.shape)}); expected one volume of 3 dimensions"
    if grid.problem:
        return grid.problem
    if not np.all(np.isfinite(grid.affine)) or abs(np.linalg.det(grid.affine)) < SMALLEST_DETERMINANT:
        return f"gives no orientation: its affine {grid.affine[:3].tolist()} is singular or not finite"
    longest = float((np.linalg.norm(grid.affine[:3, :3], axis=0) * grid.shape).max())
    if not LONGEST_SIDE[0] <= longest <= LONGEST_SIDE[1]:
        low, high = LONGEST_SIDE
        return f"is {longest:.4g} mm long; expected a head of {low:g} to {high:g} mm, so its voxel size is wrong"
    return ""


def grid_difference(first: Grid, second: Grid, names: tuple[str, str] = ("image", "mask")) -> str:
    """Say how two grids that should be one differ, as the rest of a sentence; empty: they do not."""
    if first.shape != second.shape:
        return f"{names[0]} {times(first.shape)}, {names[1]} {times(second.shape)} voxels"
    codes = orientation(first.affine), orientation(second.affine)
    if codes[0] != codes[1]:
        return f"{names[0]} {codes[0]}, {names[1]} {codes[1]}; reorient one of them"
    corners = np.array([*product(*((0, length - 1) for length in first.shape))])
    between = first.affine - second.affine
    apart = np.linalg.norm(corners @ between[:3, :3].T + between[:3, 3], axis=1)
    if apart.max() > GRID_TOLERANCE * np.linalg.norm(first.affine[:3, :3], axis=0).min():
        return f"their corners are up to {apart.max():.2f} mm apart"
    return ""


def orientation(affine: NDArray[np.float64]) -> str:
    """Where the axes of a volume point to.

    >>> orientation(np.diag([-2.0, -2.0, 2.0, 1.0]))
    'LPS'
    """
    import nibabel

    return "".join(nibabel.aff2axcodes(affine))


def read_voxels(path: Path, dtype: DTypeLike | None = None, grid: Grid | None = None) -> np.ndarray:
    """Read the values (X, Y, Z) of a volume or a DICOM series.

    Args:
        path: a file, or the folder of a series.
        grid: that of :func:`read_grid`; a series without it has all its headers read here.
        dtype: of the result; None: that in which the file stores them, unless its header scales them.

    Raises:
        ValueError: a voxel holds no real number, but colours or complex numbers.
        Exception: of many kinds, where the file is truncated or damaged.
    """
    if path.is_dir():
        values = _itk_voxels((grid or read_grid(path)).slices)
    elif suffix_of(path) in NIFTI_SUFFIXES:
        import nibabel

        volume: Any = nibabel.load(path)
        _check_type(volume.get_data_dtype())
        values = np.asanyarray(volume.dataobj) if dtype is None else np.asarray(volume.dataobj, dtype)
    else:
        values = _itk_voxels(str(path))
    values = values if dtype is None else values.astype(dtype, copy=False)
    return values.reshape(without_trailing_ones(values.shape))


def _check_type(dtype: np.dtype) -> None:
    if dtype.kind not in "biuf":
        raise ValueError(f"it has voxels of type {dtype}; expected one real number per voxel")


def _itk_voxels(file: str | Sequence[str]) -> np.ndarray:
    """Read a file, or the slices of a DICOM series in float32: the type of one of them may be too small for others."""
    import SimpleITK

    image = SimpleITK.ReadImage(file) if isinstance(file, str) else SimpleITK.ReadImage(file, SimpleITK.sitkFloat32)
    values = SimpleITK.GetArrayFromImage(image)
    _check_type(values.dtype)
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"it has {image.GetNumberOfComponentsPerPixel()} components per voxel")
    return values.T


def value_problem(values: np.ndarray) -> str:
    """Say why values cannot be used, as the rest of a sentence about their file; empty: they can."""
    if values.dtype.kind == "f" and (wrong := values.size - np.count_nonzero(np.isfinite(values))):
        return f"has {wrong} voxels that are not finite (NaN or infinite)"
    return ""


def as_whole(values: np.ndarray) -> np.ndarray:
    """Return labels with those that a header scales to almost whole numbers made whole; the others stay as they are.

    >>> as_whole(np.array([0.0, 255 * np.float32(1 / 255), 0.5])).tolist()
    [0.0, 1.0, 0.5]
    """
    if values.dtype.kind != "f":
        return values
    whole = np.rint(values)
    return np.where(np.abs(values - whole) <= ROUNDING, whole, values)


def _read_series(folder: Path) -> Grid:
    """The grid of a DICOM series.

    GDCM takes the distance of the first two slices for that of all, and every slice for one of the same stack.
    """
    import SimpleITK

    series = series_in(folder)
    if len(series) != 1:
        raise ValueError(f"it holds {len(series)} DICOM series; expected one")
    slices = []
    for name in SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]):
        try:
            reader = _itk_header(Path(name))
        except RuntimeError as error:
            raise ValueError(f"{_base(name)} cannot be read: {reason(error)}") from error
        present = filter(reader.HasMetaDataKey, TAGS)  # not all of them: names of patients may be in any encoding
        slices.append((name, {tag: reader.GetMetaData(tag).strip() for tag in present}))
    for name, tags in slices:
        _check_slice(_base(name), tags)
    return _stack(slices)


def _check_slice(name: str, tags: Mapping[str, str]) -> None:
    frames = tags.get("0028|0008") or "1"
    if frames != "1":
        raise ValueError(f"{name} is an enhanced multi-frame file of {frames} frames; expected a file for each slice")
    for tag, keyword in (("0020|0032", "ImagePositionPatient"), ("0020|0037", "ImageOrientationPatient")):
        if not tags.get(tag):
            raise ValueError(f"it gives no orientation: {name} has no {keyword}")
    if not tags.get("0028|0030"):
        raise ValueError(f"it gives no size of its voxels: {name} has no PixelSpacing")
    samples, kind = tags.get("0028|0002", "1"), tags.get("0028|0004", "")
    if samples != "1" or kind not in ("", "MONOCHROME2"):
        raise ValueError(f"{name} is {kind} with {samples} values per voxel; expected MONOCHROME2 with one")


def _stack(slices: Sequence[tuple[str, Mapping[str, str]]]) -> Grid:
    """Put slices in order, see that they make one even stack, and say where it lies."""
    first_name, first = slices[0]
    size, pixel, cosines = _size(first), _numbers(first, "0028|0030", 2), _numbers(first, "0020|0037", 6)
    across = cosines[:3] / np.linalg.norm(cosines[:3])
    down = cosines[3:] - (cosines[3:] @ across) * across
    if not np.all(np.isfinite(cosines)) or np.abs(down - cosines[3:]).max() > TURNED or np.linalg.norm(down) < 0.5:
        raise ValueError(f"it gives no orientation: ImageOrientationPatient of {_base(first_name)} is {cosines}")
    down /= np.linalg.norm(down)
    normal = np.cross(across, down)
    for name, tags in slices:
        names = f"{_base(first_name)} and {_base(name)}"
        if _size(tags) != size or np.abs(_numbers(tags, "0028|0030", 2) / pixel - 1).max() > TURNED:
            raise ValueError(f"its slices differ in size: {names}")
        if np.abs(_numbers(tags, "0020|0037", 6) - cosines).max() > TURNED:
            raise ValueError(f"its slices are turned against each other: {names}")
    if len(slices) == 1:
        raise ValueError("it holds one slice, which has no distance to a next one; expected a volume")

    ordered = sorted(slices, key=lambda entry: (round(float(normal @ _numbers(entry[1], "0020|0032", 3)), 3), entry[0]))
    positions = np.array([_numbers(tags, "0020|0032", 3) for _, tags in ordered])
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    usual = float(np.median(gaps))
    for (name, tags), (following, others), step, gap in zip(ordered, ordered[1:], steps, gaps, strict=False):
        names = f"{_base(name)} and {_base(following)}"
        if not gap >= SAME_POSITION:
            if not steps.any() and first.get("0008|0016", "").startswith(SECONDARY_CAPTURE):
                raise ValueError("it gives no orientation: secondary captures, which all have the same position")
            raise ValueError(f"{_why_doubled(tags, others)}: {names} have the same position")
        if abs(gap - usual) > UNEVEN * usual:
            raise ValueError(
                f"its slices are uneven: {gap:.4g} mm between {names}, {usual:.4g} mm between others; are some missing?"
            )
        if np.linalg.norm(step - gap * normal) > ASKEW * usual:
            raise ValueError(f"its slices are shifted against each other (a tilted gantry?): {names}")
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([across * pixel[1], down * pixel[0], normal * gaps.mean()])
    affine[:3, 3] = positions[0]
    return Grid((*size, len(ordered)), LPS_TO_RAS @ affine, slices=tuple(name for name, _ in ordered))


def _numbers(tags: Mapping[str, str], tag: str, count: int) -> NDArray[np.float64]:
    numbers = np.array(tags[tag].split("\\"), np.float64)
    if numbers.size != count:
        raise ValueError(f"it has {numbers.size} numbers in tag {tag}, expected {count}")
    return numbers


def _size(tags: Mapping[str, str]) -> tuple[int, int]:
    """Columns and rows of a slice."""
    return int(tags["0028|0011"]), int(tags["0028|0010"])


def _why_doubled(tags: Mapping[str, str], others: Mapping[str, str]) -> str:
    for kind, differing in (("echoes", ECHO_TAGS), ("time points", TIME_TAGS)):
        if any(tags.get(tag) != others.get(tag) for tag in differing):
            return f"it holds several {kind}"
    return "it holds a slice twice"


def _base(name: str) -> str:
    return Path(name).name


def mask_file(source: Path) -> str:
    """Return the name of a volume's mask: in the volume's format, in NIfTI for a DICOM series."""
    return f"{stem_of(source)}{MASK_ENDING}{'.nii.gz' if source.is_dir() else suffix_of(source)}"


def lesion_file(source: Path, channels: Sequence[Sequence[str]] = CHANNELS) -> str:
    """Return the name of the mask of a case's lesions, from the file of one of its channels, in its format."""
    case, _ = channel_of(source, channels) or (stem_of(source), 0)
    return f"{case}{LESION_ENDING}{suffix_of(source)}"


def write_mask(mask: np.ndarray, source: Path, target: Path, affine: NDArray[np.float64]) -> None:
    """Write a mask (X, Y, Z) with the header geometry of the volume it belongs to.

    Args:
        mask: of 0 and 1, or of small whole numbers.
        source: the volume; a file, or the folder of a DICOM series.
        target: the file to write, named as :func:`mask_file` does.
        affine: of the volume, from voxels to mm in RAS. Files have more in their header, a series has nothing else.
    """
    if not source.is_dir() and suffix_of(source) in NIFTI_SUFFIXES:
        import nibabel

        volume: Any = nibabel.load(source)
        header = volume.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        header["cal_min"], header["cal_max"] = 0, max(1, mask.max())
        nibabel.save(type(volume)(mask.astype(np.uint8).reshape(volume.shape), volume.affine, header), target)
        return
    import SimpleITK

    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8).T)
    if source.is_dir():
        lps = LPS_TO_RAS @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        geometry = spacing.tolist(), lps[:3, 3].tolist(), (lps[:3, :3] / spacing).ravel().tolist()
    else:
        reader = _itk_header(source)
        geometry = reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()
    image.SetSpacing(geometry[0])
    image.SetOrigin(geometry[1])
    image.SetDirection(geometry[2])
    SimpleITK.WriteImage(image, str(target), useCompression=True)


def times(shape: Sequence[int]) -> str:
    """Write a shape.

    >>> times((24, 26, 20))
    '24 x 26 x 20'
    """
    return " x ".join(map(str, shape))


def without_trailing_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without axes of length 1 after the third, which NIfTI files may have.

    >>> without_trailing_ones((24, 26, 20, 1, 1))
    (24, 26, 20)
    """
    dimensions = len(shape)
    while dimensions > 3 and shape[dimensions - 1] == 1:
        dimensions -= 1
    return tuple(int(length) for length in shape[:dimensions])
