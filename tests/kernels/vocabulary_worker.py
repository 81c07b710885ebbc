"""Runs on every rank: its rows of a head give the loss of the whole head, and its part of the gradients."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmscale_kernels import VocabularyShard, linear_cross_entropy

from mmscale.parallel.world import leave


def compare(vocabulary: int, dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(vocabulary)
    rank, size = dist.get_rank(), dist.get_world_size()
    hidden, weight = torch.randn(13, 6).to(dtype), torch.randn(vocabulary, 6).to(dtype)
    targets = torch.randint(vocabulary, (13,))
    exact = [hidden.double().clone().requires_grad_(), weight.double().clone().requires_grad_()]
    right = F.cross_entropy(F.linear(*exact), targets, reduction="sum")
    right.backward()
    length = -(-vocabulary // size)
    mine = slice(min(rank * length, vocabulary), min((rank + 1) * length, vocabulary))
    own = [hidden.clone().requires_grad_(), weight[mine].clone().requires_grad_()]
    vocabulary_shard = VocabularyShard(dist.group.WORLD, mine.start, length)
    loss = linear_cross_entropy(own[0], own[1], targets, None, vocabulary_shard, chunk_bytes=40)
    loss.backward()
    whole = own[0].grad.double()
    dist.all_reduce(whole)
    for found, wanted in ((loss, right), (whole, exact[0].grad), (own[1].grad, exact[1].grad[mine])):
        assert (found.double() - wanted).norm() <= bound * wanted.norm(), (vocabulary, dtype)


dist.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
for entries in (4, 11, 30):
    compare(entries, torch.float64, 1e-12)
    compare(entries, torch.bfloat16, 1e-2)
dist.destroy_process_group()
leave(0)
