"""What breaks a validation loses nothing: the state is saved first, and the run goes on from it."""

import json

import pytest
import torch

import hfgd
from conftest import recipe, same, weights
from hfgd.errors import TrainingStopped
from hfgd.training import fit as fitting
from hfgd.training.fit import fit

RARE = {"train.checkpoint_every": 1000}  # the checkpoints of validations alone


def breaking(monkeypatch, error, at):
    """Validation number ``at`` raises ``error``."""
    evaluate, count = fitting.evaluate, []

    def scored(*words, **named):
        count.append(1)
        if len(count) == at:
            raise error
        return evaluate(*words, **named)

    monkeypatch.setattr(fitting, "evaluate", scored)


@pytest.mark.parametrize("at", [1, 2])
def test_a_broken_validation_loses_nothing(folder, tmp_path, monkeypatch, at):
    """In the middle and at the end; the resumed run is the undisturbed one, its scores included."""
    fit(recipe(folder, **RARE), tmp_path / "whole")
    with monkeypatch.context() as patch:
        breaking(patch, ZeroDivisionError("a bug in somebody's network"), at)
        with pytest.raises(ZeroDivisionError):
            fit(recipe(folder, **RARE), tmp_path / "run")
    state = torch.load(tmp_path / "run/state.ckpt", weights_only=True)
    assert state["global_step"] == 4 * at
    assert hfgd.load(tmp_path / "run").config.facts["iteration"] == 4 * at
    fit(None, tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    whole, again = (
        json.loads((tmp_path / name / "report.json").read_text())["confusion"]
        for name in ("whole", "run")
    )
    assert whole == again
    if at == 1:  # after the last iteration only the report is made
        for name in ("logs/val.csv", "best/config.json", "last/config.json"):
            assert (tmp_path / "whole" / name).read_text() == (tmp_path / "run" / name).read_text()


def test_no_memory_in_a_validation_is_not_blamed_on_the_batch(folder, tmp_path, monkeypatch):
    breaking(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), 1)
    with pytest.raises(TrainingStopped) as stopped:
        fit(recipe(folder, **RARE), tmp_path / "run")
    text = str(stopped.value)
    assert "while the validation images are scored" in text
    assert "accumulate" not in text
    assert "crop" not in text
    assert f"the last good checkpoint is {tmp_path / 'run/state.ckpt'} (iteration 4)" in text
