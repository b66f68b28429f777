"""Text tasks: language models from scratch and fine-tuned, classification, translation."""

import copy
from functools import cache, partial

import torch
from own_data import LETTERS, MODULES, letters, module_chunks, prose
from own_settings import Choices, Settings
from own_task import Batch, Classifier, Data, Epochs, Stream, Task, mlp, pretrained
from probe_tasks import GPT, Recurrent, text, windows
from torch import Generator, Tensor, nn
from torch.nn import functional

__all__ = ["TEXT_TASKS"]

LENGTH = 48  # bytes of a window, as in probe_tasks
HELD_WINDOWS = 64
MASK = 0  # a byte that no text has
MASKED_SHARE = 0.15
IGNORED = -100  # target that cross_entropy leaves out
CHUNK = 64  # bytes whose package is to be found
GPT_STEPS = 1_200  # of pretraining

# ---------------------------------------------------------------------- language models


def pieces(tokens: Tensor, length: int) -> Batch:
    """A text cut into examples without overlap: inputs and next tokens, each (n, length)."""
    count = (len(tokens) - 1) // length
    inputs = tokens[: count * length].view(count, length).long()
    targets = tokens[1 : count * length + 1].view(count, length).long()
    return inputs, targets


def prose_pieces(bytes_of_training: int) -> Data:
    """The first bytes of a text in English, and some of its end as held-out data."""
    return Epochs(pieces(prose()[:bytes_of_training], LENGTH), pieces(prose()[-5_000:], LENGTH))


@cache
def letter_pieces() -> Data:
    cut, length = 160_000, 40
    return Epochs(pieces(letters()[:cut], length), pieces(letters()[-6_000:], length))


class LetterModel(nn.Module):
    """An LSTM over letters."""

    def __init__(self, dropout: float, width: int = 80) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(len(LETTERS), 32), nn.Linear(width, len(LETTERS))
        self.lstm, self.dropout = nn.LSTM(32, width, batch_first=True), nn.Dropout(dropout)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the next letter."""
        hidden, _ = self.lstm(self.embed(tokens))
        logits = self.head(self.dropout(hidden))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def masked_windows(size: int, generator: Generator, held: bool) -> Batch:
    """Bytes with some of them masked, and those as targets."""
    tokens, _ = windows(size, generator, held)
    masked = torch.rand(tokens.shape, generator=generator) < MASKED_SHARE
    return torch.where(masked, MASK, tokens), torch.where(masked, tokens, IGNORED)


class MaskedModel(nn.Module):
    """A transformer that sees both sides of a masked byte."""

    def __init__(self, dropout: float, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(
            width, 2, 4 * width, dropout, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 256))
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the masked bytes."""
        logits = self.head(self.body(self.embed(tokens) + self.place))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


# ---------------------------------------------------------------------- fine-tuning


@cache
def code_model() -> nn.Module:
    """A GPT trained on Python code."""
    build = partial(GPT, 96, 2, 3, LENGTH)
    return pretrained(build, Stream(windows), steps=GPT_STEPS, batch=16, rate=3e-3)


def tuned_model(settings: Settings) -> nn.Module:
    return copy.deepcopy(code_model())


def late_code(held: bool) -> Tensor:
    """That tenth of the code which the model was not trained on; its last fifth is held out."""
    part = text()[text().numel() * 9 // 10 :]
    cut = len(part) * 4 // 5
    return part[cut:] if held else part[:cut]


@cache
def late_pieces() -> Data:
    return Epochs(
        pieces(late_code(False)[:20_000], LENGTH), pieces(late_code(True)[-5_000:], LENGTH)
    )


def late_windows(size: int, generator: Generator, held: bool) -> Batch:
    part = late_code(held)
    starts = torch.randint(len(part) - LENGTH - 1, (size, 1), generator=generator)
    window = part[starts + torch.arange(LENGTH + 1)].long()
    return window[:, :-1], window[:, 1:]


# ---------------------------------------------------------------------- classification


class ChunkClassifier(nn.Module):
    """Convolutions over bytes, and the largest answer of each."""

    def __init__(self, dropout: float, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 24)
        self.first, self.second = nn.Conv1d(24, width, 5), nn.Conv1d(width, width, 5)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, len(MODULES)))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = functional.relu(self.first(self.embed(tokens).transpose(1, 2)))
        answers: Tensor = self.head(functional.relu(self.second(hidden)).amax(2))
        return answers


@cache
def chunks() -> Data:
    return Epochs(module_chunks(CHUNK, 4_000, False), module_chunks(CHUNK, 500, True))


# ---------------------------------------------------------------------- numbers in words

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
ONES += "fifteen sixteen seventeen eighteen nineteen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
FIGURES, LONGEST = 4, 44  # figures of a number, and letters of its words


