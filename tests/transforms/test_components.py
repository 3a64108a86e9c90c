"""Components and skeletons made before training: in the spacing of the label, and what does not fit."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_lossext.losses.engine.components import component_map
from monai_lossext.transforms import ConnectedComponents, ConnectedComponentsd, TubedSkeleton, TubedSkeletond

from ..losses.test_components import blobs


def test_components_in_the_spacing_of_the_affine():
    label = blobs(1, 17, 16)[0]
    spaced = MetaTensor(label, affine=torch.diag(torch.tensor([3.0, 0.5, 1.0, 1.0])))
    masks = torch.stack([label[0] == c for c in range(3)])[None]
    got = ConnectedComponents(num_classes=3)(spaced)
    assert isinstance(got, MetaTensor)
    assert got.dtype == torch.int16
    assert torch.equal(got.as_tensor(), component_map(masks, (3.0, 0.5))[0])
    assert torch.equal(ConnectedComponents(num_classes=3)(label), component_map(masks)[0])
    assert not torch.equal(ConnectedComponents(num_classes=3)(label), got.as_tensor())
    by_faces = ConnectedComponents(num_classes=3, fully_connected=False)(label)
    assert torch.equal(by_faces, component_map(masks, None, False)[0])
    ignored = torch.where(torch.arange(16) < 8, label, 255)
    assert (ConnectedComponents(num_classes=3, ignore_index=255)(ignored)[..., 8:] <= 0).all()


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"label: .*expected \(1, \*S\) class indices, as num_classes=2 says"):
        ConnectedComponentsd("label", num_classes=2)({"label": torch.zeros(3, 4, 4)})
    with pytest.raises(ValueError, match="tube must be a whole number of at least 0, got -1"):
        TubedSkeleton(tube=-1)
    with pytest.raises(KeyError, match="label"):
        TubedSkeletond("label")({})
