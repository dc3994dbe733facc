#!/usr/bin/env bash
# torch 2.13.0 (CPU wheel), gloo, one process.
#
# Guess before looking: in a world of one rank, in float32 and without mixed precision, `fully_shard` changes no bit:
# nothing is cut, and a sum over one rank is that rank's gradient.
# Seen: the forward pass has the same bits, and gradients differ in their last ones, where a module that is sharded by
# itself uses its input twice (an RMSNorm) beside a residual connection. `fully_shard` puts a node of autograd's graph
# before the module, to learn when its backward pass is through. It parts the module's two contributions to the
# residual's gradient from the third: float32 adds (a + b) + c where the plain model adds (c + a) + b, or the like. A node
# that does nothing, put there by hand in the plain model, gives the same bits as `fully_shard`.
# Output seen:
#   sharded: forward the same, 3 of 5 gradients are others, by up to 1.2e-07; a node by hand: the bits of the sharded one
# Where it touches dem: two ranks were to give the bytes of one process, and do in float32, where whole layers are
# sharded; in bfloat16, where norms are a group of their own, ΔΘ differed by 5e-8 and more (decision 0064).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
if [[ -z ${PYTHON_ENV:-} ]]; then
  python3 -m venv "$work/venv"; "$work/venv/bin/pip" install -q torch==2.13.0 numpy; PYTHON_ENV=$work/venv
fi
cat > "$work/one.py" <<'E'
import sys, torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
torch.set_num_threads(1)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
class Norm(nn.Module):
    def __init__(self): super().__init__(); self.weight = nn.Parameter(torch.ones(64))
    def forward(self, x): return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
class Block(nn.Module):
    def __init__(self): super().__init__(); self.norm, self.linear = Norm(), nn.Linear(64, 64, bias=False)
    def forward(self, x): return x + self.linear(self.norm(x))
class Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.view_as(x)
    @staticmethod
    def backward(ctx, g): return g
def run(how):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False), Block(), Block())
    mesh = init_device_mesh("cpu", (1,))
    for module in [m for m in model.modules() if isinstance(m, Norm)]:
        if how == "sharded": fully_shard(module, mesh=mesh)
        if how == "node": module.register_forward_pre_hook(lambda m, given: (Node.apply(given[0]),))
    if how == "sharded": fully_shard(model, mesh=mesh)
    out = model(torch.randn(8, 64)); out.pow(2).sum().backward()
    grads = [p.grad.full_tensor() if how == "sharded" else p.grad for p in model.parameters()]
    return out.detach(), grads
(plain, mine), (sharded, theirs), (_, by_hand) = run("plain"), run("sharded"), run("node")
others = [((a - b).norm() / a.norm()).item() for a, b in zip(mine, theirs) if not torch.equal(a, b)]
same, node = torch.equal(plain, sharded), all(map(torch.equal, theirs, by_hand))
print(f"sharded: forward {'the same' if same else 'another'}, {len(others)} of {len(mine)} gradients are others, "
      f"by up to {max(others, default=0):.1e}; a node by hand: {'the bits of the sharded one' if node else 'other bits'}")
sys.exit(0 if same and others and node else 1)
E
"$PYTHON_ENV/bin/python" "$work/one.py" 2>/dev/null
