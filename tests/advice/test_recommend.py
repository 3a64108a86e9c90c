"""Labels are measured as they are, and every piece of advice has its source and the property that triggered it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from monai_lossext.advice.labels import Labels, find_labels, read_label
from monai_lossext.advice.profile import CaseShape, Profile, measure, profile_of, summarise_shapes
from monai_lossext.advice.recommend import (
    BASELINE,
    TRIED,
    Recommendation,
    advise,
    choose_bundle,
    recommend,
    study_file,
)
from monai_lossext.advice.rules import RULES
from monai_lossext.advice.show import described
from monai_lossext.cli import app
from monai_lossext.data import (
    DatalistError,
    skin_lesion_datalist,
    write_datalist,
    write_dermoscopy_phantoms,
    write_head_phantoms,
    write_lesion_phantoms,
)
from monai_lossext.losses import catalogue

NAMES = {entry.name for entry in catalogue()}
LESIONS = Profile(
    volumes=False,
    cases=100,
    classes=(1,),
    foreground=0.13,
    prior=0.19,
    foreground_low=0.05,
    foreground_high=0.4,
    empty=0.0,
    full=0.0,
    objects=1,
    object_voxels=6000,
    object_size=6000,
    several=0.01,
    largest_alone=0.99,
    border=0.05,
    class_ratio=1.0,
    spacing=(1.0, 1.0),
    anisotropy=1.0,
)
PLAQUES = replace(
    LESIONS,
    volumes=True,
    foreground=0.0035,
    foreground_low=0.0008,
    foreground_high=0.006,
    objects=52,
    object_voxels=3,
    several=1.0,
    largest_alone=0.62,
    border=0.88,
    spacing=(2.0, 2.0, 2.0),
)
BRAINS = replace(LESIONS, volumes=True, foreground=0.2, foreground_low=0.17, foreground_high=0.22, border=0.1)


def save_volume(path: Path, classes: np.ndarray, spacing: tuple[float, ...] = (1, 1, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(classes, np.diag([*spacing, 1.0])), path)
    return path


def test_objects_of_a_volume(tmp_path: Path) -> None:
    classes = np.zeros((10, 9, 8), np.uint8)
    classes[0:3, 0:3, 0:3] = 1  # in a corner: its centre and nothing else is inside
    classes[5, 5, 5] = classes[6, 6, 6] = 1  # touch at a corner: one object
    classes[8, 8, 0:2] = 4
    shape = measure(save_volume(tmp_path / "a_lesions.nii.gz", classes))
    assert shape.of_class == {1: 29, 4: 2}
    assert shape.objects == {1: (27, 2), 4: (2,)}
    assert (shape.border, shape.foreground, shape.voxels) == ({1: 28, 4: 2}, 31, 720)
    assert shape.spacing == pytest.approx((1, 1, 3))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 255], [0, 0]], {1: 1}),
        ([[0, 120], [200, 255]], {1: 2}),
        ([[0, 1], [2, 2]], {1: 1, 2: 2}),
        ([[0, 3]], {3: 1}),  # the only class of this picture
        ([[0, 0]], {}),
    ],
)
def test_pictures_are_black_and_white_or_numbers_of_classes(
    tmp_path: Path, values: list[list[int]], expected: dict[int, int]
) -> None:
    Image.fromarray(np.array(values, np.uint8)).save(tmp_path / "a_mask.png")
    assert measure(tmp_path / "a_mask.png").of_class == expected


def areas(numbers: list[int]) -> np.ndarray:
    """Squares of 6 x 6 pixels, one beside the other, on a background as large."""
    return np.kron(np.array([numbers, [0] * len(numbers)]), np.ones((6, 6))).astype(np.uint8)


def test_palettes_show_classes(tmp_path: Path) -> None:
    """Three classes whose colours are 38, 76 and 113 bright are three classes."""
    picture = Image.fromarray(areas([1, 2, 3]))
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    picture.save(tmp_path / "a_mask.png")
    assert measure(tmp_path / "a_mask.png").of_class == {1: 36, 2: 36, 3: 36}


def coloured(path: Path, *colours: tuple[int, int, int]) -> Path:
    """Squares of these colours on black."""
    palette = np.array([(0, 0, 0), *colours], np.uint8)
    Image.fromarray(palette[areas([*range(1, len(colours) + 1)])]).save(path)
    return path


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 130, 0), (0, 0, 255), (255, 255, 255)


def test_colours_are_classes_the_same_in_every_picture(tmp_path: Path) -> None:
    """Red and this green are equally bright; one picture has one of them alone, another has blue as well."""
    files = [
        coloured(tmp_path / "a_mask.png", RED),
        coloured(tmp_path / "b_mask.png", GREEN),
        coloured(tmp_path / "c_mask.png", GREEN, RED, BLUE),
    ]
    profile = profile_of(files)
    assert profile.classes == (1, 2, 3)
    assert profile.colours == ("#0000ff", "#008200", "#ff0000")
    assert (profile.class_ratio, profile.several) == (2, 0)
    assert ("classes", "#0000ff, #008200, #ff0000") in described(profile)
    assert choose_bundle(Recommendation(Labels(files, "labels", ""), profile, [], [])) is None
    assert profile_of(files[:1]).classes == (1,)


def test_colours_that_cannot_be_told_apart_are_refused_with_what_was_seen(tmp_path: Path) -> None:
    soft = Image.open(coloured(tmp_path / "a_mask.png", RED, GREEN)).resize((120, 80), Image.Resampling.BILINEAR)
    soft.save(tmp_path / "b_mask.jpg", quality=60)
    with pytest.raises(
        DatalistError, match=r"b_mask\.jpg: .*it has \d+ colours; expected grey levels, or one colour a"
    ):
        profile_of([tmp_path / "b_mask.jpg"])
    palette = np.array([WHITE, RED], np.uint8)
    Image.fromarray(palette[areas([1, 0])]).save(tmp_path / "c_mask.png")
    with pytest.raises(DatalistError, match=r"no label has black pixels, .*; seen were #ff0000, #ffffff"):
        profile_of([tmp_path / "c_mask.png"])
    Image.fromarray(areas([1, 2])).save(tmp_path / "d_mask.png")
    with pytest.raises(DatalistError, match="by colours, such as #ff0000, others by numbers, such as 1: which belong"):
        profile_of([tmp_path / "a_mask.png", tmp_path / "d_mask.png"])


@pytest.mark.parametrize("numbers", [range(1, 41), range(1, 101), [85, 170, 255], [1, 2, 255], [7]])
def test_numbers_of_classes_may_be_large(tmp_path: Path, numbers: list[int]) -> None:
    Image.fromarray(areas([*numbers])).save(tmp_path / "a_mask.png")
    assert measure(tmp_path / "a_mask.png").of_class == dict.fromkeys(numbers, 36)


def disc(blur: float) -> Image.Image:
    y, x = np.mgrid[:96, :128]
    return Image.fromarray((255 * np.clip(0.5 + (30 - np.hypot(y - 40, x - 60)) / blur, 0, 1)).astype(np.uint8))


def test_a_border_is_soft_where_the_values_at_edges_say_so(tmp_path: Path) -> None:
    sharp = int((np.asarray(disc(1e-6)) > 127).sum())
    for name, picture in {"a.png": disc(3), "b.jpg": disc(1e-6), "c.jpg": disc(3)}.items():
        picture.save(tmp_path / name)
        assert len(np.unique(np.asarray(Image.open(tmp_path / name)))) > 2
        found = measure(tmp_path / name).of_class
        assert list(found) == [1]
        assert found[1] == pytest.approx(sharp, rel=0.02)
    for picture in (disc(40), Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8))):
        picture.save(tmp_path / "d_mask.png")
        with pytest.raises(DatalistError, match=r"d_mask\.png: .*it has \d+ grey levels \(0, .*\), which neither fill"):
            measure(tmp_path / "d_mask.png")


def test_volumes_are_measured_in_mm(tmp_path: Path) -> None:
    """Units of the header, and labels that it scales; what gives no size of its voxels is refused by name."""
    classes = np.zeros((8, 8, 8), np.uint8)
    classes[2:4, 2, 2] = 255
    volume = nibabel.Nifti1Image(classes, np.diag([0.001, 0.001, 0.003, 1.0]))
    volume.header.set_xyzt_units("meter")
    nibabel.save(volume, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:116] = np.float32(1 / 255).tobytes()  # scl_slope
    (tmp_path / "a.nii").write_bytes(raw)
    shape = measure(tmp_path / "a.nii")
    assert (shape.of_class, shape.spacing) == ({1: 2}, (1, 1, 3))
    header = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 3 4\nspacings: 2 2 2\nencoding: raw\n\n"
    (tmp_path / "b.nrrd").write_bytes(header + bytes(24))
    with pytest.raises(
        DatalistError, match=r"b\.nrrd: .*it gives no orientation: its header has no 'space directions'"
    ):
        measure(tmp_path / "b.nrrd")
    nibabel.save(nibabel.Nifti1Image(classes.astype(np.complex64), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(DatalistError, match=r"c\.nii: .*voxels of type complex64"):
        measure(tmp_path / "c.nii")


def test_all_bad_labels_are_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.fromarray(areas([1])).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"")
    disc(40).save(tmp_path / "c.png")
    with pytest.raises(
        DatalistError, match=r"2 of 3 labels cannot be used:\n  .*b\.png: .*\n  .*c\.png: .*grey levels"
    ):
        profile_of([tmp_path / f"{name}.png" for name in ("a", "b", "c")])


def test_profile_puts_the_cases_together() -> None:
    shapes = [
        CaseShape(1000, {1: 90, 2: 10}, {1: (60, 30), 2: (10,)}, {1: 45, 2: 5}, (1.0, 1.0, 2.0)),
        CaseShape(1000, {1: 300}, {1: (300,)}, {1: 30}, (1.0, 1.0, 2.0)),
        CaseShape(1000, {}, {}, {}, (1.0, 1.0, 2.0)),
        CaseShape(100, {1: 100}, {1: (100,)}, {1: 10}, (1.0, 1.0, 2.0)),
    ]
    profile = summarise_shapes(shapes, volumes=True)
    assert (profile.cases, profile.classes, profile.empty, profile.full) == (4, (1, 2), 0.25, 0.25)
    assert profile.prior == pytest.approx(500 / 3100)
    assert profile.foreground == pytest.approx(0.3)
    assert (profile.foreground_low, profile.foreground_high) == pytest.approx(np.quantile([0.1, 0.3, 1], [0.1, 0.9]))
    assert (profile.objects, profile.object_voxels, profile.object_size) == (1, 10, 20)
    assert (profile.several, profile.largest_alone) == pytest.approx((1 / 3, 2 * 60 / (60 + 90)))
    assert profile.border == pytest.approx(0.5)  # of the second class
    assert (profile.class_ratio, profile.anisotropy) == (49, 2)
    with pytest.raises(DatalistError, match="none of the 1 labels holds an object"):
        summarise_shapes(shapes[2:3], volumes=True)


def test_every_rule_can_apply_and_names_losses_source_and_limits() -> None:
    several = replace(BRAINS, classes=(1, 2), class_ratio=40, empty=0.1, anisotropy=3, spacing=(1, 1, 3))
    wide = replace(LESIONS, foreground_low=0.01)
    profiles = [LESIONS, PLAQUES, BRAINS, several, wide]
    for rule in RULES:
        assert any(rule.applies(profile) for profile in profiles), rule.reason
        assert set(rule.first) | set(rule.avoid) <= NAMES
        assert rule.first or rule.avoid
        for text in (rule.source, rule.limits, rule.reason, rule.property(PLAQUES)):
            assert len(text) > 5
    assert [rule.applies(LESIONS) for rule in RULES].count(True) < len(RULES) / 2


@pytest.mark.parametrize(
    ("profile", "first"),
    [
        (LESIONS, ["LovaszSoftmaxLoss", "DiceCrossEntropyLoss", "MatthewsCorrelationLoss"]),
        (PLAQUES, ["SoftDiceLoss", "DiceTopKLoss", "FocalTverskyLoss"]),
        (BRAINS, ["FocalTverskyLoss", "LogCoshDiceLoss", "SoftDiceLoss"]),
    ],
)
def test_three_losses_are_named_and_none_of_them_is_to_be_avoided(profile: Profile, first: list[str]) -> None:
    tried, avoided = advise(profile)
    assert [advice.loss for advice in tried] == first
    assert len(first) == TRIED
    assert not set(first) & {advice.loss for advice in avoided}
    assert len({advice.loss for advice in avoided}) == len(avoided) > 0


def test_the_measured_property_triggers_the_advice() -> None:
    def avoided(profile: Profile) -> set[str]:
        return {advice.loss for advice in advise(profile)[1]}

    assert "BoundaryDistanceLoss" not in avoided(BRAINS)
    assert {"BoundaryDistanceLoss", "HausdorffDistanceLoss"} <= avoided(replace(BRAINS, empty=0.02))
    assert "HausdorffCVLoss" not in avoided(BRAINS)
    assert "HausdorffCVLoss" in avoided(replace(BRAINS, anisotropy=3.0, spacing=(1.0, 1.0, 3.0)))
    assert "HausdorffCVLoss" in avoided(replace(BRAINS, object_voxels=100))
    assert "WeightedCrossEntropyLoss" not in avoided(BRAINS)
    (advice,) = [advice for advice in advise(PLAQUES)[1] if advice.loss == "WeightedCrossEntropyLoss"]
    assert "0.35 %" in advice.property
    assert "Eelbode" in advice.rule.source


def test_a_loss_that_a_study_of_this_package_favours_is_not_left_for_later() -> None:
    """Lesions of ISIC 2017, whose sizes differ eighteenfold: there cross-entropy was above Dice."""
    tried, avoided = advise(replace(LESIONS, foreground_low=0.025, foreground_high=0.46))
    assert tried[0].loss == "LovaszSoftmaxLoss"
    assert "isic2017.md" in tried[0].rule.source
    assert "WeightedCrossEntropyLoss" not in {advice.loss for advice in avoided}


def test_numbers_that_the_losses_are_known_by() -> None:
    """What the rules call a property of a loss is one: see the catalogue's losses without gradient."""
    without = {entry.name for entry in catalogue() if entry.without_gradient}
    for rule in RULES:
        if "tested in this package" in rule.source:
            assert set(rule.avoid) <= without


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dermoscopy_phantoms(tmp_path_factory.mktemp("lesions") / "data", 12, progress=False)


