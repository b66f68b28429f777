"""A small GPT on the bytes of Python's own standard library: nothing to download."""

import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GPT", "Batches", "cosine_factor", "standard_library", "wsd_factor"]


def standard_library(limit: int = 8_000_000) -> Tensor:
    """Return the sources of the standard library, without its tests, as one tensor of bytes."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "site-packages", "dist-packages", "idlelib", "__pycache__"}
    files = sorted(
        path for path in root.rglob("*.py") if not skipped & set(path.relative_to(root).parts)
    )
    text = b"".join(path.read_bytes() for path in files)[:limit]
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


class Batches:
    """Random windows of the text: inputs and next bytes, each (batch, length)."""

    def __init__(self, text: Tensor, batch: int, length: int, seed: int) -> None:
        self.text, self.batch, self.length = text, batch, length
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return the next batch."""
        last = self.text.numel() - self.length - 1
        starts = torch.randint(last, (self.batch, 1), generator=self.generator)
        window = self.text[starts + torch.arange(self.length + 1)].long()
        return window[:, :-1], window[:, 1:]


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """A decoder-only transformer over bytes."""

    def __init__(self, width: int = 96, depth: int = 2, heads: int = 3, length: int = 64) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of the next byte, in nats."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.blocks(self.token(tokens) + self.place(places))
        logits = self.head(self.norm(hidden))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def cosine_factor(step: int, total: int, warmup: int) -> float:
    """Return the learning rate after `step` steps as a share of the peak: warm-up and cosine."""
    if step < warmup:
        return (step + 1) / warmup
    turn = torch.tensor((step - warmup) / max(total - warmup, 1) * torch.pi)
    return float(0.55 + 0.45 * torch.cos(turn))


def wsd_factor(step: int, total: int, warmup: int, decay: float = 0.2) -> float:
    """Return the same for warm-up, stable phase and decay (WSD): linear to 0 in the last fifth."""
    start = total - round(decay * total)
    return min((step + 1) / warmup, 1.0, (total - step) / (total - start))