def in_words(number: int) -> str:
    """English words of a number below 10,000."""
    ones, tens = ONES.split(), TENS.split()
    if number < 20:
        return ones[number]
    if number < 100:
        rest = f" {ones[number % 10]}" if number % 10 else ""
        return tens[number // 10 - 2] + rest
    unit, name = (1_000, "thousand") if number >= 1_000 else (100, "hundred")
    rest = f" {in_words(number % unit)}" if number % unit else ""
    return f"{ones[number // unit]} {name}{rest}"


@cache
def numbers() -> Data:
    """Letters of the words, with some mistakes, and the figures of all numbers below 10,000."""
    count = 10**FIGURES
    padded = [in_words(number).ljust(LONGEST)[:LONGEST] for number in range(count)]
    words = torch.tensor([[LETTERS.index(letter) for letter in line] for line in padded])
    figures = torch.tensor(
        [[int(figure) for figure in f"{number:0{FIGURES}}"] for number in range(count)]
    )
    order = torch.randperm(count, generator=Generator().manual_seed(8))
    train, held = order[512:], order[:512]
    return Epochs((words[train], figures[train]), (words[held], figures[held]), prepare=misspelt)


def misspelt(batch: Batch, generator: Generator, held: bool) -> Batch:
    words, figures = batch
    wrong = torch.rand(words.shape, generator=generator) < 0.03
    other = torch.randint(1, 27, words.shape, generator=generator)
    return torch.where(wrong & (words > 0), other, words), figures


class Translator(nn.Module):
    """A recurrent encoder and a recurrent decoder with attention."""

    def __init__(self, dropout: float, width: int = 48) -> None:
        super().__init__()
        self.letters, self.figures = nn.Embedding(len(LETTERS), 24), nn.Embedding(11, 24)
        self.encoder = nn.GRU(24, width, batch_first=True)
        self.decoder = nn.GRU(24, width, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(dropout), mlp(2 * width, width, 10))

    def forward(self, words: Tensor, figures: Tensor) -> Tensor:
        """Mean cross-entropy of a figure, given the words and the figures before it."""
        read, state = self.encoder(self.letters(words))
        before = functional.pad(figures[:, :-1], (1, 0), value=10)
        asked, _ = self.decoder(self.figures(before), state)
        weights = (asked @ read.transpose(1, 2) / read.shape[2] ** 0.5).softmax(2)
        logits = self.head(torch.cat([asked, weights @ read], 2))
        return functional.cross_entropy(logits.flatten(0, 1), figures.flatten())


TEXT_TASKS = {
    "bytes gru": Task(
        "GRU, language model",
        "sources of Python's standard library",
        lambda settings: Recurrent(),
        lambda: Stream(windows, 1, HELD_WINDOWS),
        Choices(steps=(600, 1_100), adam=3e-3, sgd=0.5, batch=(4,)),
        clip=1.0,
        language_model="causal",
    ),
    "letters lstm": Task(
        "LSTM, language model",
        "letters of Python's language reference",
        lambda settings: LetterModel(settings.dropout),
        letter_pieces,
        Choices(steps=(600, 1_500), adam=4e-3, sgd=0.7, batch=(12, 16), dropout=(0.0, 0.1, 0.3)),
        clip=1.0,
        language_model="causal",
    ),
    "bytes gpt": Task(
        "GPT, language model",
        "sources of Python's standard library",
        lambda settings: GPT(64, 2, 2, LENGTH),
        lambda: Stream(windows, 1, HELD_WINDOWS),
        Choices(steps=(600, 1_300), adam=3e-3, sgd=0.2, batch=(4, 6, 8), muon=True),
        clip=1.0,
        language_model="causal",
    ),
    "bytes masked": Task(
        "transformer, masked language model",
        "sources of Python's standard library",
        lambda settings: MaskedModel(settings.dropout),
        lambda: Stream(masked_windows, 1, HELD_WINDOWS),
        Choices(
            steps=(700, 1_500), adam=1.5e-3, sgd=0.2, batch=(6, 8), dropout=(0.0, 0.1), muon=True
        ),
        clip=1.0,
        language_model="masked",
    ),
    "prose overfitting": Task(
        "GPT, language model on little text",
        "24 kB of Python's language reference",
        lambda settings: GPT(64, 2, 2, LENGTH),
        lambda: prose_pieces(24_000),
        Choices(steps=(600, 1_100), adam=2e-3, sgd=0.15, batch=(4, 6), muon=True),
        clip=1.0,
        language_model="causal",
    ),
    "prose finetune": Task(
        "GPT pretrained on code, fine-tuned",
        "20 kB of Python's language reference",
        tuned_model,
        lambda: prose_pieces(20_000),
        Choices(steps=(600, 900), adam=1e-3, sgd=0.1, batch=(4,), weight_decay=(0.0, 0.01)),
        clip=1.0,
        language_model="causal",
    ),
    "code finetune": Task(
        "GPT pretrained on code, fine-tuned",
        "20 kB of other sources of Python's standard library",
        tuned_model,
        late_pieces,
        Choices(steps=(600, 900), adam=3e-3, sgd=0.2, batch=(4,), weight_decay=(0.0, 0.01)),
        clip=1.0,
        language_model="causal",
    ),
    "code low-rate finetune": Task(
        "GPT pretrained on code, fine-tuned at a low rate",
        "other sources of Python's standard library",
        tuned_model,
        lambda: Stream(late_windows, 1, HELD_WINDOWS),
        Choices(steps=(600, 900), adam=3e-6, sgd=3e-4, batch=(4, 6), weight_decay=(0.0, 0.01)),
        clip=1.0,
        language_model="causal",
    ),
    "module chunks": Task(
        "convolutional network, text classification",
        "ten packages of Python's standard library",
        lambda settings: Classifier(ChunkClassifier(settings.dropout), settings.smoothing),
        chunks,
        Choices(
            steps=(600, 2_000),
            adam=1.5e-3,
            sgd=0.1,
            batch=(16,),
            dropout=(0.0, 0.3, 0.5),
            smoothing=(0.0, 0.0, 0.1),
        ),
    ),
    "number words": Task(
        "GRU with attention, translation",
        "numbers in words and figures, with misspellings",
        lambda settings: Translator(settings.dropout),
        numbers,
        Choices(steps=(600, 1_200), adam=3e-3, sgd=0.3, batch=(8, 12), dropout=(0.0, 0.1)),
        clip=1.0,
    ),
}