def test_a_folder_and_its_datalist_give_the_same_advice(lesions: Path, tmp_path: Path) -> None:
    datalist = skin_lesion_datalist(lesions)
    from_folder = recommend(lesions)
    from_list = recommend(write_datalist(datalist, tmp_path / "datalist.json"))
    assert repr(from_folder.profile) == repr(from_list.profile)  # holds a NaN
    assert from_folder.profile.cases == len(datalist["training"]) < 12  # the test part stays unseen
    shares = [np.mean(np.asarray(Image.open(item["label"])) > 0) for item in datalist["training"]]
    assert from_folder.profile.foreground == pytest.approx(np.median(shares))


def test_heads(tmp_path: Path) -> None:
    folder = write_head_phantoms(tmp_path / "heads", 4, progress=False)
    found = recommend(folder)
    assert found.profile.volumes
    assert found.labels.layout == "bids"
    assert 0.02 < found.profile.foreground < 0.6
    assert yaml.safe_load(study_file(found, folder))["bundle"].endswith("bundles/skull_stripping_3d")


@pytest.mark.parametrize("place", ["labelsTr/a.nii.gz", "sub-01/a_lesions.nii.gz"])
def test_labels_are_found_by_folder_or_name(tmp_path: Path, place: str) -> None:
    classes = np.zeros((8, 8, 8), np.uint8)
    classes[2, 2, 2] = classes[5, 5, 5] = 1
    file = save_volume(tmp_path / place, classes)
    save_volume(tmp_path / "sub-01" / "a_FLAIR.nii.gz", classes)
    assert find_labels(tmp_path).files == [file]
    study = yaml.safe_load(study_file(recommend(tmp_path), tmp_path))
    assert study["bundle"].endswith("bundles/white_matter_lesion_3d")


