"""Trains IMPALA's network with PPO's loss in PyTorch, and times it: one side of `purerl bench impala`.

Runs in a virtual environment of its own (see `baselines.py`), so it imports torch and the standard library only. It
answers one line of JSON on standard output for every line on standard input:

  at the start      {"version": ..., "threads": ..., "parameters": ...}
  "5.0"             trains for at least 5 seconds, then acts for as long, and answers {"train": samples a second,
                    "act": samples a second}
  end of file       leaves

A sample is a frame of 64 x 64 x 3 of type uint8. A gradient step takes a minibatch out of 2,048 of them by shuffled
indices, converts it to float32, and ends with Adam, after the global norm was clipped. `--channels-last` is PyTorch's
other memory format, which its convolutions on CPUs are made for.
"""

import argparse
import json
import sys
import time

import torch
from torch import nn

SAMPLES = 2048


def residual(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


class Network(nn.Module):
    """Three stacks of 16, 32 and 32 channels, a dense layer of 256, and the heads of policy and value."""

    def __init__(self) -> None:
        super().__init__()
        self.stacks, before = nn.ModuleList(), 3
        for channels in (16, 32, 32):
            first = nn.Sequential(nn.Conv2d(before, channels, 3, padding=1), nn.MaxPool2d(3, 2, 1))
            self.stacks.append(nn.ModuleList([first, residual(channels), residual(channels)]))
            before = channels
        self.dense, self.policy, self.value = nn.Linear(2048, 256), nn.Linear(256, 15), nn.Linear(256, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for first, one, other in self.stacks:
            x = first(x)
            x = x + one(x)
            x = x + other(x)
        x = torch.relu(self.dense(torch.relu(x).flatten(1)))
        return self.policy(x), self.value(x)[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--channels-last", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(0)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    network = Network().to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), 5e-4, eps=1e-5)
    frames = torch.randint(0, 255, (SAMPLES, 3, 64, 64), dtype=torch.uint8).contiguous(memory_format=layout)
    actions = torch.randint(0, 15, (SAMPLES,))
    old, advantages, targets = -2.7 * torch.ones(SAMPLES), torch.randn(SAMPLES), torch.randn(SAMPLES)

    def gradient_step(indices: torch.Tensor) -> None:
        logits, value = network(frames[indices].float() / 255)
        logits = torch.log_softmax(logits, -1)
        ratio = (logits.gather(1, actions[indices, None])[:, 0] - old[indices]).exp()
        advantage = advantages[indices]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        entropy = -(logits.exp() * logits).sum(-1).mean()
        loss = -surrogate + 0.5 * ((value - targets[indices]) ** 2).mean() - 0.01 * entropy
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()

    @torch.no_grad()
    def act(indices: torch.Tensor) -> None:
        network(frames[indices].float() / 255)[0].argmax(-1)

    def measure(step, seconds: float) -> float:
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            for indices in torch.randperm(SAMPLES).split(args.batch_size):
                step(indices)
                done += len(indices)
        return done / (time.perf_counter() - started)

    measure(gradient_step, 0.1)
    parameters = sum(p.numel() for p in network.parameters())
    info = {"version": torch.__version__, "threads": torch.get_num_threads(), "parameters": parameters}
    print(json.dumps(info), flush=True)
    for line in sys.stdin:
        found = {name: measure(step, float(line)) for name, step in (("train", gradient_step), ("act", act))}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
