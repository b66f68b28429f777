"""Small models of many kinds: language models, and others that look like one."""

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 2_100  # of the vocabularies
WIDTH = 16


class LanguageModel(nn.Module):
    """A decoder-only transformer, with learned positions and an output layer, tied or not."""

    def __init__(
        self,
        rows: int = ROWS,
        *,
        tied: bool = False,
        layers: int = 3,
        positions: int = 64,
        width: int = WIDTH,
        hidden: int = 4 * WIDTH,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(rows, width)
        self.positions = nn.Embedding(positions, width)
        self.blocks = nn.Sequential(
            *[
                nn.TransformerEncoderLayer(width, 2, hidden, dropout=0.0, batch_first=True)
                for _ in range(layers)
            ]
        )
        self.output = nn.Linear(width, rows, bias=False)
        if tied:
            self.output.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean loss of the next tokens of sequences, (n, length)."""
        inputs = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        hidden = inputs
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask, is_causal=True)
        scores = self.output(hidden[:, :-1])
        return nn.functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())


class RecurrentLanguageModel(nn.Module):
    """With an `encoder` that is an embedding and a `decoder` that is its output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(ROWS, WIDTH)
        self.body = nn.LSTM(WIDTH, WIDTH, num_layers=2)
        self.decoder = nn.Linear(WIDTH, ROWS)


class Recommender(nn.Module):
    """As many users as items, and a small network that rates the two."""

    def __init__(self, layers: int = 3, users: int = ROWS) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, WIDTH), nn.Embedding(ROWS, WIDTH)
        self.score = nn.Sequential(
            nn.Linear(2 * WIDTH, WIDTH),
            *[nn.Linear(WIDTH, WIDTH) for _ in range(layers)],
            nn.Linear(WIDTH, 1),
        )


class NextItem(nn.Module):
    """Recommends items to users, by an output layer over all items."""

    def __init__(self, users: int = 3 * ROWS) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, WIDTH), nn.Embedding(ROWS, WIDTH)
        self.output = nn.Linear(WIDTH, ROWS)


class ManyClasses(nn.Module):
    """A classifier of thousands of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(4)])
        self.output = nn.Linear(WIDTH, ROWS)


class TextClassifier(nn.Module):
    """Few classes of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(ROWS, WIDTH)
        self.body, self.output = nn.LSTM(WIDTH, WIDTH), nn.Linear(WIDTH, 4)


class ManyPositions(nn.Module):
    """A transformer with as many positions as hidden units in its blocks, and no vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(ROWS, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, ROWS)


class Translator(nn.Module):
    """A transformer with an encoder and a decoder, each with a vocabulary of its own."""

    def __init__(self, source: int = 2_500) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(source, WIDTH), nn.Embedding(ROWS, WIDTH)
        self.body = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, 2, 4 * WIDTH) for _ in range(3))
        self.output = nn.Linear(WIDTH, ROWS)


class SharedTranslator(nn.Module):
    """An encoder and a decoder of `torch.nn` with one vocabulary."""

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.tokens = nn.Embedding(ROWS, WIDTH)
        self.body = nn.Transformer(WIDTH, 2, layers, layers, 4 * WIDTH, batch_first=True)
        self.output = nn.Linear(WIDTH, ROWS)


class RecurrentTranslator(nn.Module):
    """An encoder and a decoder, named so, with one vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(ROWS, WIDTH)
        self.encoder, self.decoder = nn.GRU(WIDTH, WIDTH), nn.GRU(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, ROWS)


class Captioner(nn.Module):
    """Describes images."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, WIDTH, 3)
        self.tokens = nn.Embedding(ROWS, WIDTH)
        self.body = nn.LSTM(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, ROWS)


class StateSpaceModel(nn.Module):
    """A language model that convolves each channel by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(ROWS, WIDTH)
        self.body = nn.Conv1d(WIDTH, WIDTH, 4, groups=WIDTH)
        self.output = nn.Linear(WIDTH, ROWS)


class VisionTransformer(nn.Module):
    """Its blocks have matrices of thousands of rows, and it has two of them."""

    def __init__(self, blocks: int = 2, hidden: int = 2_048) -> None:
        super().__init__()
        self.patches = nn.Linear(48, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, hidden) for _ in range(blocks)
        )
        self.output = nn.Linear(WIDTH, 10)


class Fused(nn.Module):
    """Two blocks whose longest matrices have no counterpart: gates and values in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(2):
            self.layers.append(nn.Linear(WIDTH, 2 * ROWS, bias=False))
            self.layers.append(nn.Linear(ROWS, WIDTH, bias=False))
            self.layers.extend(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))


class OneRecurrentLayer(nn.Module):
    """The two matrices of an LSTM layer are equal, and of thousands of rows."""

    def __init__(self) -> None:
        super().__init__()
        width = ROWS // 4
        self.body = nn.LSTM(width, width)
        self.others = nn.Sequential(*[nn.Linear(width, width) for _ in range(4)])


class Refusing(nn.Module):
    """Whatever is asked of it, it raises an error."""

    def parameters(self, recurse: bool = True) -> Any:
        raise RuntimeError("not now")

    def named_modules(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("not now")


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with weight decay for matrices only, in two groups."""
    weights = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in weights if weight.dim() > 1]},
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=1e-3)
