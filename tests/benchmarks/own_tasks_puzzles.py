"""Tasks with a plateau and a fall: modular addition, recall, parity, tones in order."""

from functools import cache

import torch
from own_settings import Choices
from own_task import Batch, Classifier, Data, Epochs, Stream, Task, mlp
from probe_tasks import GPT
from torch import Generator, Tensor, nn
from torch.nn import functional

__all__ = ["PUZZLE_TASKS"]

MODULUS = 53
PAIRS, SYMBOLS = 6, 12  # pairs of symbols to be recalled, and the number of symbols
BITS, RELEVANT = 20, 3  # of a parity
WRONG_PARITIES = 0.03  # share of them
TONES, BANDS, FRAMES = 8, 16, 48  # of the recordings of tones
IGNORED = -100  # target that cross_entropy leaves out

# ---------------------------------------------------------------------- modular addition


@cache
def sums() -> Data:
    """All pairs of numbers below the modulus and their sums; half of the pairs are held out."""
    pairs = torch.cartesian_prod(torch.arange(MODULUS), torch.arange(MODULUS))
    pairs = pairs[torch.randperm(len(pairs), generator=Generator().manual_seed(21))]
    total, cut = pairs.sum(1) % MODULUS, len(pairs) // 2
    return Epochs((pairs[:cut], total[:cut]), (pairs[cut:], total[cut:]))


class PairClassifier(nn.Module):
    """A common embedding of both numbers and a hidden layer."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(MODULUS, width), mlp(width, 256, MODULUS)

    def forward(self, pairs: Tensor) -> Tensor:
        logits: Tensor = self.body(self.embed(pairs).sum(1))
        return logits


# ---------------------------------------------------------------------- recall and parity


def pairs_twice(size: int, generator: Generator, held: bool) -> Batch:
    """Pairs of a key and a value, then the keys in another order; their values are the targets."""
    keys = torch.rand(size, SYMBOLS, generator=generator).argsort(1)[:, :PAIRS]
    values = torch.randint(SYMBOLS, (size, PAIRS), generator=generator) + SYMBOLS
    order = torch.rand(size, PAIRS, generator=generator).argsort(1)
    asked = torch.stack([keys.gather(1, order), values.gather(1, order)], 2).flatten(1)
    line = torch.cat([torch.stack([keys, values], 2).flatten(1), asked], 1)
    targets = torch.full_like(line[:, 1:], IGNORED)
    targets[:, 2 * PAIRS :: 2] = asked[:, 1::2]
    return line[:, :-1], targets


def parities(size: int, generator: Generator, held: bool) -> Batch:
    """Random signs, and whether the product of three of them is positive, seldom wrong."""
    signs = torch.randint(2, (size, BITS), generator=generator) * 2.0 - 1
    wrong = torch.rand(size, generator=generator) < WRONG_PARITIES
    return signs, ((signs[:, :RELEVANT].prod(1) > 0) ^ wrong).long()


# ---------------------------------------------------------------------- tones


@cache
def recordings() -> Data:
    """Bands of frequencies of tones in a row, and which tones; when is not said."""
    generator = Generator().manual_seed(22)
    shape = torch.randn(TONES, BANDS, generator=generator).relu()
    train, held = (draw_recordings(shape, count, generator) for count in (3_000, 256))
    return Epochs(train, held, prepare=noisy)


def draw_recordings(shape: Tensor, count: int, generator: Generator) -> Batch:
    lengths = torch.randint(3, 7, (count,), generator=generator)
    tones = torch.randint(1, TONES + 1, (count, 6), generator=generator)
    sound = torch.zeros(count, FRAMES, BANDS)
    for number in range(count):
        place = int(torch.randint(4, (), generator=generator))
        for tone in tones[number, : int(lengths[number])].tolist():
            duration = int(torch.randint(3, 8, (), generator=generator))
            sound[number, place : place + duration] = shape[tone - 1]
            place += duration + int(torch.randint(2, generator=generator, size=()))
    return sound, tones, lengths


def noisy(batch: Batch, generator: Generator, held: bool) -> Batch:
    sound, tones, lengths = batch
    loudness = 0.5 + torch.rand(len(sound), 1, 1, generator=generator)
    noise = 0.6 * torch.randn(sound.shape, generator=generator)
    return loudness * sound + noise, tones, lengths


class Recognizer(nn.Module):
    """A convolution and a GRU, trained by connectionist temporal classification."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(BANDS, width, 5, 2, 2)
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, TONES + 1)

    def forward(self, sound: Tensor, tones: Tensor, lengths: Tensor) -> Tensor:
        """Mean negative log-likelihood of the tones, per tone."""
        hidden = functional.relu(self.convolution(sound.transpose(1, 2))).transpose(1, 2)
        hidden, _ = self.gru(hidden)
        scores = self.head(hidden).log_softmax(2).transpose(0, 1)
        frames = torch.full_like(lengths, len(scores))
        return functional.ctc_loss(scores, tones, frames, lengths)


PUZZLE_TASKS = {
    "modular addition": Task(
        "embedding and multilayer perceptron, modular addition",
        f"pairs of numbers below {MODULUS}",
        lambda settings: Classifier(PairClassifier()),
        sums,
        Choices(
            steps=(1_500, 5_000),
            adam=3e-3,
            batch=(64, 128),
            weight_decay=(0.1, 0.3, 1.0),
            muon=True,
        ),
        runs=14,
    ),
    "recall": Task(
        "GPT, recall of pairs",
        f"sequences of {PAIRS} random pairs, twice",
        lambda settings: GPT(48, 2, 2, 4 * PAIRS),
        lambda: Stream(pairs_twice, held_batches=1),
        Choices(steps=(700, 1_500), adam=2e-3, sgd=0.1, batch=(12, 16), muon=True),
        clip=1.0,
    ),
    "sparse parity": Task(
        "multilayer perceptron, sparse parity",
        f"parity of {RELEVANT} of {BITS} random bits",
        lambda settings: Classifier(mlp(BITS, 128, 2)),
        lambda: Stream(parities, held_batches=1, held_size=1_024),
        Choices(
            steps=(1_000, 6_000),
            adam=1e-3,
            sgd=0.1,
            batch=(32, 64),
            weight_decay=(0.0, 0.01, 0.1),
            muon=True,
        ),
        runs=14,
    ),
    "tones": Task(
        "convolution and GRU, speech recognition (CTC)",
        "synthetic tones in a row",
        lambda settings: Recognizer(),
        recordings,
        Choices(steps=(600, 1_200), adam=2e-3, batch=(12, 16)),
        clip=5.0,
    ),
}
