"""The bundle for white-matter lesions: losses, several channels, the ignored label, regions, inference, learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow
from scipy import ndimage
from typer.testing import CliRunner

from monai_lossext.cli import app
from monai_lossext.losses import catalogue
from monai_lossext.predict import write_overlays

from .conftest import LESIONS, SMALL, make_workflow, run_or_raise_the_cause, run_to_the_end
from .running import cause, rows

Run = Callable[..., ConfigWorkflow]
BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / LESIONS
OVERLAYS = {entry.overlay: entry.name for entry in catalogue()} | {"cross_entropy": "WeightedCrossEntropyLoss"}
FILES = {file.stem: file for file in (BUNDLE / "configs" / "loss").glob("*.yaml")}
# Those of Eelbode et al., those that see every lesion, and others that this package advises for small objects.
EXPECTED = {
    *("cross_entropy", "weighted_cross_entropy", "soft_dice", "soft_jaccard", "lovasz_hinge", "soft_tversky"),
    *("blob_dice", "component_dice", "boundary_distance", "distance_map_cross_entropy"),
    *("dice_cross_entropy", "dice_top_k", "focal_tversky", "focal_cross_entropy", "mcc", "lovasz_softmax"),
}


@pytest.fixture(scope="module", autouse=True)
def _modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BUNDLE)
        yield


@pytest.fixture(scope="module")
def small(lesions: Path) -> dict[str, Any]:
    values = yaml.safe_load(SMALL[LESIONS])
    return {"dataset_dir": str(lesions), **values, "epochs": 1, "batch_size": 2, "val_interval": 1}


@pytest.fixture(scope="module")
def workflow(small: dict[str, Any]) -> Run:
    def make(*configs: str, **overrides: Any) -> ConfigWorkflow:
        return make_workflow(BUNDLE, configs, small | overrides)

    return make


@pytest.fixture(scope="module")
def run(workflow: Run) -> Run:
    def to_the_end(*configs: str, **overrides: Any) -> ConfigWorkflow:
        return run_to_the_end(workflow(*configs, **overrides))

    return to_the_end


def test_overlays() -> None:
    assert set(FILES) >= EXPECTED
    assert set(FILES) <= set(OVERLAYS)
    assert max(len(file.read_text().splitlines()) for file in FILES.values()) <= 8


@pytest.mark.parametrize("overlay", sorted(FILES))
def test_one_epoch_under_each_loss(run: Run, overlay: str, tmp_path: Path) -> None:
    """What lies under the ignored label has no say: every part of the loss leaves it out."""
    done = run("train", f"loss/{overlay}", output_dir=str(tmp_path))
    part = done.parser.get_parsed_content
    modules = [module for module in part("loss").modules() if hasattr(module, "ignore_index")]
    assert OVERLAYS[overlay] in [type(module).__name__ for module in part("loss").modules()]
    assert {module.ignore_index for module in modules} == {2}
    (row,) = rows(tmp_path / "history.csv")
    assert math.isfinite(float(row["train_loss"]))
    assert 0 <= float(row["val_jaccard"]) <= float(row["val_dice"]) <= 1
    batch = next(iter(part("train::dataloader")))
    assert batch["image"].shape == (2, 2, 16, 16, 16)
    assert ("components" in batch) == (overlay in ("blob_dice", "component_dice"))
    if "components" in batch:
        assert batch["components"].dtype == torch.int16
        assert ((batch["components"] > 0) == (batch["label"] > 0)).all()


@pytest.mark.parametrize("overlay", ["component_dice", "boundary_distance", "dice_cross_entropy"])
def test_the_ignored_label(workflow: Run, tmp_path: Path, overlay: str, lesions: Path) -> None:
    """Other pathology is neither lesion nor background: predictions there change neither loss nor scores."""
    made = workflow("train", f"loss/{overlay}", output_dir=str(tmp_path), augmentation=[], patch_size=[32, 32, 32])
    made.initialize()
    part = made.parser.get_parsed_content
    items = part("train::dataset::data")
    for number, item in enumerate(items):
        label = nibabel.load(item["label"])
        values = np.asarray(label.dataobj).copy()
        values[8:12, 8:12, 8:12] = 2
        path = tmp_path / f"{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values, label.affine, label.header), path)
        item["label"] = str(path)
    batch = next(iter(part("train::dataloader")))
    _, target = part("train::prepare_batch")(batch)
    label = target["label"] if isinstance(target, dict) else target
    ignored = label == 2
    assert ignored.any()
    logits = torch.randn(label.shape, generator=torch.Generator().manual_seed(0))
    loss = part("loss")
    other = torch.where(ignored, -9 * logits, logits)
    assert loss(logits, target) == loss(other, target) != loss(torch.where(label == 1, 9.0, logits), target)
    steps = part("validate::postprocessing")
    scored = [steps({"pred": values[0], "label": label[0]}) for values in (logits, other)]
    assert torch.equal(scored[0]["pred"], scored[1]["pred"])
    assert scored[0]["label"].unique().tolist() == [0, 1]
    assert not scored[0]["pred"][ignored[0]].any()


def test_scans_are_prepared_by_their_own_or_the_data_sets_intensities(workflow: Run, tmp_path: Path) -> None:
    made = workflow("train", output_dir=str(tmp_path))
    made.initialize()
    image = made.parser.get_parsed_content("validate::dataset")[0]["image"]
    for channel in image:
        inside = channel[channel != 0]
        assert inside.mean().item() == pytest.approx(0, abs=1e-4)
        assert inside.std().item() == pytest.approx(1, abs=1e-3)
        assert 0.1 < (channel == 0).double().mean() < 0.95
    given = {"intensity_mean": [100.0, 200.0], "intensity_std": [10.0, 20.0]}
    made = workflow("train", output_dir=str(tmp_path), **given)
    made.initialize()
    other = made.parser.get_parsed_content("validate::dataset")[0]["image"]
    for index, (mine, theirs) in enumerate(zip(other, image, strict=True)):
        assert torch.corrcoef(torch.stack([mine[mine != 0], theirs[mine != 0]]))[0, 1] > 0.9999, index
    assert made.parser.get_parsed_content("preparation")["mean"] == [100, 200]


@pytest.mark.parametrize("share", [0, 1])
def test_patches_lie_in_the_head_or_on_lesions(workflow: Run, tmp_path: Path, share: float) -> None:
    values = {"on_lesions": share, "patches": 20, "augmentation": [], "patch_size": [3, 3, 3]}
    made = workflow("train", output_dir=str(tmp_path), **values)
    made.initialize()
    samples = [sample for index in range(3) for sample in made.parser.get_parsed_content("train::dataset")[index]]
    if share:
        assert all(sample["label"][0, 1, 1, 1] == 1 for sample in samples)
    else:
        assert all((sample["image"][:, 1, 1, 1] > 0).any() for sample in samples)
        assert not any(sample["label"][0, 1, 1, 1] for sample in samples)


def test_network_of_the_paper() -> None:
    """Two convolutions a level of 20, 40, 80 and 160 filters, steps of 3: sizes are kept where 27 divides them."""
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "configs" / "train.yaml"))
    network = parser.get_parsed_content("network_def").eval()
    blocks = [network.input_block, *network.downsamples, network.bottleneck]
    convolutions = [[m for m in block.modules() if isinstance(m, torch.nn.Conv3d)] for block in blocks]
    assert [[layer.out_channels for layer in block] for block in convolutions] == [[n, n] for n in (20, 40, 80, 160)]
    assert [block[0].stride for block in convolutions] == [(n, n, n) for n in (1, 3, 3, 3)]
    with torch.no_grad():
        assert network(torch.zeros(1, 2, 27, 54, 27)).shape == (1, 1, 27, 54, 27)
    assert all(size % 27 == 0 for size in parser.get_parsed_content("patch_size"))


def test_learning_rate_is_divided_by_five_on_plateaus(run: Run, tmp_path: Path) -> None:
    scheduler = {"lr_scheduler::patience": 0, "lr_scheduler::threshold": 9}
    run("train", output_dir=str(tmp_path), epochs=3, **scheduler)
    assert [float(row["lr"]) for row in rows(tmp_path / "history.csv")] == pytest.approx([1e-3, 2e-4, 4e-5])


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"fold": 10}, "DatalistError: fold=10: expected 0 to 9, with 10 folds"),
        ({"channels": [["DWI"]]}, "is not recognised; looked for"),
        ({"label_values": [0]}, "has the values 0, 1; allowed are 0 (label_values) only"),
        ({"loss": "component_dice"}, "name its file after train.yaml"),
        ({"precision": "float8"}, "precision must be float32 or bfloat16"),
        (
            {"precision": "bfloat16", "device": "cpu", "patch_size": [8, 4, 8]},
            "precision: bfloat16 on a processor needs patches that leave 3 voxels or more for the last level, and"
            " patch_size [8, 4, 8] leaves 2",
        ),
    ],
)
def test_bad_arguments(workflow: Run, tmp_path: Path, overrides: dict[str, Any], complaint: str) -> None:
    made = workflow("train", **({"output_dir": str(tmp_path / "run")} | overrides))
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run_to_the_end(made)
    assert complaint in cause(caught.value)
    assert not (tmp_path / "run" / "models").exists()


def test_synthetic_from_training_to_masks(small: dict[str, Any], tmp_path: Path) -> None:
    """Two epochs on phantoms that are made for it, in two stages, scored lesion by lesion, and predicted."""
    phantoms = {"size": [24, 28, 24], "spacing": [7, 7, 7], "lesions": 4, "fraction": 0.01}
    values = small | {
        "dataset_dir": "synthetic",
        "synthetic_cases": 5,
        "cache_dir": str(tmp_path),
        "phantoms": phantoms,
    }
    values["on_lesions"] = 0.5
    first, second = tmp_path / "first", tmp_path / "second"
    run_to_the_end(make_workflow(BUNDLE, ("train", "loss/cross_entropy"), values | {"output_dir": str(first)}))
    values |= {"output_dir": str(second), "learning_rate": 1e-4}
    stage = {"initial_weights": str(first / "models" / "best.pt"), "epochs": 2}
    run_to_the_end(make_workflow(BUNDLE, ("train", "loss/component_dice"), values | stage))
    assert [float(row["lr"]) for row in rows(second / "history.csv")] == [1e-4, 1e-4]
    run_to_the_end(make_workflow(BUNDLE, ("train", "evaluate"), values | {"section": "testing"}))
    (row,) = rows(second / "evaluation" / "cases.csv")
    assert row["image"].endswith("_FLAIR.nii.gz")
    truth, found = (
        ndimage.label(np.asarray(nibabel.load(path).dataobj) > 0, np.ones((3, 3, 3)))
        for path in (row["label"], second / "evaluation" / "masks" / f"{row['case']}.nii.gz")
    )
    assert truth[1] == 4
    pairs = round(float(row["lesion_recall"]) * truth[1])
    assert float(row["false_lesions"]) == found[1] - pairs
    assert float(row["lesion_f1"]) == pytest.approx(2 * pairs / (truth[1] + found[1]))
    infer(Path(row["image"]).parent, tmp_path / "masks", second / "models" / "best.pt", small)
    assert len(list((tmp_path / "masks").iterdir())) == 5
    mask = nibabel.load(tmp_path / "masks" / f"{row['case']}_lesions.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj) > 0, found[0] > 0)


def infer(folder: Path, output: Path, checkpoint: Path, small: dict[str, Any], *files: str, **overrides: Any) -> None:
    values = {name: small[name] for name in ("spacing", "patch_size", "network_def")} | overrides
    values |= {"input_dir": str(folder), "output_dir": str(output), "checkpoint": str(checkpoint)}
    configs = [str(BUNDLE / "configs" / f"{name}.yaml") for name in ("inference", *files)]
    made = ConfigWorkflow(configs, workflow_type="infer", logging_file=False, bundle_root=str(BUNDLE), **values)
    made.initialize()
    run_or_raise_the_cause(made)


@pytest.mark.slow
def test_training_finds_lesions(small: dict[str, Any], tmp_path: Path) -> None:
    """Seconds of training in large voxels; most lesions of unseen brains are then found."""
    phantoms = {"size": [24, 28, 24], "spacing": [7, 7, 7], "lesions": 6, "fraction": 0.02, "contrast": 1.0}
    network = small["network_def"] | {
        "channels": [8, 16, 32],
        "strides": [2, 2],
        "num_res_units": 2,
        "norm": "instance",
    }
    values = small | {
        "dataset_dir": "synthetic",
        "synthetic_cases": 20,
        "cache_dir": str(tmp_path),
        "phantoms": phantoms,
    }
    values |= {
        "network_def": network,
        "learning_rate": 0.01,
        "epochs": 25,
        "val_interval": 5,
        "output_dir": str(tmp_path),
    }
    for configs in (("train", "loss/dice_cross_entropy"), ("train", "evaluate")):
        run_to_the_end(
            make_workflow(BUNDLE, configs, values | ({"section": "testing"} if "evaluate" in configs else {}))
        )
    table = rows(tmp_path / "evaluation" / "cases.csv")
    means = {name: np.mean([float(row[name]) for row in table]) for name in ("dice", "lesion_recall")}
    assert means["dice"] > 0.5, means
    assert means["lesion_recall"] > 0.5, means


# Inference


STRAIGHT = np.eye(3)
TILT = nibabel.eulerangles.euler2mat(0.2, -0.15, 0.3)


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    """Weights that call voxels lesion which are bright in the first channel and dark in the second."""
    network = torch.nn.Conv3d(2, 1, 1)
    with torch.no_grad():
        network.weight[0, :, 0, 0, 0] = torch.tensor([20.0, -20.0])
        network.bias.fill_(-150)
    torch.save(network.state_dict(), tmp_path / "bright.pt")
    (tmp_path / "in").mkdir()
    return tmp_path / "bright.pt"


SPOTS = {"network_def": "$torch.nn.Conv3d(2, 1, 1)", "spacing": [3, 3, 3]}


def scans() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FLAIR, T1, and where two balls are bright in the former and dark in the latter."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (41, 36, 30)), indexing="ij"), axis=-1)
    inside = np.any([((grid - middle) ** 2).sum(-1) < 20 for middle in ((12, 20, 12), (28, 15, 17))], axis=0)
    noise = np.random.default_rng(0).integers(0, 40, (2, *inside.shape))
    flair, t1 = np.where(inside, 900, 300) + noise[0], np.where(inside, 300, 900) + noise[1]
    flair[30:35, 25:30, 5:10] = t1[30:35, 25:30, 5:10] = 900  # bright in both: none
    return flair.astype(np.int16), t1.astype(np.int16), inside


def write(path: Path, image: np.ndarray, direction: np.ndarray = STRAIGHT, shift: float = 0.0) -> None:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * (3.0, 2.5, 3.5), (-60 + shift, 20, -30)
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = nibabel.Nifti1Image(image, affine)
    volume.set_sform(affine, code=2)
    volume.header.set_xyzt_units("mm")
    nibabel.save(volume, path)


def test_masks_have_the_geometry_of_their_scans(small: dict[str, Any], bright: Path, tmp_path: Path) -> None:
    """Two files a case, by their names, in folders too, whatever their orientation."""
    flair, t1, inside = scans()
    for name, direction in {"ras": np.eye(3), "lps": np.diag([-1.0, -1, 1]), "oblique": TILT}.items():
        write(tmp_path / "in" / f"{name}_FLAIR.nii.gz", flair, direction)
        write(tmp_path / "in" / f"{name}_T1w.nii.gz", t1, direction)
    write(tmp_path / "in" / "Utrecht" / "7" / "pre" / "FLAIR.nii", flair)
    write(tmp_path / "in" / "Utrecht" / "7" / "pre" / "T1.nii", t1)
    write(tmp_path / "in" / "ras_lesions.nii.gz", flair)
    infer(tmp_path / "in", tmp_path / "out", bright, small, **SPOTS)
    names = ["7_lesions.nii", *(f"{name}_lesions.nii.gz" for name in ("lps", "oblique", "ras"))]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names[1:]:
        mask = nibabel.load(tmp_path / "out" / name)
        source = nibabel.load(tmp_path / "in" / name.replace("lesions", "FLAIR"))
        np.testing.assert_array_equal(mask.affine, source.affine)
        found = np.asarray(mask.dataobj) > 0
        assert 2 * (found & inside).sum() / (found.sum() + inside.sum()) > 0.85, name
    drawn = write_overlays(tmp_path / "in", tmp_path / "out", tmp_path / "drawings")
    assert len(drawn) == 5


def test_cases_that_cannot_be_used(small: dict[str, Any], bright: Path, tmp_path: Path) -> None:
    flair, t1, _ = scans()
    for name in ("a", "b", "c", "d", "e"):
        write(tmp_path / "in" / f"{name}_FLAIR.nii.gz", flair)
        write(tmp_path / "in" / f"{name}_T1w.nii.gz", t1)
    folder = tmp_path / "in"
    write(folder / "b_T1w.nii.gz", t1, shift=2)
    (folder / "c_T1w.nii.gz").unlink()
    write(folder / "d_T1w.nii.gz", t1[1:])
    (folder / "e_T1w.nii.gz").write_bytes((folder / "a_T1w.nii.gz").read_bytes()[:4000])
    with pytest.raises(ValueError, match="have no mask") as caught:
        infer(folder, tmp_path / "out", bright, small, **SPOTS)
    first, *problems = str(caught.value).splitlines()
    assert first == "4 of 5 cases have no mask:"
    other = f"cannot be used: it lies on another grid than {folder}"
    expected = [f"{other}/b_FLAIR.nii.gz: their corners are up to 2.00 mm apart", "cannot be used:", f"{other}/d_FLAIR"]
    for name, problem, clue in zip("bcde", problems, [*expected, "Compressed file ended"], strict=True):
        assert problem.startswith(f"{folder}/{name}_T1w.nii.gz cannot be used: ")
        assert clue in problem
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_lesions.nii.gz"]
    write(folder / "a_T1.nii.gz", t1)
    with pytest.raises((ValueError, RuntimeError)) as doubled:
        infer(folder, tmp_path / "other", bright, small, **SPOTS)
    assert "several files for one channel of a case; keep one of each" in cause(doubled.value)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"there is no case \(CASE_FLAIR and CASE_T1w with .nii.gz, .*\) in "):
        infer(folder, tmp_path / "other", bright, small, **SPOTS)


def test_predict(small: dict[str, Any], bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flair, t1, _ = scans()
    write(tmp_path / "in" / "a_FLAIR.nii.gz", flair)
    write(tmp_path / "in" / "a_T1.nii.gz", t1)
    (tmp_path / "spots.yaml").write_text(yaml.safe_dump(SPOTS))
    command = ["predict", LESIONS, str(tmp_path / "in"), str(tmp_path / "out"), "--checkpoint", str(bright)]
    command += ["--config", str(tmp_path / "spots.yaml"), "--overlays", str(tmp_path / "drawings")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "a_lesions.nii.gz").is_file()
    assert (tmp_path / "drawings" / "a_FLAIR.nii.gz.png").is_file()


def test_one_file_with_both_channels_for_tools_that_read_by_themselves(tmp_path: Path) -> None:
    """As MONAI Label hands an image over: `preprocessing` alone, without the loader of this bundle."""
    flair, t1, _ = scans()
    write(tmp_path / "both.nii.gz", np.stack([flair, t1], axis=-1))
    for name, image in (("a_FLAIR", flair), ("a_T1w", t1)):
        write(tmp_path / f"{name}.nii.gz", image)
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "configs" / "inference.yaml"))
    prepare = parser.get_parsed_content("preprocessing")
    both = prepare({"image": str(tmp_path / "both.nii.gz")})["image"]
    apart = prepare({"image": [str(tmp_path / f"{name}.nii.gz") for name in ("a_FLAIR", "a_T1w")]})["image"]
    assert both.shape[0] == 2
    torch.testing.assert_close(both.as_tensor(), apart.as_tensor())


# Several regions


@pytest.fixture(scope="module")
def brats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five cases as BraTS distributes them: oedema around a core with an enhancing part, label 3 or 4."""
    root = tmp_path_factory.mktemp("brats")
    grid = np.stack(np.meshgrid(*(np.arange(24),) * 3, indexing="ij"), axis=-1)
    rng = np.random.default_rng(0)
    for number in range(5):
        distance = np.linalg.norm(grid - rng.integers(9, 14, 3), axis=-1)
        label = np.select([distance < 2.5, distance < 4.5, distance < 7], [3 + number % 2, 1, 2], 0).astype(np.uint8)
        case = f"BraTS-GLI-{number:05d}-000"
        for end in ("t1n", "t1c", "t2w", "t2f"):
            image = 100 + 60 * label + rng.integers(0, 20, label.shape)
            write(root / case / f"{case}-{end}.nii.gz", image.astype(np.int16))
        write(root / case / f"{case}-seg.nii.gz", label)
    return root


