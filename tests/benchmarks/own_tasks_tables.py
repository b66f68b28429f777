"""Tables and the like: classification, regression, clicks, recommendations, graphs, series."""

from functools import cache

import torch
from own_data import table
from own_settings import Choices, Settings
from own_task import Batch, Classifier, Data, Epochs, Regressor, Stream, Task, mlp
from probe_tasks import Regression, taught
from torch import Generator, Tensor, nn
from torch.nn import functional

__all__ = ["TABLE_TASKS"]

FIELDS = (40, 150, 600, 2_000, 12, 3_000)  # distinct values of each column of the clicks
USERS, ITEMS, LIKED = 500, 600, 40  # of the recommender; LIKED items per user
NODES, KINDS = 14, 5  # of a graph, and of its nodes
PAST, AHEAD = 36, 12  # steps of a series: seen, and to be forecast

# ---------------------------------------------------------------------- rows of numbers


def table_classifier(settings: Settings, columns: int, classes: int) -> nn.Module:
    return Classifier(mlp(columns, 64, 64, classes, dropout=settings.dropout), settings.smoothing)


def jittered(batch: Batch, generator: Generator, held: bool) -> Batch:
    """Training rows with noise on every column."""
    columns, targets = batch
    noise = 0.0 if held else 0.5
    return columns + noise * torch.randn(columns.shape, generator=generator), targets


@cache
def weak_rows() -> Data:
    """Twenty columns that explain 5% of the variance of the target."""
    generator = Generator().manual_seed(11)
    x = torch.randn(6_000, 20, generator=generator)
    signal = x[:, 0] + 0.7 * x[:, 1] * x[:, 2] + torch.sin(2 * x[:, 3]) + 0.5 * x[:, 4].abs()
    signal = (signal - signal.mean()) / signal.std()
    noise = torch.randn(len(x), generator=generator)
    y = (0.05**0.5 * signal + 0.95**0.5 * noise)[:, None]
    return Epochs((x[:4_000], y[:4_000]), (x[4_000:], y[4_000:]))


# ---------------------------------------------------------------------- clicks


@cache
def clicks() -> Data:
    """Rows of categories, rare ones rarer than frequent ones, and whether there was a click."""
    generator = Generator().manual_seed(12)
    count, width = 160_000, 4
    columns, score = [], torch.full((count,), -1.6)
    vectors = torch.zeros(count, width)
    for values in FIELDS:
        frequency = 1 / (1.0 + torch.arange(values))
        column = torch.multinomial(frequency, count, replacement=True, generator=generator)
        score += 0.25 * torch.randn(values, generator=generator)[column]
        factors = 0.4 * torch.randn(values, width, generator=generator)[column]
        score += (vectors * factors).sum(1)
        vectors += factors
        columns.append(column)
    clicked = (torch.rand(count, generator=generator) < score.sigmoid()).float()
    rows, cut = torch.stack(columns, 1), count - 8_192
    return Epochs((rows[:cut], clicked[:cut]), (rows[cut:], clicked[cut:]))


class ClickModel(nn.Module):
    """Embeddings of categories and a multilayer perceptron."""

    def __init__(self, dropout: float, width: int = 8) -> None:
        super().__init__()
        self.starts = torch.tensor((0, *FIELDS[:-1])).cumsum(0)  # of each column
        self.embed = nn.Embedding(sum(FIELDS), width)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.body = mlp(len(FIELDS) * width, 64, 32, 1, dropout=dropout)

    def forward(self, rows: Tensor, clicked: Tensor) -> Tensor:
        """Mean binary cross-entropy."""
        score = self.body(self.embed(rows + self.starts).flatten(1))[:, 0]
        return functional.binary_cross_entropy_with_logits(score, clicked)


# ---------------------------------------------------------------------- recommendations


@cache
def likes() -> Data:
    """Pairs of a user and an item that the user likes."""
    generator = Generator().manual_seed(13)
    taste, kind = (torch.randn(count, 6, generator=generator) for count in (USERS, ITEMS))
    popular = torch.randn(ITEMS, generator=generator)
    chance = (0.8 * taste @ kind.T + popular).softmax(1)
    items = torch.multinomial(chance, LIKED, generator=generator)
    users = torch.arange(USERS)[:, None].expand_as(items)
    cut = LIKED * 17 // 20
    train, held = (
        (users[:, part].flatten(), items[:, part].flatten())
        for part in (slice(cut), slice(cut, None))
    )
    return Epochs(train, held, prepare=with_another_item)


