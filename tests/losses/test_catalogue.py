"""The catalogue holds every loss once, says all that it must, and clashes with no name of MONAI's."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module

import monai.losses
import monai.networks
import pytest

import monai_lossext.losses as losses
from monai_lossext.losses import CompoundLoss, SegmentationLoss, catalogue
from monai_lossext.losses.catalogue import FAMILIES

from .oracles import ROWS

every_entry = pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.name)
BASES = {"SegmentationLoss", "ClasswiseLoss", "RegionLoss", "OverlapLoss", "VoxelLoss", "CompoundLoss", "JointLoss"}


def test_every_exported_loss_is_in_it_once_and_has_an_oracle():
    exported = {
        name
        for name in losses.__all__
        if inspect.isclass(getattr(losses, name))
        and issubclass(getattr(losses, name), (SegmentationLoss, CompoundLoss))
    } - BASES
    names = [entry.name for entry in catalogue()]
    assert sorted(names) == sorted(exported)
    assert set(ROWS) == exported
    assert len({entry.overlay for entry in catalogue()}) == len(names)


@every_entry
def test_entries_are_complete(entry):
    for field in ("family", "formula", "paper", "range", "good_for", "monai", "difference"):
        assert getattr(entry, field).strip(), field
    assert entry.family in FAMILIES
    assert "arXiv:" in entry.paper or "doi:" in entry.paper
    assert entry.monai == "none" or hasattr(monai.losses, entry.monai.split("(")[0])


@every_entry
def test_docstrings_say_what_they_must(entry):
    text = inspect.getdoc(entry.cls)
    for part in (".. math::", "Range:", "Source:", ">>>"):
        assert part in text, part
    init = vars(entry.cls).get("__init__", object.__init__)  # one that is inherited has no arguments of its own
    own = set(inspect.signature(init).parameters) - {"self", "args", "kwargs", "options"}
    for name in own:
        assert f"{name}: " in text, name


@every_entry
def test_resolves_from_a_config(entry):
    from monai.bundle import ConfigParser

    loss = ConfigParser({"loss": {"_target_": entry.target, "sigmoid": entry.activation}}).get_parsed_content("loss")
    assert type(loss) is entry.cls


def public_names(package: object) -> set[str]:
    names = set()
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        module = import_module(info.name)
        names |= {n for n, x in vars(module).items() if inspect.isclass(x) and x.__module__.startswith("monai.")}
    return names


@pytest.mark.filterwarnings("ignore")  # MONAI's optional networks warn about libraries that are not installed
def test_no_name_clashes_with_monai():
    theirs = public_names(monai.losses) | public_names(monai.networks)
    assert "DiceLoss" in theirs
    assert not theirs & set(losses.__all__)


def test_import_is_light():
    code = (
        "import sys, monai_lossext.losses;"
        "heavy = {'pandas', 'matplotlib', 'ignite', 'SimpleITK', 'scipy', 'monai', 'torch._dynamo'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