def test_lesions_of_the_white_matter(tmp_path: Path) -> None:
    """The bundle that is named reads the folder; the label of other pathology is no class."""
    folder = write_lesion_phantoms(tmp_path / "lesions", 4, size=(24, 28, 24), spacing=(7, 7, 7), lesions=6)
    found = recommend(folder)
    assert (found.labels.layout, found.profile.classes, found.profile.objects) == ("lesions", (1,), 6)
    assert yaml.safe_load(study_file(found, folder))["bundle"].endswith("bundles/white_matter_lesion_3d")
    for index, mask in enumerate(sorted(folder.glob("*_lesions.nii.gz"))):
        values = np.asarray(nibabel.load(mask).dataobj).copy()
        values[0, 0, :3] = 2
        (tmp_path / f"wmh/site/{index}/pre").mkdir(parents=True)
        save_volume(tmp_path / f"wmh/site/{index}/wmh.nii.gz", values)
        save_volume(tmp_path / f"wmh/site/{index}/pre/FLAIR.nii.gz", values)
    found = recommend(tmp_path / "wmh")
    assert (found.labels.layout, found.profile.classes, found.profile.ignored) == ("wmh", (1,), 2)
    assert yaml.safe_load(study_file(found, tmp_path / "wmh"))["bundle"].endswith("bundles/white_matter_lesion_3d")


