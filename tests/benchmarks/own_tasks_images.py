"""Image tasks: classification, segmentation, detection, distillation, fine-tuning."""

import copy
from functools import cache, partial

import torch
from own_data import digits
from own_settings import Choices, Settings
from own_task import Batch, Classifier, Data, Epochs, Stream, Task, mlp, pretrained
from probe_tasks import KINDS, Convolutional, Patches, labelled
from torch import Generator, Tensor, nn
from torch.nn import functional

__all__ = ["IMAGE_TASKS"]

CANVAS, DIGIT = 16, 8  # sides of an image with one digit somewhere, and of the digit
SCENE = 24  # side of an image with two shapes
SHAPES = 3  # classes of its pixels: background, ellipse, rectangle
DIGIT_SHARE = 0.7  # of the images for detection
SMOOTHING = (0.0, 0.0, 0.1)

# ---------------------------------------------------------------------- digits


def digit_data() -> Data:
    return Epochs(*digits())


def shifted(batch: Batch, generator: Generator, held: bool) -> Batch:
    """Training images moved by up to one pixel, all images of a batch alike."""
    if held:
        return batch
    images, labels = batch
    down, right = torch.randint(3, (2,), generator=generator).tolist()
    padded = functional.pad(images, (1, 1, 1, 1))
    return padded[:, :, down : down + DIGIT, right : right + DIGIT], labels


def shifted_digit_data() -> Data:
    return Epochs(*digits(), prepare=shifted)


def digit_mlp(settings: Settings) -> nn.Module:
    layers = mlp(DIGIT**2, 128, 64, KINDS, dropout=settings.dropout)
    return Classifier(nn.Sequential(nn.Flatten(), layers), settings.smoothing)


class Residual(nn.Module):
    """Two convolutions with BatchNorm and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Conv2d(before, after, 1, stride)

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(self.body(images) + self.shortcut(images))


def residual_network(classes: int, smoothing: float = 0.0) -> Classifier:
    stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    blocks = nn.Sequential(Residual(16, 16, 1), Residual(16, 32, 2))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))
    return Classifier(nn.Sequential(stem, blocks, head), smoothing)


# ---------------------------------------------------------------------- fine-tuning a network


def of_classes(classes: range, count: int | None = None) -> Data:
    """The first digits of some classes, labelled from 0."""

    def chosen(batch: Batch, most: int | None) -> Batch:
        images, labels = batch
        kept = (labels >= classes.start) & (labels < classes.stop)
        return images[kept][:most], labels[kept][:most] - classes.start

    train, held = digits()
    return Epochs(chosen(train, count), chosen(held, None))


@cache
def low_digit_network() -> nn.Module:
    """A residual network that tells the digits 0 to 4 apart."""
    return pretrained(
        partial(residual_network, 5), of_classes(range(5)), steps=300, batch=32, rate=3e-3
    )


def tuned_network(settings: Settings) -> nn.Module:
    """The same network with a new head, for five other classes."""
    network = copy.deepcopy(low_digit_network())
    assert isinstance(network, Classifier)
    network.smoothing = settings.smoothing
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    network.body[2] = head  # type: ignore[operator]
    return network


# ---------------------------------------------------------------------- distillation


def mixed(batch: Batch, generator: Generator, held: bool) -> Batch:
    """Digits mixed with each other, and noise: inputs on which a teacher is unsure."""
    images = batch[0].flatten(1)
    share = 0.5 * torch.rand(len(images), 1, generator=generator)
    noise = 0.2 * torch.randn(images.shape, generator=generator)
    return (images + share * (images.roll(1, 0) - images) + noise,)


class Student(nn.Module):
    """A small network that learns the class probabilities of a large one."""

    def __init__(self, temperature: float = 3.0) -> None:
        super().__init__()
        self.temperature, self.body = temperature, mlp(DIGIT**2, 48, 48, KINDS)

    def forward(self, images: Tensor) -> Tensor:
        """Mean Kullback-Leibler divergence from the teacher's softened probabilities."""
        taught = (digit_teacher()(images) / self.temperature).log_softmax(1)
        learned = (self.body(images) / self.temperature).log_softmax(1)
        divergence = functional.kl_div(learned, taught, reduction="batchmean", log_target=True)
        return self.temperature**2 * divergence


@cache
def digit_teacher() -> nn.Module:
    def build() -> nn.Module:
        return Classifier(nn.Sequential(nn.Flatten(), mlp(DIGIT**2, 256, 256, KINDS)))

    model = pretrained(build, digit_data(), steps=500, batch=64, rate=1e-3)
    assert isinstance(model, Classifier)
    return model.body.requires_grad_(False)


