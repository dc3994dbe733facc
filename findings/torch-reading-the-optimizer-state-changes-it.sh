#!/usr/bin/env bash
# `get_optimizer_state_dict` of torch.distributed.checkpoint, called before the first step, steps the optimizer: AdamW's first real step is
# 0.74 of itself, and Rprop's a hundred-thousandth.
#
# Versions: torch 2.13.0 (CPU), numpy 2.3.5.
# Guess before looking: what reads a state changes none; a checkpoint of step 0 is only a file more.
# Seen, over the same steps without the call: AdamW's first step 0.74 times as long, RAdam's 0.53, SGD's with momentum and dampening 0.9 0.1 times,
# Rprop's 0.00001 times; ASGD's first step is none, and each later one that which was due before it. SGD, RMSprop, Muon and Adagrad step the same.
# `get_state_dict` does the same. So that there is a state to describe, torch steps with zero gradients at a learning rate of 0: Adam's
# counter then stands at 1, momentum has a first gradient of zero, and Rprop, whose step sizes start at the rate, starts at the least of them.
# Known: of AdamW, pytorch/pytorch#164929 (open). Of the others we found no report.
# Why it matters: whether a run writes a checkpoint before its first step, to prove that writing works or as the base of a curve, decides
# what it trains; a run resumed from that checkpoint has the changed state too. `dem` keeps an optimizer's state without this module.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5
fi
cd "$work"
"$env/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, get_state_dict

makers = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.1),
    "SGD, dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.9),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
    "Muon": lambda p: torch.optim.Muon(p, lr=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def steps(make, read):
    """Return how far each of four steps moves the weights, where `read` sees model and optimizer before the first."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4, bias=False)
    optimizer = make(model.parameters())
    read(model, optimizer)
    lengths = []
    for _ in range(4):
        before = model.weight.detach().clone()
        model(torch.ones(2, 4)).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        lengths.append((model.weight.detach() - before).norm().item())
    return lengths


print("torch", version("torch"))
first, all_seen, readers_agree = {}, {}, True
for name, make in makers.items():
    plain = steps(make, lambda model, optimizer: None)
    read = steps(make, get_optimizer_state_dict)
    readers_agree &= read == steps(make, get_state_dict)
    first[name], all_seen[name] = read[0] / plain[0], (plain, read)
    print(f"{name:15} steps", *(f"{x:.3f}" for x in plain), "  after reading the state", *(f"{x:.3f}" for x in read), f"  first {first[name]:.2g}")
changed = all(abs(first[name] - wanted) < 0.01 for name, wanted in {"AdamW": 0.744, "RAdam": 0.526, "SGD, dampening": 0.1}.items())
least = abs(first["Rprop"] / 1e-5 - 1) < 0.05
behind = torch.allclose(torch.tensor(all_seen["ASGD"][1]), torch.tensor([0.0, *all_seen["ASGD"][0][:3]]), rtol=1e-3)
same = all(all_seen[name][0] == all_seen[name][1] for name in ("SGD, momentum", "RMSprop", "Muon", "Adagrad"))
sys.exit(not (changed and least and behind and same and readers_agree))
PYTHON