def test_errors_name_the_file_and_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match="there is no such datalist or folder"):
        recommend(tmp_path / "nothing")
    with pytest.raises(DatalistError, match="labelsTr"):
        recommend(tmp_path)
    datalist = tmp_path / "list.json"
    for text in ("{", "{}", '{"training": [{"image": "a"}]}'):
        datalist.write_text(text)
        with pytest.raises(DatalistError, match=r"list\.json: expected JSON with lists of items"):
            recommend(datalist)
    datalist.write_text(json.dumps({"training": [{"label": "gone.png"}]}))
    with pytest.raises(DatalistError, match=r"1 of 1 labels are missing, the first: .*gone\.png"):
        recommend(datalist)
    (tmp_path / "gone.png").write_text("no picture")
    with pytest.raises(DatalistError, match=r"gone\.png: cannot be read as a label"):
        recommend(datalist)
    wrong = save_volume(tmp_path / "half.nii.gz", np.full((3, 3, 3), 0.5, np.float32))
    with pytest.raises(DatalistError, match=r"half\.nii\.gz: expected whole numbers from 0 to 255"):
        read_label(wrong)
    with pytest.raises(DatalistError, match="all pictures or all volumes"):
        profile_of([wrong, datalist.with_suffix(".png")])


def test_the_command_prints_a_study_that_can_be_read(lesions: Path, tmp_path: Path, bundles_dir: Path) -> None:
    bundle, file = bundles_dir / "skin_lesion_segmentation", tmp_path / "study.yaml"
    result = CliRunner().invoke(app, ["recommend", str(lesions), "--bundle", str(bundle), "--study", str(file)])
    assert result.exit_code == 0, result.output
    study = yaml.safe_load(file.read_text())
    assert list(study) == ["bundle", "losses", "dataset_dir", "output", "seeds"]
    assert (study["bundle"], study["dataset_dir"], study["seeds"]) == (str(bundle), str(lesions), 3)
    assert BASELINE in study["losses"]
    assert set(study["losses"]) <= NAMES
    assert file.read_text() in result.stdout
    for words in ("Try first", "Leave for later", "measured:", "source:", "arXiv:"):
        assert words in result.stdout