# ---------------------------------------------------------------------- synthetic pictures


@cache
def pictures_of(count: int, wrong: float) -> Data:
    """Noisy patterns in ten classes; a share of the training labels is wrong."""
    generator = Generator().manual_seed(5)
    train, held = (labelled(size, generator, False) for size in (count, 512))
    mistaken = torch.rand(count, generator=generator) < wrong
    labels = torch.where(mistaken, train[1].roll(1), train[1])
    return Epochs((train[0], labels), held)


def convolutional(settings: Settings, batch_norm: bool) -> nn.Module:
    layers = Convolutional(KINDS, batch_norm=batch_norm)
    dropout = nn.Dropout(settings.dropout)
    return Classifier(nn.Sequential(layers.body, dropout, layers.head), settings.smoothing)


def vision_transformer(settings: Settings) -> nn.Module:
    """The transformer over patches of `probe_tasks`, with the dropout drawn."""
    model = Patches()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = settings.dropout
    return model


# ---------------------------------------------------------------------- segmentation


@cache
def scenes() -> Data:
    """Noisy images of an ellipse and a rectangle, and the class of every pixel."""
    generator = Generator().manual_seed(6)
    return Epochs(draw_scenes(1_500, generator), draw_scenes(96, generator), prepare=flipped)


def draw_scenes(count: int, generator: Generator) -> Batch:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    rows, columns = torch.arange(SCENE)[:, None], torch.arange(SCENE)
    place = [(uniform(5, 19), uniform(5, 19), uniform(3, 7), uniform(3, 7)) for _ in range(2)]
    (a, b, c, d), (e, f, g, h) = place
    ellipse = ((rows - a) / c) ** 2 + ((columns - b) / d) ** 2 < 1
    rectangle = ((rows - e).abs() < 0.8 * g) & ((columns - f).abs() < 0.8 * h)
    classes = torch.where(rectangle, 2, torch.where(ellipse, 1, 0))
    shade = torch.cat([uniform(-0.5, 0.5), uniform(0.2, 1.2), uniform(-1.2, 1.2)], 2)[:, 0]
    image = shade.gather(1, classes.flatten(1)).view(count, SCENE, SCENE)
    image = image + 0.1 * uniform(0, 1) * columns / SCENE
    image = image + 0.5 * torch.randn(image.shape, generator=generator)
    return image[:, None], classes


def flipped(batch: Batch, generator: Generator, held: bool) -> Batch:
    if held or torch.rand((), generator=generator) < 0.5:
        return batch
    return tuple(part.flip(-1) for part in batch)


class Segmenter(nn.Module):
    """A U-Net with two levels below the image."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()

        def convolutions(before: int, after: int) -> nn.Module:
            layers: list[nn.Module] = []
            for channels in (before, after):
                layers += [nn.Conv2d(channels, after, 3, padding=1), nn.BatchNorm2d(after)]
                layers.append(nn.ReLU())
            return nn.Sequential(*layers)

        self.top, self.middle = convolutions(1, width), convolutions(width, 2 * width)
        self.bottom = convolutions(2 * width, 4 * width)
        self.up_middle = convolutions(6 * width, 2 * width)
        self.up_top = convolutions(3 * width, width)
        self.head = nn.Conv2d(width, SHAPES, 1)

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        """Mean cross-entropy of the pixels."""
        top = self.top(images)
        middle = self.middle(functional.max_pool2d(top, 2))
        bottom = self.bottom(functional.max_pool2d(middle, 2))
        wide = functional.interpolate(bottom, scale_factor=2.0)
        wide = self.up_middle(torch.cat([wide, middle], 1))
        wide = functional.interpolate(wide, scale_factor=2.0)
        return functional.cross_entropy(self.head(self.up_top(torch.cat([wide, top], 1))), classes)


# ---------------------------------------------------------------------- detection


def hidden_digits(size: int, generator: Generator, held: bool) -> Batch:
    """Images with at most one digit among noise: whether there is one, which, and its centre."""
    images, labels = digits()[int(held)]
    chosen = torch.randint(len(labels), (size,), generator=generator)
    corner = torch.randint(CANVAS - DIGIT + 1, (2, size), generator=generator)
    present = torch.rand(size, generator=generator) < DIGIT_SHARE
    canvas = 0.15 * torch.randn(size, CANVAS, CANVAS, generator=generator)
    top, left = (each[:, None] + torch.arange(DIGIT) for each in corner)
    where = (torch.arange(size)[:, None, None], top[:, :, None], left[:, None, :])
    canvas[where] += present[:, None, None] * images[chosen, 0]
    centre = corner.T / (CANVAS - DIGIT)
    return canvas[:, None], present.float(), labels[chosen], centre


class Detector(nn.Module):
    """A network that says whether there is a digit, where and which."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in ((1, 12, 1), (12, 24, 2), (24, 32, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(4, after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(512, 96))
        self.head = nn.Linear(96, 1 + KINDS + 2)

    def forward(self, images: Tensor, present: Tensor, labels: Tensor, centre: Tensor) -> Tensor:
        """Binary cross-entropy, and of images with a digit cross-entropy and distance."""
        out = self.head(functional.relu(self.body(images)))
        seen = functional.binary_cross_entropy_with_logits(out[:, 0], present)
        which = functional.cross_entropy(out[:, 1:-2], labels, reduction="none")
        where = functional.smooth_l1_loss(out[:, -2:], centre, beta=0.1, reduction="none").sum(1)
        return seen + ((which + 5 * where) * present).mean()


