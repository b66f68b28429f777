"""Facts that a model shows about its run: real models of many kinds, nothing assumed in doubt."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers
from support import hf_models, models
from support.models import ROWS, WIDTH, LanguageModel, optimizer_of
from torch import nn

from lossforecast.callbacks.torch_run.recognise import recognise
from lossforecast.runs import RunInfo, RunKind

CAUSAL, MASKED = "language modelling", "masked language modelling"
TUNING = "fine-tuning a language model"


class Holder(pl.LightningModule):
    """A Lightning module that trains models given as attributes."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def frozen(model: nn.Module, part: str = "") -> nn.Module:
    """Freeze the parameters whose names begin with `part`."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(not name.startswith(part))
    return model


def size_of(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


# ---------------------------------------------------------------------- Hugging Face


@pytest.mark.parametrize(
    ("name", "config", "task"),
    [
        ("GPT2LMHeadModel", hf_models.gpt2_config, CAUSAL),
        ("BertLMHeadModel", hf_models.bert_config, CAUSAL),
        ("BertForMaskedLM", hf_models.bert_config, MASKED),
        ("BertForPreTraining", hf_models.bert_config, MASKED),
        ("ElectraForPreTraining", transformers.ElectraConfig, None),  # finds replaced tokens
        ("BertForSequenceClassification", hf_models.bert_config, None),
        ("GPT2ForSequenceClassification", hf_models.gpt2_config, None),
        ("GPT2Model", hf_models.gpt2_config, None),
        ("ViTMAEForPreTraining", transformers.ViTMAEConfig, None),
        ("Wav2Vec2ForPreTraining", transformers.Wav2Vec2Config, None),
        ("GitForCausalLM", transformers.GitConfig, None),  # describes images
        ("T5ForConditionalGeneration", transformers.T5Config, None),
        ("MarianMTModel", transformers.MarianConfig, None),
    ],
)
def test_hugging_face_models_are_recognised_by_their_class(
    name: str, config: Callable[[], Any], task: str | None
) -> None:
    with torch.device("meta"):
        model = getattr(transformers, name)(config())
    seen = recognise(model)
    assert (seen.task, seen.n_params) == (task, size_of(model))
    assert seen.reason == (f"recognised by its class {name}" if task else "")


def test_the_class_also_shows_a_language_model_with_a_small_vocabulary() -> None:
    model = transformers.GPT2LMHeadModel(hf_models.gpt2_config(rows=17))
    assert recognise(model).task == CAUSAL


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    hf_models.gpt2().save_pretrained(folder)
    return folder


def test_loaded_weights_are_fine_tuned(checkpoint: Path) -> None:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    for model in (loaded, loaded.double(), copy.deepcopy(loaded), Holder(model=loaded)):
        seen = recognise(model)
        assert seen.task == TUNING
        assert seen.reason.startswith("because GPT2LMHeadModel was loaded from '")
    assert RunInfo(task=TUNING, n_params=1e9).kind is RunKind.OTHER
    classifier = transformers.GPT2ForSequenceClassification.from_pretrained(checkpoint)
    assert classifier.config.architectures == ["GPT2LMHeadModel"]  # that of the checkpoint
    assert recognise(classifier).task is None


def test_the_configuration_of_a_checkpoint_leaves_a_doubt(checkpoint: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    seen = recognise(transformers.GPT2LMHeadModel(config))
    assert seen.task is None
    assert seen.reason.startswith("GPT2LMHeadModel may have its weights from '")


def test_a_model_that_is_trained_in_part_is_fine_tuned() -> None:
    model = frozen(hf_models.gpt2(), "transformer.h")
    seen = recognise(model)
    share = size_of(model) / size_of(hf_models.gpt2())
    assert (seen.task, seen.n_params) == (CAUSAL, size_of(model))
    assert share > 0.9
    model = frozen(hf_models.gpt2(), "transformer.wte")
    seen = recognise(model)
    assert (seen.task, seen.n_params) == (TUNING, size_of(model))
    assert seen.reason == "because 9.6% of the parameters are trained"
    assert recognise(frozen(LanguageModel(), "output")).task == TUNING
    for model in (frozen(hf_models.gpt2()), frozen(LanguageModel())):  # nothing is trained
        assert (recognise(model).task, recognise(model).n_params) == (None, None)
    head = Holder(text=frozen(hf_models.gpt2()), head=nn.Linear(WIDTH, 4))
    assert recognise(head).task is None


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def wrappers() -> dict[str, Callable[[Any], Any]]:
    return {
        "compiled": compiled,
        "lightning": lambda model: Holder(net=model),
        "compiled in lightning": lambda model: Holder(net=compiled(model)),
        "with a small head": lambda model: Holder(net=model, head=nn.Linear(WIDTH, 2)),
        "with a frozen teacher": lambda model: Holder(
            student=model, teacher=frozen(copy.deepcopy(model))
        ),
    }


@pytest.mark.parametrize("wrap", wrappers().values(), ids=wrappers())
def test_wrapped_models_are_found(wrap: Callable[[Any], Any]) -> None:
    model = wrap(hf_models.gpt2())
    assert (recognise(model).task, recognise(model).n_params) == (CAUSAL, size_of(model))


@pytest.mark.parametrize("wrap", list(wrappers().values())[:-1], ids=list(wrappers())[:-1])
def test_wrapped_modules_of_torch_are_found(wrap: Callable[[Any], Any]) -> None:
    assert recognise(wrap(LanguageModel())).task == CAUSAL


def test_a_language_model_inside_a_larger_one_is_not_all_that_is_trained() -> None:
    assert recognise(Holder(text=hf_models.gpt2(), image=nn.Linear(100, ROWS))).task is None
    assert recognise(Holder(one=hf_models.gpt2(), other=hf_models.gpt2())).task is None


# ---------------------------------------------------------------------- modules of torch

LANGUAGE_MODELS: dict[str, Callable[[], nn.Module]] = {
    "untied": LanguageModel,
    "tied": lambda: LanguageModel(tied=True),
    "recurrent": models.RecurrentLanguageModel,
    "state space": models.StateSpaceModel,
}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "small vocabulary": lambda: LanguageModel(rows=1_999),
    "recommender": models.Recommender,
    "recommender of the next item": models.NextItem,
    "many classes": models.ManyClasses,
    "classes of texts": models.TextClassifier,
    "many positions": models.ManyPositions,
    "translation": models.Translator,
    "translation, one vocabulary": models.SharedTranslator,
    "translation, recurrent": models.RecurrentTranslator,
    "captions": models.Captioner,
    "vision transformer": models.VisionTransformer,
    "two fused blocks": models.Fused,
    "one recurrent layer": models.OneRecurrentLayer,
    "no parameters": nn.ReLU,
}


@pytest.mark.parametrize("make", LANGUAGE_MODELS.values(), ids=LANGUAGE_MODELS)
def test_modules_are_recognised_by_their_vocabulary(make: Callable[[], nn.Module]) -> None:
    model = make()
    seen = recognise(model)
    assert (seen.task, seen.n_params) == (CAUSAL, size_of(model))
    assert seen.reason == "recognised by its vocabulary of 2,100 rows"


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_modules_are_not_taken_for_language_models(make: Callable[[], nn.Module]) -> None:
    model = make()
    seen = recognise(model)
    assert (seen.task, seen.reason, seen.n_params) == (None, "", size_of(model) or None)


def test_positions_are_not_a_second_vocabulary() -> None:
    with torch.device("meta"):
        assert recognise(LanguageModel(rows=50_304, positions=8_192)).task == CAUSAL
        assert recognise(LanguageModel(rows=8_000, positions=6_000)).task is None


# ---------------------------------------------------------------------- an optimizer alone


def large(**options: Any) -> LanguageModel:
    """A model as large as a real one, without memory."""
    with torch.device("meta"):
        return LanguageModel(50_304, width=768, hidden=3_072, layers=12, **options)


PLAIN: dict[str, tuple[Callable[[], nn.Module], str | None]] = {
    "untied": (large, CAUSAL),
    "with a bias": (
        lambda: nn.ModuleList([large(), nn.ParameterList([torch.ones(50_304)])]),
        CAUSAL,
    ),
    "tied": (lambda: large(tied=True), None),
    "one layer of few": (lambda: LanguageModel(layers=1, hidden=600), CAUSAL),
    "all in the tables": (lambda: LanguageModel(rows=21_000), None),
    "recommender": (lambda: models.Recommender(layers=6), None),
    "two vocabularies": (lambda: models.Translator(source=1_500), None),
    "captions": (models.Captioner, None),
    **{name: (make, None) for name, make in OTHERS.items() if name != "no parameters"},
}


@pytest.mark.parametrize(("make", "task"), PLAIN.values(), ids=PLAIN)
def test_an_optimizer_shows_two_tables_beside_repeated_blocks(
    make: Callable[[], nn.Module], task: str | None
) -> None:
    model = make()
    for optimizer in (optimizer_of(model), torch.optim.SGD(model.parameters(), lr=0.1)):
        seen = recognise(optimizer)
        assert (seen.task, seen.n_params) == (task, size_of(model))


def test_what_the_rules_cannot_tell() -> None:
    fresh, other = LanguageModel(), LanguageModel()
    other.load_state_dict(fresh.state_dict())
    assert recognise(other).task == CAUSAL  # though it is fine-tuned
    assert recognise(models.NextItem(users=64)).task == CAUSAL
    translator = models.SharedTranslator(layers=3)
    assert (recognise(translator).task, recognise(optimizer_of(translator)).task) == (None, CAUSAL)


# ---------------------------------------------------------------------- no shapes, parts of shapes


def test_lazy_and_refusing_models_are_unknown() -> None:
    lazy = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(5))
    assert recognise(lazy).n_params is None
    assert recognise(torch.optim.SGD(lazy.parameters(), lr=0.1)).n_params is None
    lazy(torch.ones(1, 2))
    assert recognise(lazy).n_params == 9 + 20
    for refuses in (models.Refusing(), object(), None):
        seen = recognise(refuses)
        assert (seen.n_params, seen.task) == (None, None)
