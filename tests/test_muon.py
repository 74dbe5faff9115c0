"""Muon against torch's own, and what its update is."""

import torch

from pulse_lib.train.optim import Muon, orthogonalise


def test_muon_is_torchs_muon():
    torch.manual_seed(0)
    shapes = [(16, 16), (16, 16), (40, 16), (16, 40)]
    ours = [torch.nn.Parameter(torch.randn(s)) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    start = [p.detach().clone() for p in ours]
    a = Muon(ours, lr=0.02)
    b = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original")
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q, s in zip(ours, theirs, start, strict=True):
        assert (p - q).norm() < 0.03 * (p - s).norm()  # torch computes in bfloat16


def test_orthogonalise_keeps_singular_vectors():
    torch.manual_seed(0)
    matrix = torch.randn(1, 12, 20, dtype=torch.float64)
    s = torch.linalg.svdvals(orthogonalise(matrix)[0])
    u0, _, vt0 = torch.linalg.svd(matrix[0], full_matrices=False)
    # The five steps map singular values to about 1 without touching the vectors.
    assert s.min() > 0.5 and s.max() < 1.4
    inner = u0.T @ orthogonalise(matrix)[0] @ vt0.T
    assert (inner - torch.diag(torch.diag(inner))).abs().max() < 1e-10