IMAGE_TASKS = {
    "digits mlp": Task(
        "multilayer perceptron, image classification",
        "scikit-learn digits",
        digit_mlp,
        digit_data,
        Choices(
            steps=(600, 4_000),
            adam=1e-3,
            sgd=0.05,
            batch=(16, 32, 64),
            dropout=(0.0, 0.2, 0.5),
            smoothing=SMOOTHING,
            muon=True,
        ),
        runs=14,
    ),
    "digits resnet": Task(
        "ResNet with BatchNorm, image classification",
        "scikit-learn digits, shifted",
        lambda settings: residual_network(KINDS, settings.smoothing),
        shifted_digit_data,
        Choices(steps=(600, 2_400), adam=3e-3, sgd=0.05, batch=(16, 32), smoothing=SMOOTHING),
    ),
    "digits finetune": Task(
        "ResNet with BatchNorm pretrained on other classes, image classification",
        "120 scikit-learn digits of five classes",
        tuned_network,
        lambda: of_classes(range(5, 10), 120),
        Choices(steps=(600, 1_600), adam=1e-3, sgd=0.02, batch=(4, 8), smoothing=SMOOTHING),
    ),
    "digits distillation": Task(
        "multilayer perceptron, knowledge distillation",
        "scikit-learn digits, mixed and noisy",
        lambda settings: Student(),
        lambda: Epochs(*digits(), prepare=mixed),
        Choices(steps=(800, 5_000), adam=2e-3, sgd=0.05, batch=(32, 64), muon=True),
        runs=14,
    ),
    "pictures cnn": Task(
        "convolutional network with GroupNorm, image classification",
        "synthetic pictures, 10% wrong labels",
        lambda settings: convolutional(settings, batch_norm=False),
        lambda: pictures_of(3_000, wrong=0.1),
        Choices(
            steps=(800, 3_000),
            adam=2e-3,
            sgd=0.03,
            batch=(24, 32, 48),
            dropout=(0.0, 0.2),
            smoothing=SMOOTHING,
        ),
    ),
    "pictures batchnorm": Task(
        "convolutional network with BatchNorm, image classification",
        "synthetic pictures",
        lambda settings: convolutional(settings, batch_norm=True),
        lambda: Stream(labelled),
        Choices(
            steps=(800, 3_000),
            adam=3e-3,
            sgd=0.05,
            batch=(24, 32, 48),
            dropout=(0.0, 0.1),
            smoothing=SMOOTHING,
        ),
    ),
    "pictures transformer": Task(
        "vision transformer, image classification",
        "synthetic pictures",
        vision_transformer,
        lambda: pictures_of(12_000, wrong=0.0),
        Choices(
            steps=(600, 1_800),
            adam=1e-3,
            sgd=0.05,
            batch=(12, 16),
            dropout=(0.0, 0.1, 0.2),
            muon=True,
        ),
        clip=1.0,
    ),
    "scenes segmentation": Task(
        "U-Net with BatchNorm, segmentation",
        "synthetic scenes of two shapes",
        lambda settings: Segmenter(),
        scenes,
        Choices(steps=(600, 1_200), adam=3e-3, sgd=0.05, batch=(4, 6)),
    ),
    "digits detection": Task(
        "convolutional network, detection",
        "scikit-learn digits somewhere among noise",
        lambda settings: Detector(settings.dropout),
        lambda: Stream(hidden_digits),
        Choices(
            steps=(800, 2_200), adam=2e-3, sgd=0.02, batch=(16, 24), dropout=(0.0, 0.1), muon=True
        ),
    ),
}