def with_another_item(batch: Batch, generator: Generator, held: bool) -> Batch:
    """The pairs, and for each an item drawn at random."""
    users, items = batch
    return users, items, torch.randint(ITEMS, items.shape, generator=generator)


class Recommender(nn.Module):
    """Matrix factorisation with Bayesian personalised ranking."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(USERS, width), nn.Embedding(ITEMS, width)
        self.popular = nn.Embedding(ITEMS, 1)
        for embedding in (self.users, self.items, self.popular):
            nn.init.normal_(embedding.weight, std=0.05)

    def forward(self, users: Tensor, liked: Tensor, other: Tensor) -> Tensor:
        """Mean of -log of the probability that the liked item ranks first."""
        taste = self.users(users)
        margin = (taste * (self.items(liked) - self.items(other))).sum(1)
        margin = margin + (self.popular(liked) - self.popular(other))[:, 0]
        return -functional.logsigmoid(margin).mean()


# ---------------------------------------------------------------------- graphs


@cache
def graphs() -> Data:
    """Kinds of nodes, edges, and a property of the graph that depends on edges and triangles."""
    generator = Generator().manual_seed(14)
    count = 3_500
    kinds = torch.randint(KINDS, (count, NODES), generator=generator)
    upper = (torch.rand(count, NODES, NODES, generator=generator) < 0.25).float().triu(1)
    edges = upper + upper.transpose(1, 2)
    one_hot = functional.one_hot(kinds, KINDS).float()
    bonds = one_hot.transpose(1, 2) @ edges @ one_hot
    strength = torch.randn(KINDS, KINDS, generator=generator)
    triangles = torch.diagonal(edges @ edges @ edges, dim1=1, dim2=2) @ torch.ones(NODES)
    value = (bonds * strength).sum((1, 2)) + 0.5 * triangles
    value = (value - value.mean()) / value.std()
    value = (value + 0.15 * torch.randn(count, generator=generator))[:, None]
    parts = (kinds, edges, value)
    return Epochs(tuple(part[:3_000] for part in parts), tuple(part[3_000:] for part in parts))


class GraphNetwork(nn.Module):
    """Three rounds of messages between neighbours, summed over the nodes."""

    def __init__(self, dropout: float, width: int = 40) -> None:
        super().__init__()
        self.embed = nn.Embedding(KINDS, width)
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.messages = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.head = mlp(width, width, 1, dropout=dropout)

    def forward(self, kinds: Tensor, edges: Tensor, value: Tensor) -> Tensor:
        """Mean squared error of the property."""
        hidden = self.embed(kinds)
        for own, message, norm in zip(self.own, self.messages, self.norms, strict=True):
            received = edges @ message(hidden)
            hidden = hidden + functional.relu(norm(own(hidden) + received))
        return functional.mse_loss(self.head(hidden.sum(1) / NODES**0.5), value)


# ---------------------------------------------------------------------- series


@cache
def series() -> Tensor:
    """Seasonal series with trends and correlated noise, standardised, (120, 480)."""
    generator = Generator().manual_seed(15)
    count, length = 120, 480
    time = torch.arange(length)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator)

    daily = uniform(0.5, 1.5) * torch.sin(2 * torch.pi * (time / 12 + uniform(0, 1)))
    weekly = uniform(0.2, 1.0) * torch.sin(2 * torch.pi * (time / uniform(24, 40) + uniform(0, 1)))
    noise = torch.zeros(count, length)
    shocks = 0.35 * torch.randn(count, length, generator=generator)
    for step in range(1, length):
        noise[:, step] = 0.8 * noise[:, step - 1] + shocks[:, step]
    value = daily * (1 + 0.3 * weekly) + weekly + uniform(-1, 1) * time / length + noise
    return (value - value.mean(1, keepdim=True)) / value.std(1, keepdim=True)


def stretches(size: int, generator: Generator, held: bool) -> Batch:
    """Past and future values; the last fifth of each series is held out."""
    length = series().shape[1]
    cut = length * 4 // 5
    first, last = (cut, length) if held else (0, cut)
    which = torch.randint(len(series()), (size, 1), generator=generator)
    start = torch.randint(first, last - PAST - AHEAD + 1, (size, 1), generator=generator)
    window = series()[which, start + torch.arange(PAST + AHEAD)]
    return window[:, :PAST], window[:, PAST:]


class SeriesModel(nn.Module):
    """A GRU over the past values."""

    def __init__(self, dropout: float, width: int = 48) -> None:
        super().__init__()
        self.gru = nn.GRU(1, width, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, AHEAD))

    def forward(self, past: Tensor, future: Tensor) -> Tensor:
        """Mean squared error of the future values."""
        _, state = self.gru(past[:, :, None])
        return functional.mse_loss(past[:, -1:] + self.head(state[0]), future)


TABLE_TASKS = {
    "cancer table": Task(
        "multilayer perceptron, tabular classification",
        "scikit-learn breast cancer",
        lambda settings: table_classifier(settings, 30, 2),
        lambda: Epochs(*table("breast_cancer")),
        Choices(
            steps=(600, 2_400),
            adam=5e-4,
            sgd=0.01,
            batch=(8, 16),
            dropout=(0.0, 0.2, 0.4),
            smoothing=(0.0, 0.0, 0.05),
            muon=True,
        ),
        runs=14,
    ),
    "wine table": Task(
        "multilayer perceptron, tabular classification",
        "scikit-learn wine, with noise on its columns",
        lambda settings: table_classifier(settings, 13, 3),
        lambda: Epochs(*table("wine"), prepare=jittered),
        Choices(
            steps=(600, 1_800),
            adam=1e-3,
            sgd=0.01,
            batch=(4, 8),
            dropout=(0.0, 0.2),
            smoothing=(0.0, 0.0, 0.05),
            muon=True,
        ),
        runs=14,
    ),
    "diabetes table": Task(
        "multilayer perceptron, tabular regression",
        "scikit-learn diabetes",
        lambda settings: Regressor(mlp(10, 64, 64, 1, dropout=settings.dropout)),
        lambda: Epochs(*table("diabetes")),
        Choices(
            steps=(600, 2_400),
            adam=5e-4,
            sgd=5e-3,
            batch=(8, 16),
            dropout=(0.0, 0.2, 0.4),
            muon=True,
        ),
        runs=14,
    ),
    "weak regression": Task(
        "multilayer perceptron, tabular regression",
        "synthetic rows, 5% of the variance explained",
        lambda settings: Regressor(mlp(20, 64, 1, dropout=settings.dropout)),
        weak_rows,
        Choices(
            steps=(600, 4_000), adam=5e-4, sgd=5e-3, batch=(32, 64), dropout=(0.0, 0.2), muon=True
        ),
        runs=14,
    ),
    "taught regression": Task(
        "multilayer perceptron, regression",
        "noisy outputs of another network",
        lambda settings: Regression(),
        lambda: Stream(taught, held_batches=4),
        Choices(steps=(1_000, 6_000), adam=2e-3, sgd=0.03, batch=(32, 64), muon=True),
        runs=14,
    ),
    "clicks": Task(
        "embeddings and multilayer perceptron, click prediction",
        "synthetic categories and clicks",
        lambda settings: ClickModel(settings.dropout),
        clicks,
        Choices(steps=(1_000, 4_000), adam=1e-3, sgd=0.1, batch=(64, 128), dropout=(0.0, 0.1)),
        runs=14,
    ),
    "recommender": Task(
        "matrix factorisation, recommendation",
        "synthetic users and items",
        lambda settings: Recommender(),
        likes,
        Choices(steps=(800, 4_000), adam=3e-3, sgd=5.0, batch=(128, 256)),
        runs=14,
    ),
    "graphs": Task(
        "graph network, regression",
        "synthetic graphs",
        lambda settings: GraphNetwork(settings.dropout),
        graphs,
        Choices(
            steps=(800, 2_500), adam=2e-3, sgd=0.01, batch=(32, 64), dropout=(0.0, 0.1), muon=True
        ),
        clip=5.0,
    ),
    "series": Task(
        "GRU, forecasting of time series",
        "synthetic seasonal series",
        lambda settings: SeriesModel(settings.dropout),
        lambda: Stream(stretches, held_batches=1),
        Choices(steps=(600, 1_400), adam=2e-3, sgd=0.05, batch=(8, 12), dropout=(0.0, 0.1)),
        clip=1.0,
    ),
}
