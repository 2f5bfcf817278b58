"""The workers that train one model together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

_BUCKET_BYTES = 32 * 2**20
_LARGE_BYTES = 2**20


@dataclass(frozen=True)
class Workers:
    """The processes of one job, each with its share of every batch; all call the same methods in the same order.

    Attributes:
        rank: This worker's number, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Workers:
        """Those of the process group of torch.distributed; one worker alone where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over all workers.

        Small tensors of one type travel together in flat buckets, because each message has a cost of its own; large
        ones are summed where they lie, because a copy has one too.
        """
        if self.size == 1:
            return
        large = [tensor for tensor in tensors if tensor.nbytes >= _LARGE_BYTES and tensor.is_contiguous()]
        works = [dist.all_reduce(tensor, async_op=True) for tensor in large]
        where_they_lie = {id(tensor) for tensor in large}
        sent = []
        for bucket in _buckets([tensor for tensor in tensors if id(tensor) not in where_they_lie]):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            works.append(dist.all_reduce(flat, async_op=True))
            sent.append((bucket, flat))
        for work in works:
            work.wait()
        for bucket, flat in sent:
            for tensor, total in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))


ALONE = Workers()
"""One worker."""


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, cut where the type changes or a bucket is full."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or size + tensor.nbytes > _BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