@pytest.mark.parametrize("overlay", ["soft_dice", "component_dice"])
def test_brats(small: dict[str, Any], brats: Path, tmp_path: Path, overlay: str) -> None:
    """Three regions within each other as channels of a sigmoid, each scored; masks count them."""
    network = small["network_def"] | {"in_channels": 4, "out_channels": 3}
    values = small | {
        "network_def": network,
        "spacing": [3, 3, 3],
        "dataset_dir": str(brats),
        "output_dir": str(tmp_path),
    }
    configs = ("train", f"loss/{overlay}", "protocol/brats")
    done = run_to_the_end(make_workflow(BUNDLE, configs, values))
    batch = next(iter(done.parser.get_parsed_content("train::dataloader")))
    assert (batch["image"].shape[1], batch["label"].shape[1]) == (4, 3)
    whole, core, enhancing = batch["label"].unbind(1)
    assert (enhancing <= core).all()
    assert (core <= whole).all()
    assert 0 < enhancing.sum() < core.sum() < whole.sum()
    run_to_the_end(make_workflow(BUNDLE, ("train", "protocol/brats", "evaluate"), values | {"section": "testing"}))
    (row,) = rows(tmp_path / "evaluation" / "cases.csv")
    each = [float(row[f"dice_{region}"]) for region in ("WT", "TC", "ET")]
    assert float(row["dice"]) == pytest.approx(np.mean(each))
    mask = np.asarray(nibabel.load(tmp_path / "evaluation" / "masks" / f"{row['case']}.nii.gz").dataobj)
    truth = np.asarray(nibabel.load(row["label"]).dataobj)
    assert mask.shape == truth.shape
    assert set(np.unique(mask)) <= {0, 1, 2, 3}
    best, options = tmp_path / "models" / "best.pt", {"network_def": network, "spacing": [3, 3, 3]}
    infer(brats / row["case"], tmp_path / "masks", best, small, "protocol/brats_model", **options)
    (written,) = (tmp_path / "masks").iterdir()
    assert written.name == f"{row['case']}_lesions.nii.gz"
    np.testing.assert_array_equal(np.asarray(nibabel.load(written).dataobj), mask)
