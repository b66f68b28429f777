"""Recognises a language model, and counts parameters, from the shapes and classes of a model.

No weight is read, and nothing is assumed where the facts are ambiguous. These rules cannot
distinguish

* text from other sequences of tokens with a vocabulary of thousands: items that a recommender
  predicts one after the other, codes of music or images, proteins;
* an encoder and a decoder that share one vocabulary from a decoder, unless they are modules of
  `torch.nn` or named so;
* weights that were loaded with ``load_state_dict`` from fresh ones;
* from the optimizer of a plain loop alone: a masked language model from a causal one, and frozen
  parameters that the optimizer does not have.

They miss language models whose output layer reuses the embedding without being an ``nn.Linear``,
whose embeddings or output layers are modules that do not derive from those of `torch.nn`, or whose
vocabulary is padded on one side only; and those in a plain loop that tie the two, have two layers
only, or divide their parameters among several optimizers.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.pipeline import Recognition
from lossforecast.signals import contained

__all__ = ["recognise"]

_CAUSAL = "language modelling"
_MASKED = "masked language modelling"
_TUNING = "fine-tuning a language model"
_TASKS_BY_SUFFIX = {
    "ForCausalLM": _CAUSAL,
    "LMHeadModel": _CAUSAL,
    "ForMaskedLM": _MASKED,
    "ForPreTraining": _MASKED,
}
"""Tasks of the Hugging Face models whose class names end so."""

_MIN_VOCABULARY_ROWS = 2_000
_MAX_SECOND_TABLE_SHARE = 1 / 3  # of the rows; more may be a second vocabulary, less are positions
_MIN_TRAINED_SHARE = 0.9  # of a model's parameters; below it the model is fine-tuned
_MIN_MODEL_SHARE = 0.9  # of all trained parameters that belong to the language model
_MIN_SHARE_BESIDE_TABLES = 0.2  # of all parameters; a recommender is nearly all tables
_MIN_MATRICES_BESIDE_TABLES = 4  # with a side as long as a row of the tables
_SHARD_MARKS = ("ds_id", "_fsdp_flattened", "tensor_model_parallel")
"""Attributes of parameters of which each process has a part: of DeepSpeed, FSDP and Megatron."""


def recognise(trained: Any) -> Recognition:
    """Recognise what is trained; never raises an error.

    Args:
        trained: the model, or the optimizer where the model is unknown.
    """
    n_params, seen = None, Recognition()
    with contained():
        n_params = _count(_trained(trained))
    with contained():
        seen = _from_model(trained) if _is_model(trained) else _from_optimizer(trained)
    return replace(seen, n_params=n_params)


def _is_model(trained: Any) -> bool:
    return not hasattr(trained, "param_groups")


def _parameters(trained: Any) -> list[Any]:
    """Return the parameters of a model or an optimizer, trained or not."""
    if _is_model(trained):
        return list(trained.parameters())
    return [weight for group in trained.param_groups for weight in group["params"]]


def _trained(trained: Any) -> list[Any]:
    return [weight for weight in _parameters(trained) if weight.requires_grad]


# ---------------------------------------------------------------------- parameters


def _count(weights: list[Any]) -> int | None:
    """Return the number of parameters; None if it is unknown or 0.

    It is unknown if a parameter has no shape yet, or if each process has only a part of it. Several
    processes that train nothing but vectors have parts of flattened weights, as with DeepSpeed.
    """
    if any(is_lazy(weight) or _is_shard(weight) for weight in weights):
        return None
    if processes()[1] > 1 and all(weight.dim() < 2 for weight in weights):
        return None
    return _size(weights) or None


def _size(weights: Iterable[Any]) -> int:
    """Return the number of parameters that this process has."""
    return sum(0 if is_lazy(weight) else int(weight.numel()) for weight in weights)


def _is_shard(weight: Any) -> bool:
    return any(getattr(weight, mark, False) is not False for mark in _SHARD_MARKS)


def _from_optimizer(optimizer: Any) -> Recognition:
    """Recognise an embedding and an output layer among the parameters of an optimizer.

    They are the only two equal matrices: those of repeated blocks are more, or shorter. Their rows
    are the longest side of any matrix and the length of at most one vector, the bias of the output
    layer.
    """
    weights = _trained(optimizer)
    shapes = Counter(tuple(weight.shape) for weight in weights)
    if any(len(shape) > 3 for shape in shapes):  # weights of convolutions over images
        return Recognition()
    matrices = {shape: count for shape, count in shapes.items() if len(shape) == 2}
    pairs = [shape for shape, count in matrices.items() if count == 2]
    if len(pairs) != 1 or shapes[pairs[0][:1]] > 1:
        return Recognition()
    rows, width = pairs[0]
    others = {shape: count for shape, count in matrices.items() if shape != (rows, width)}
    beside = sum(count for shape, count in others.items() if width in shape)
    second_table = any(
        count == 1 and shape[1] == width and shape[0] > _MAX_SECOND_TABLE_SHARE * rows
        for shape, count in others.items()
    )
    size = _size(weights)
    is_vocabulary = (
        rows >= _MIN_VOCABULARY_ROWS
        and all(max(shape) < rows for shape in others)
        and not second_table
        and beside >= _MIN_MATRICES_BESIDE_TABLES
        and size - 2 * rows * width >= _MIN_SHARE_BESIDE_TABLES * size
    )
    return _by_vocabulary(rows) if is_vocabulary else Recognition()


def _by_vocabulary(rows: int) -> Recognition:
    return Recognition(task=_CAUSAL, reason=f"recognised by its vocabulary of {rows:,} rows")


# ---------------------------------------------------------------------- models


def _from_model(model: nn.Module) -> Recognition:
    """Recognise a model, which may be wrapped or part of a larger one."""
    candidates = _hugging_face_models(model)
    if candidates:
        parts = [part for part in candidates if _trained(part)]
        if len(parts) != 1:
            return Recognition()
        (part,) = parts
        share = _share(_trained(part), _trained(model))
        return Recognition() if share < _MIN_MODEL_SHARE else _from_hugging_face(part)
    rows = _vocabulary_rows(model)
    if not rows or not _trained(model):
        return Recognition()
    return _tuned_in_part(model) or _by_vocabulary(rows)


def _hugging_face_models(model: nn.Module) -> list[nn.Module]:
    """Return the Hugging Face models in a model that are not part of another one."""
    outermost: list[nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():  # each comes before those inside it
        is_one = hasattr(type(module), "base_model_prefix") and hasattr(
            getattr(module, "config", None), "model_type"
        )
        if is_one and id(module) not in inside:
            outermost.append(module)
            inside.update(map(id, module.modules()))
    return outermost


def _from_hugging_face(model: Any) -> Recognition:
    """Recognise a language model by its class, and whether it is fine-tuned.

    The name of a checkpoint is kept in the configuration, also where a model with fresh weights was
    made from the configuration of a checkpoint. Only marks that ``from_pretrained`` leaves prove
    that the weights were loaded (transformers 5); without them, nothing is assumed.
    """
    name = type(model).__name__
    task = next((task for end, task in _TASKS_BY_SUFFIX.items() if name.endswith(end)), None)
    if task is None or model.config.is_encoder_decoder or not _reads_text_only(model):
        return Recognition()
    if name.endswith("ForPreTraining") and not _vocabulary_rows(model):
        return Recognition()  # its task is to find replaced tokens or to mark answers
    source = getattr(model, "name_or_path", "") or getattr(model.config, "_name_or_path", "")
    if "_weight_conversions" in vars(model) or any(
        getattr(weight, "_is_hf_initialized", False) for weight in _parameters(model)
    ):
        return Recognition(task=_TUNING, reason=f"because {name} was loaded from {source!r:.60}")
    part = _tuned_in_part(model)
    if part is not None:
        return part
    if source:
        return Recognition(reason=f"{name} may have its weights from {source!r:.60}")
    return Recognition(task=task, reason=f"recognised by its class {name}")


def _reads_text_only(model: Any) -> bool:
    modalities = getattr(model, "input_modalities", "text")  # since transformers 5
    return model.main_input_name == "input_ids" and modalities in ("text", ["text"], ("text",))


def _vocabulary_rows(model: nn.Module) -> int:
    """Return the rows of the one embedding with an output layer of as many outputs; 0 without one.

    Also 0 for models of images or sound, encoders with decoders, and models with two vocabularies.
    """
    modules = list(model.modules())
    if any(_shows_another_task(module) for module in modules):
        return 0
    tables = Counter(m.num_embeddings for m in modules if isinstance(m, nn.Embedding))
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    outputs = Counter(module.out_features for module in linears)
    inputs = {module.in_features for module in linears}
    fitting = [
        rows
        for rows, count in tables.items()
        if rows >= _MIN_VOCABULARY_ROWS
        and count == outputs[rows] == 1
        and rows not in inputs  # else it is the hidden layer of a block
    ]
    if len(fitting) != 1:
        return 0
    (rows,) = fitting
    if any(other != rows and other > _MAX_SECOND_TABLE_SHARE * rows for other in tables):
        return 0
    return int(rows)


def _shows_another_task(module: nn.Module) -> bool:
    """Return whether a module is for images or sound, or belongs to an encoder with a decoder."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return module.groups == 1  # state space models convolve each channel by itself
    if isinstance(module, nn.EmbeddingBag | nn.Transformer | nn.TransformerDecoderLayer):
        return True
    children = dict(module.named_children())
    halves = [children.get(name) for name in ("encoder", "decoder")]
    return all(half and not isinstance(half, nn.Embedding | nn.Linear) for half in halves)


def _tuned_in_part(model: nn.Module) -> Recognition | None:
    """Recognise a language model of which only a part is trained; None if all of it is."""
    share = _share(_trained(model), _parameters(model))
    if share >= _MIN_TRAINED_SHARE:
        return None
    reason = f"because {100 * share:.2g}% of the parameters are trained"
    return Recognition(task=_TUNING, reason=reason)


def _share(part: list[Any], whole: list[Any]) -> float:
    """Return the share of parameters; of tensors, where this process has no parameters."""
    total = _size(whole)
    return _size(part) / total if total else len(part) / max(len(whole), 1)
