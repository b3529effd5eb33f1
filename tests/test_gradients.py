"""The paper's claim (§3.1), proved by autograd: where each loss reaches and where it does not."""

import pytest
import torch

from conftest import toy
from hfgd.losses.terms import LossSpec, loss_terms
from hfgd.model.config import GUIDANCE, NO_GUIDANCE, NO_STOP_GRADIENT

BACKBONES = ["test_resnet", "test_convnext", "swin", "vit"]
TEACHER, STUDENT = ("backbone", "encoder", "hfgm.tokens"), ("hfgm.upsampler", "hfgm.axial")


def reach(backbone, guidance, losses) -> dict[str, bool]:
    """Which part gets any gradient at all from these losses; exactly zero counts as none."""
    model = toy(
        backbone=backbone,
        encoder="cae",
        upsampler="u_sfpn",
        guidance=guidance,
        axial_attention=True,
    ).train()
    terms = loss_terms(
        model(torch.rand(2, 3, 65, 65)), torch.randint(0, 5, (2, 65, 65)), LossSpec()
    )
    sum(terms[name] for name in losses).backward()
    return {
        part: any(
            p.grad is not None and p.grad.count_nonzero() > 0
            for p in model.get_submodule(part).parameters()
        )
        for part in (*TEACHER, *STUDENT)
    }


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_fine_loss_reaches_only_the_upsampler(backbone):
    reached = reach(backbone, GUIDANCE, ["fine"])
    assert reached == {part: part in STUDENT for part in reached}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_guide_loss_reaches_only_the_guiding_branch(backbone):
    reached = reach(backbone, GUIDANCE, ["guide"])
    assert reached == {part: part in TEACHER for part in reached}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("guidance", [NO_GUIDANCE, NO_STOP_GRADIENT])
def test_without_stop_gradients_the_fine_loss_reaches_everything(backbone, guidance):
    assert all(reach(backbone, guidance, ["fine"]).values())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_with_the_whole_loss_every_parameter_learns(backbone):
    model = toy(
        backbone=backbone,
        encoder="cae",
        upsampler="u_sfpn",
        guidance=GUIDANCE,
        axial_attention=True,
    ).train()
    terms = loss_terms(
        model(torch.rand(2, 3, 65, 65)), torch.randint(0, 5, (2, 65, 65)), LossSpec()
    )
    sum(terms.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_deleting_the_upsampler_leaves_the_guiding_branch_as_it_was():
    """Three SGD steps of the teacher, with the student branch and without it: the same weights."""
    torch.manual_seed(1)
    whole = toy(upsampler="u_sfpn", guidance=GUIDANCE, axial_attention=True).train()
    alone = toy(upsampler="none").train()
    shared = {k: v for k, v in whole.state_dict().items() if not k.startswith(STUDENT)}
    alone.load_state_dict(shared)
    steps = [(torch.rand(2, 3, 65, 65), torch.randint(0, 5, (2, 65, 65))) for _ in range(3)]
    for model in (whole, alone):
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for image, label in steps:
            optimiser.zero_grad()
            sum(loss_terms(model(image), label, LossSpec()).values()).backward()
            optimiser.step()
    for key, value in alone.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key


@pytest.mark.parametrize(("kind", "reached"), [("joint", True), ("stopped", False)])
def test_the_auxiliary_fcn_reaches_the_backbone_only_when_joint(kind, reached):
    """§5.1: the second variant stops the auxiliary FCN's gradient before the backbone."""
    model = toy(upsampler="sfpn", aux_fcn=kind).train()
    terms = loss_terms(
        model(torch.rand(2, 3, 65, 65)), torch.randint(0, 5, (2, 65, 65)), LossSpec()
    )
    terms["aux"].backward()
    assert all(p.grad is not None for p in model.aux_fcn.parameters())
    assert any(p.grad is not None for p in model.backbone.parameters()) == reached
    assert not any(p.grad is not None for p in model.hfgm.parameters())
