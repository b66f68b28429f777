"""Real data of the small tasks: scikit-learn's bundled sets, and texts that come with Python.

scikit-learn is needed for the former: `pip install scikit-learn`. Nothing is downloaded.
"""

import importlib
import sysconfig
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from own_task import Batch
from torch import Generator, Tensor

__all__ = [
    "digits",
    "letters",
    "module_chunks",
    "photograph",
    "photograph_patches",
    "prose",
    "table",
]

DIGITS_HELD_OUT = 397  # of 1,797
LETTERS = " abcdefghijklmnopqrstuvwxyz.,'()0"  # every digit is a 0, all else a space
MODULES = (
    *("asyncio", "ctypes", "email", "http", "importlib"),
    *("logging", "multiprocessing", "unittest", "urllib", "xml"),
)


def bundled() -> Any:
    """The data sets of scikit-learn."""
    try:
        return importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise SystemExit("scikit-learn is missing: pip install scikit-learn") from error


@cache
def digits() -> tuple[Batch, Batch]:
    """Images in 0..1, (n, 1, 8, 8), and labels, of the training and of the held-out digits."""
    images, labels = bundled().load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    image = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 16
    label = torch.tensor(labels, dtype=torch.long)[order]
    cut = len(labels) - DIGITS_HELD_OUT
    return (image[:cut], label[:cut]), (image[cut:], label[cut:])


@cache
def table(name: str, held_share: float = 0.3) -> tuple[Batch, Batch]:
    """A table such as "wine": standardised columns and targets, of training and held-out rows."""
    columns, targets = getattr(bundled(), f"load_{name}")(return_X_y=True)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(columns, dtype=torch.float32)[order]
    y = torch.tensor(targets)[order]
    cut = round((1 - held_share) * len(y))
    x = (x - x[:cut].mean(0)) / x[:cut].std(0)
    if y.is_floating_point():
        y = ((y - y[:cut].mean()) / y[:cut].std()).float()[:, None]
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


# ---------------------------------------------------------------------- photographs


@cache
def photograph(name: str) -> Tensor:
    """One of the two photographs, "china" or "flower": colours in 0..1, (3, 427, 640)."""
    image = bundled().load_sample_image(f"{name}.jpg")
    return torch.tensor(image).permute(2, 0, 1).float() / 255


@cache
def photograph_patches(side: int, count: int, held: bool) -> Tensor:
    """Random grey patches of both photographs in 0..1, (count, 1, side, side).

    Held-out patches come from the right fifth of the photographs, the others from the rest.
    """
    generator = Generator().manual_seed(int(held))
    grey = torch.stack([photograph(name).mean(0) for name in ("china", "flower")])
    cut = grey.shape[2] * 4 // 5
    grey = grey[:, :, cut:] if held else grey[:, :, :cut]
    which = torch.randint(2, (count, 1, 1), generator=generator)
    top = torch.randint(grey.shape[1] - side, (count, 1, 1), generator=generator)
    left = torch.randint(grey.shape[2] - side, (count, 1, 1), generator=generator)
    span = torch.arange(side)
    return grey[which, top + span[:, None], left + span][:, None]


# ---------------------------------------------------------------------- texts


@cache
def library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


@cache
def prose() -> Tensor:
    """The bytes of the language reference in English that comes with Python's help."""
    text = "\n".join(topics[name] for name in sorted(topics))
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


@cache
def letters() -> Tensor:
    """The same text in lower case, as indices of LETTERS, without runs of spaces."""
    known = {ord(letter): index for index, letter in enumerate(LETTERS)}
    known |= {ord(figure): known[ord("0")] for figure in "123456789"}
    text = bytes(prose().tolist()).decode(errors="replace").lower()
    kept = [known.get(ord(letter), 0) for letter in " ".join(text.split())]
    indices = torch.tensor(kept, dtype=torch.long)
    doubled = (indices[1:] == 0) & (indices[:-1] == 0)
    return indices[1:][~doubled]


@cache
def module_chunks(length: int, count: int, held: bool) -> Batch:
    """Chunks of bytes from ten packages of the standard library, and which package it is.

    Held-out chunks come from the last fifth of the sources of a package.
    """
    generator = Generator().manual_seed(int(held))
    chunks, labels = [], []
    for label, name in enumerate(MODULES):
        files = sorted((library() / name).rglob("*.py"))
        text = b"".join(path.read_bytes() for path in files)
        cut = len(text) * 4 // 5
        part = torch.frombuffer(bytearray(text[cut:] if held else text[:cut]), dtype=torch.uint8)
        starts = torch.randint(len(part) - length, (count // len(MODULES), 1), generator=generator)
        chunks.append(part[starts + torch.arange(length)].long())
        labels.append(torch.full((len(starts),), label))
    return torch.cat(chunks), torch.cat(labels)
