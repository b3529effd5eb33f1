"""Two processes on gloo: every image counts exactly once, and the scores are those of one."""

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from conftest import toy
from hfgd.car import car_terms
from hfgd.data.scenes import ScenesDataset
from hfgd.evaluation.evaluate import evaluate


def scored():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dataset = ScenesDataset("val", 5, size=(40, 56))  # five images: not divisible by two
    model = toy(classes=9)
    object.__setattr__(model, "classes", dataset.classes)
    return evaluate(model, dataset, boundary=0.02)


def worker(rank, address, results):
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    scores = scored()
    results[rank] = (scores.matrix, scores.boundary, scores.images.names, scores.images.counts)
    dist.destroy_process_group()


def test_each_image_counts_once_over_processes(tmp_path):
    alone = scored()
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, (f"file://{tmp_path}/store", results), nprocs=2)
        for rank in (0, 1):
            matrix, boundary, names, counts = results[rank]
            assert np.array_equal(matrix, alone.matrix)
            assert np.array_equal(boundary, alone.boundary)
            assert names == alone.images.names
            assert np.array_equal(counts, alone.images.counts)


def car_worker(rank, address, results):
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    features, label = car_input()
    mine = features[rank : rank + 1].clone().requires_grad_()
    terms = car_terms(mine, label[rank : rank + 1], 4)
    # what DDP does: each process' loss, gradients averaged
    gradient = torch.autograd.grad(terms["c2c"] / 2, mine)[0]
    results[rank] = (terms["c2c"].item(), gradient.numpy())
    dist.destroy_process_group()


def car_input():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 5, 3, 4, generator=generator) * 3
    return features, torch.randint(0, 4, (2, 3, 4), generator=generator)


def test_class_centres_are_summed_over_processes_with_their_gradient(tmp_path):
    features, label = car_input()
    features.requires_grad_()
    term = car_terms(features, label, 4)["c2c"]
    expected = torch.autograd.grad(term, features)[0].numpy()
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(car_worker, (f"file://{tmp_path}/store", results), nprocs=2)
        for rank in (0, 1):
            value, gradient = results[rank]
            np.testing.assert_allclose(value, term.item(), rtol=1e-6)
            np.testing.assert_allclose(gradient, expected[rank : rank + 1], rtol=1e-4, atol=1e-9)
