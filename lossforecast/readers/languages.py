"""`in_english`: words of training in other languages, as in `Epoche 3: Verlust 2,31`."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice

__all__ = ["in_english", "lines_in_english"]

_WORDS = {
    "epoch": "epoche époque epoque época epoca эпоха",
    "step": "schritt étape etape paso passo шаг",
    "iteration": "itération iteración iteração iterazione итерация",
    "batch": "батч",
    "train": "trainings entraînement d'entraînement entrenamiento treino обучении обучения",
    "val": "validierung validierungs validación validação validazione валидация валидации",
    "loss": "verlust perte pérdida perdida perda perdita функция_потерь потери потеря",
    "error": "fehler erreur ошибка",
    "learning rate": "lernrate taux_d'apprentissage tasa_de_aprendizaje taxa_de_aprendizado "
    "скорость_обучения",
}
"""English words, each with those that mean it, in languages with spaces between words."""
_EAST_ASIAN_WORDS = {
    "epoch": "轮次 轮数 轮 エポック 에포크 에폭",
    "step": "步数 步 ステップ 스텝",
    "iteration": "迭代次数 迭代 反復",
    "batch": "批次 バッチ 배치",
    "learning rate": "学习率 学習率 학습률",
    "train": "训练 訓練 学習 훈련 학습",
    "val": "验证 検証 검증",
    "test": "测试 テスト",
    "loss": "损失值 损失 損失 ロス 손실",
    "error": "误差 誤差",
}
"""The same in languages without such spaces, a longer word before its beginning."""
_MAX_LINES = 2000  # of a log without such words, after which they are no longer looked for


def _by_word(words: dict[str, str]) -> dict[str, str]:
    return {
        word.replace("_", " "): english
        for english, several in words.items()
        for word in several.split()
    }


_ENGLISH = _by_word(_WORDS) | _by_word(_EAST_ASIAN_WORDS)
_LETTER = r"[^\W\d_]"
_WORD = re.compile(
    rf"(?<!{_LETTER})(?:{'|'.join(_by_word(_WORDS))})(?!{_LETTER})"
    rf"|{'|'.join(_by_word(_EAST_ASIAN_WORDS))}",
    re.IGNORECASE,
)
_COMPOUND = re.compile(r"(trainings|validierungs|test)-?(?=verlust|fehler)", re.IGNORECASE)
_ORDINAL = re.compile(r"第\s*(\d+(?:\s*/\s*\d+)?)\s*[个次]?\s*(轮次|轮|步|批次|エポック|ステップ)")
_OF = re.compile(r"(?<=\d) (?:von|sur|de|из) (?=\d)")
_MARKS = str.maketrans(
    {"\uff1a": ": ", "\uff0c": ", ", "\u3001": ", ", "\uff1b": "; ", "\uff1d": "="}
)
"""Colons, commas and the like that are as wide as a character of East Asia."""


def in_english(text: str) -> str:
    """The text with its words of training in English, as in `epoch 3: loss 2,31`."""
    if not text.isascii():
        text = _ORDINAL.sub(r" \2 \1 ", text.translate(_MARKS))
    text = _COMPOUND.sub(r"\1 ", text)
    english = _WORD.sub(_translated, text)
    return text if english == text else _OF.sub(" of ", english)


def lines_in_english(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a log in English, if its first ones have words of another language."""
    lines = iter(lines)
    for line in islice(lines, _MAX_LINES):
        yield (english := in_english(line))
        if english != line:
            yield from map(in_english, lines)
            return
    yield from lines


def _translated(match: re.Match[str]) -> str:
    word, rest = match[0], match.string[match.end() : match.end() + 1]
    english = _ENGLISH.get(word.lower(), word)
    return f"{english} " if rest and not word.isascii() and rest.isalnum() else english