def test_a_loss_without_overlay_is_written_out(lesions: Path, tmp_path: Path) -> None:
    overlays = tmp_path / "bundle" / "configs" / "loss"
    overlays.mkdir(parents=True)
    (overlays / "soft_dice.yaml").touch()
    losses = yaml.safe_load(study_file(recommend(lesions), lesions, tmp_path / "bundle"))["losses"]
    assert "SoftDiceLoss" in losses
    written = [loss for loss in losses if isinstance(loss, dict)]
    assert written
    assert all(loss["_target_"] == f"monai_lossext.losses.{loss['name']}" for loss in written)


def test_hostile_names(lesions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a\nb: [red]\x1b[31m$(rm)"
    folder.symlink_to(lesions)
    result = CliRunner().invoke(app, ["recommend", str(folder)])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert yaml.safe_load(study_file(recommend(folder), folder))["dataset_dir"] == str(folder)
    result = CliRunner().invoke(app, ["recommend", str(tmp_path / "\x1b[31mnothing")])
    assert result.exit_code == 2
    assert "\x1b" not in result.output
    result = CliRunner().invoke(app, ["recommend", str(lesions), "--bundle", str(tmp_path)])
    assert "--bundle" in result.output
    assert result.exit_code == 2


def test_an_organ_and_its_tumours_are_not_one_kind_of_object(tmp_path: Path) -> None:
    """A liver with two tumours inside: the tumours are several, and the liver is not their largest."""
    classes = np.zeros((30, 30, 30), np.uint8)
    classes[2:28, 2:28, 2:28] = 1
    classes[5:8, 5:8, 5:8] = classes[20:22, 20:22, 20:22] = 2
    profile = profile_of([save_volume(tmp_path / "a_seg.nii.gz", classes)])
    assert (profile.objects, profile.several) == (2, 1)
    assert profile.largest_alone == pytest.approx(2 * 27 / (27 + 35))
    assert profile.object_voxels == pytest.approx((27 + 8) / 2)
    assert profile.border > 0.9


def test_255_beside_other_classes_does_not_count(tmp_path: Path) -> None:
    classes = np.zeros((10, 10, 10), np.uint8)
    classes[:, :, 9] = 255
    classes[2:4, 2:4, 2:4] = 1
    whole = save_volume(tmp_path / "a_seg.nii.gz", classes)
    empty = save_volume(tmp_path / "b_seg.nii.gz", np.where(classes == 1, 0, classes))
    profile = profile_of([whole, empty])
    assert (profile.classes, profile.ignored, profile.empty, profile.objects) == ((1,), 255, 0.5, 1)
    assert profile.foreground == pytest.approx(8 / 900)
    alone = profile_of([save_volume(tmp_path / "c" / "a_seg.nii.gz", np.where(classes == 1, 0, classes))])
    assert (alone.classes, alone.ignored) == ((255,), None)
    assert alone.foreground == pytest.approx(0.1)


def test_vessels_are_no_skin_lesions() -> None:
    vessels = replace(LESIONS, foreground=0.1, foreground_low=0.08, foreground_high=0.12, objects=12, border=0.6)
    skin = {"LovaszSoftmaxLoss", "DiceCrossEntropyLoss", "MatthewsCorrelationLoss"}
    assert skin == {advice.loss for advice in advise(LESIONS)[0]}
    for other in (vessels, replace(vessels, objects=1), replace(vessels, border=0.05)):
        assert skin.isdisjoint(advice.loss for advice in advise(other)[0])
    assert choose_bundle(Recommendation(Labels([], "labels", ""), vessels, [], [])) is None
    assert choose_bundle(Recommendation(Labels([], "labels", ""), LESIONS, [], [])) is not None


def test_no_bundle_is_named_that_is_not_there_or_tells_one_class_only(
    lesions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # from anywhere
    found = recommend(lesions)
    study = yaml.safe_load(study_file(found, lesions))
    assert (Path(study["bundle"]) / "configs" / "train.yaml").is_file()
    several = replace(found, profile=replace(found.profile, classes=(1, 2)))
    text = study_file(several, lesions)
    assert "bundle" not in yaml.safe_load(text)
    assert "# bundle: is missing" in text
    monkeypatch.setattr("monai_lossext.advice.recommend.bundles_dir", lambda: tmp_path)
    assert "bundle" not in yaml.safe_load(study_file(found, lesions))


@pytest.mark.parametrize(("cases", "warned"), [(8, True), (60, False)])
def test_few_labels_are_told(tmp_path: Path, cases: int, warned: bool) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 4:9] = 255
    (tmp_path / "masks").mkdir()
    for i in range(cases):
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    output = " ".join(CliRunner().invoke(app, ["recommend", str(tmp_path)]).output.split())
    assert (f"Only {cases} labels were read: with fewer than 50" in output) == warned
