"""One rank of DistributedDataParallel around the denoiser: ddp.py RESULT RANK WORLD STORE.

Each rank takes its share of a batch of four; rank 0 saves the averaged gradients and the trained weights.
"""

import sys

import torch
import torch.distributed as dist

import rust_diffusion as rd
from tools import TINY

result, rank, world, store = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)

torch.manual_seed(rank)  # DDP has to bring the ranks to the same weights
model = rd.DiffusionUNet(**TINY)
if rank == 0:
    torch.manual_seed(3)
    model = rd.DiffusionUNet(**TINY)
parallel = torch.nn.parallel.DistributedDataParallel(model)
ema = rd.EMA(parallel, decay=0.5)

torch.manual_seed(5)
x, noise = torch.randn(2, 4, 1, 16, 16)
t = torch.tensor([0, 40, 200, 399])
share = slice(rank * 4 // world, (rank + 1) * 4 // world)

optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01)
for _ in range(3):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(parallel(x[share], t[share]), noise[share]).backward()
    optimizer.step()
    ema.update(parallel)
if rank == 0:
    grads = {name: p.grad for name, p in model.named_parameters()}
    torch.save({"grads": grads, "model": model.state_dict(), "ema": ema.shadow.state_dict()}, result)
dist.destroy_process_group()
