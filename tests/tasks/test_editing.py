"""The task "edit": what edited networks draw is held against the edited image."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nngraph.errors import DataFileError
from nngraph.graph import forward
from nngraph.nn import EditingNetwork
from nngraph.tasks import TrainSettings, load_run, train
from nngraph.tasks.editing import Edit
from nngraph.tasks.image_edits import EDITS, dilate, erode, raise_contrast
from nngraph.zoo import ImageSource, Zoo, fit_zoo, render, siren_architecture

OPTIONS: dict[str, Any] = {"channels": 8, "messages": 4, "edge_channels": 0, "hidden": 8}
SMALL: dict[str, Any] = {"readout": {"hidden": 8, "rank": 2}, "context": 8}


def task(zoo: Zoo, motion: bool = False, **changes: Any) -> Edit:
    settings = TrainSettings(str(zoo.path), options=OPTIONS, task="edit", motion=motion)
    return Edit(zoo, settings, **{**SMALL, **changes})


class TestImages:
    def test_against_loops_over_pixels(self):
        images = torch.rand(2, 4, 5, 3)
        found = dilate(images), erode(images)
        for row in range(4):
            for column in range(5):
                near = images[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                assert torch.equal(found[0][:, row, column], near.amax((1, 2)))
                assert torch.equal(found[1][:, row, column], near.amin((1, 2)))

    def test_contrast(self):
        images = torch.tensor([0.4, 0.5, 0.6, 0.9]).reshape(1, 2, 2, 1)
        expected = torch.tensor([0.2, 0.4, 0.6, 1.0]).reshape(1, 2, 2, 1)
        torch.testing.assert_close(raise_contrast(images), expected)

    def test_by_name(self):
        assert {"dilate": dilate, "erode": erode, "contrast": raise_contrast} == EDITS


class TestErrors:
    """The loss and the measures against what is written out by hand."""

    @pytest.mark.parametrize("copies", [1, 3])
    @pytest.mark.parametrize("added", [0, 5])
    def test_the_mean_over_all_pixels_of_what_the_edited_network_draws(self, zoo, copies, added):
        edits = task(zoo, edit="erode", copies=copies, added=added)
        torch.manual_seed(0)
        model = edits.build_model().eval().requires_grad_(False)
        edits.fit_statistics(model)
        if added:
            torch.nn.init.normal_(model.added.outgoing["2/weight"].weight)
        ((numbers, stack),) = edits.networks("val")
        edited = model.edit(edits.prepare(stack, model))
        target = erode(render(stack, 4, 6).clamp(0, 1))
        errors = (render(edited, 4, 6) - target).square().flatten(1).mean(1)
        measures = edits.evaluate(model, "val")
        assert measures["mse"] == pytest.approx(float(errors.mean()), rel=1e-4)
        assert measures["negative_mse"] == -measures["mse"]
        assert measures["psnr"] == pytest.approx(-10 * float(errors.mean().log10()), rel=1e-4)
        unedited = float((render(stack, 4, 6) - target).square().mean())
        assert measures["mse_unedited"] == pytest.approx(unedited, rel=1e-5)
        loss = edits.loss(model.requires_grad_(), [(numbers, stack)])
        assert float(loss.detach()) == pytest.approx(measures["mse"], rel=1e-4)
        loss.backward()
        silent = [n for n, p in model.readout.named_parameters() if not p.grad.any()]
        assert silent == []

    def test_pixels_are_a_sample_of_all(self, zoo):
        edits = task(zoo, pixels=5)
        model = edits.build_model().eval()
        batch = edits.networks("val")
        torch.manual_seed(0)
        with torch.no_grad():
            losses = torch.stack([edits.loss(model, batch) for _ in range(40)])
        whole = edits.evaluate(model, "val")["mse"]
        assert losses.std() > 0
        assert float(losses.mean()) == pytest.approx(whole, abs=4 * float(losses.std()) / 40**0.5)

    def test_moved_networks_are_held_against_what_they_draw(self, zoo, monkeypatch):
        """An editor that changes nothing is asked for nothing where the edit is none."""
        edits = task(zoo, motion=True, readout={"scale": 1e-9}, context=0)
        monkeypatch.setattr(edits, "edit", lambda images: images)
        monkeypatch.setattr(edits, "drawn", lambda stack: render(stack, 4, 6))
        model = edits.build_model()
        batch = edits.networks("train")
        assert float(edits.loss(model, batch).detach()) < 1e-8
        moves = [edits.drawn(stack) for _, stack in batch]
        monkeypatch.setattr(edits, "drawn", lambda stack: moves[0])
        assert float(edits.loss(model, batch).detach()) > 1e-3

    def test_networks_of_several_architectures(self, tmp_path):
        images = ImageSource("noise", torch.rand(20, 4, 4, 1), torch.arange(20) % 2, ("a", "b"))
        architectures = [siren_architecture([2, 4, 1], 10), siren_architecture([2, 5, 3, 1], 10)]
        zoo = fit_zoo(tmp_path / "zoo", images, architecture=architectures, steps=5, threads=1,
                      splits=(0.6, 0.2, 0.2), progress=False)  # fmt: skip
        edits = task(zoo, copies=2)
        model = edits.build_model().eval()
        edits.fit_statistics(model)
        batch = edits.networks("train")
        assert len(batch) == 2
        edits.loss(model, batch).backward()
        one = torch.cat([drawn for drawn, _, _ in edits.edited_images(model, "train")])
        other = []
        for _, stack in batch:
            other.append(render(model.edit(edits.prepare(stack, model)), 4, 4))
        torch.testing.assert_close(one, torch.cat(other), rtol=1e-3, atol=1e-4)


class TestOriginalImages:
    def folder(self, path: Path, images: Tensor) -> str:
        path.mkdir()
        for name, data in (("images-idx3", images), ("labels-idx1", images[:, 0, 0] % 2)):
            head = struct.pack(f">HBB{data.dim()}I", 0, 8, data.dim(), *data.shape)
            (path / f"train-{name}-ubyte.gz").write_bytes(
                gzip.compress(head + data.to(torch.uint8).numpy().tobytes())
            )
        return str(path)

    def test_are_those_that_the_networks_were_fitted_to(self, tmp_path):
        images = torch.randint(256, (12, 4, 4))
        source = ImageSource("x", images[:10, ..., None].to(torch.uint8), torch.arange(10) % 2,
                             ("0", "1"))  # fmt: skip
        source = ImageSource("x", source.images, images[:10, 0, 0] % 2, ("0", "1"))
        zoo = fit_zoo(tmp_path / "zoo", source, widths=[2, 4, 4, 1], w0=10.0, steps=5, threads=1,
                      splits=(0.6, 0.2, 0.2), progress=False)  # fmt: skip
        edits = task(zoo, data=self.folder(tmp_path / "right", images))
        numbers = zoo.indices("val")
        expected = images[zoo.image[numbers], ..., None] / 255
        torch.testing.assert_close(edits.images(numbers), expected)
        wrong = self.folder(tmp_path / "wrong", images.flip(0))
        with pytest.raises(DataFileError, match="are not those that the networks"):
            task(zoo, data=wrong).images(numbers)


class TestTraining:
    def test_learns_and_is_read_back(self, zoo, tmp_path):
        settings = TrainSettings(
            str(zoo.path), options=OPTIONS, task="edit", epochs=10, batch_size=8,
            learning_rate=1e-2, warmup_steps=5,
            task_options={**SMALL, "copies": 2, "added": 8, "edit": "dilate"},
        )  # fmt: skip
        report = train(settings, tmp_path / "run", progress=False)
        assert report.score == "negative_mse"
        assert report.test["mse"] < 0.7 * report.test["mse_unedited"]
        model, read = load_run(tmp_path / "run")
        assert isinstance(model, EditingNetwork)
        again = Edit(zoo, read, **read.task_options)
        assert again.evaluate(model, "test")["mse"] == pytest.approx(report.test["mse"])
        stack = zoo.stack("test")
        inputs = torch.rand(3, 2)
        torch.testing.assert_close(
            forward(model.edit(again.prepare(stack, model)), inputs),
            model(again.prepare(stack, model), inputs), rtol=1e-3, atol=1e-4,
        )  # fmt: skip


def test_mistakes_are_refused(zoo):
    with pytest.raises(ValueError, match="edit is 'blur'; expected one of dilate"):
        task(zoo, edit="blur")
    with pytest.raises(ValueError, match="pixels is 0"):
        task(zoo, pixels=0)
    with pytest.raises(ValueError, match="leave one of them out"):
        task(zoo, motion=True, data="somewhere")
    with pytest.raises(ValueError, match=r"unexpected keyword argument 'depth'.*are JSON"):
        task(zoo, readout={"depth": 3}).build_model()
