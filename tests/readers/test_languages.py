"""Logs whose words for epochs, steps, losses and rates are not English."""

from pathlib import Path

import pytest
from support.log_files import loss_at, seen

from lossforecast.readers import read_log
from lossforecast.readers.languages import in_english, lines_in_english

N = 30

LINES = {  # "{n}" is the number of an epoch or a step, "{y}" a loss, "{v}" one of validation
    "German": "Epoche {n}/30 - Verlust: {y} - Validierungsverlust: {v} - Lernrate: 0.1",
    "German steps": "Schritt {n} von 30: Verlust {y}, Lernrate 0.1",
    "German splits": "Epoche {n} von 30: Trainingsverlust {y}, Testverlust {v}, Lernrate 0.1",
    "French": "Époque {n}/30 - perte : {y} - perte de validation : {v}, taux d'apprentissage 0.1",
    "French steps": "étape {n} sur 30 : perte d'entraînement = {y}, taux d'apprentissage = 0.1",
    "Spanish": "Época {n} de 30, pérdida {y}, pérdida de validación {v}, tasa de aprendizaje 0.1",
    "Portuguese": "Época {n} de 30: perda {y}, perda de validação {v}, taxa de aprendizado 0.1",
    "Russian": "Эпоха {n}/30, потери: {y}, потери на валидации: {v}, скорость обучения: 0.1",
    "Russian steps": "Шаг {n} из 30: функция потерь = {y}, скорость обучения = 0.1",
    "Chinese": "轮次: {n}/30, 训练损失: {y}, 验证损失: {v}, 学习率: 0.1",
    "Chinese numerals": "第{n}/30轮\uff0c损失\uff1a{y}\uff0c学习率\uff1a0.1",
    "Chinese and English": "第 {n}/30 步 loss={y} 学习率=0.1",
    "Japanese": "エポック {n}/30 訓練損失: {y} 検証損失: {v} 学習率: 0.1",
    "Japanese marks": "エポック\uff1a{n}/30\u3001損失\uff1a{y}\u3001学習率\uff1a0.1",
    "Korean": "에포크 {n}/30, 손실: {y}, 검증 손실: {v}, 학습률: 0.1",
}


@pytest.mark.parametrize("comma", [".", ","])
@pytest.mark.parametrize("language", LINES)
def test_text(tmp_path: Path, language: str, comma: str) -> None:
    line = LINES[language]
    if comma == ",":
        line = line.replace(": 0.1", ": 0,1").replace("= 0.1", "= 0,1").replace(" 0.1", " 0,1")
    text = "".join(
        line.format(n=i, y=f"{loss_at(i):.5f}".replace(".", comma), v=f"9{comma}5") + "\n"
        for i in range(1, N + 1)
    )
    (tmp_path / "train.log").write_text(f"Willkommen, bienvenue, welcome\n{text}")
    log = read_log(tmp_path / "train.log")
    assert (log.metric, log.rate_column, log.total_steps) == ("train", "learning_rate", N)
    assert list(seen(log).values()) == pytest.approx([loss_at(i) for i in range(1, N + 1)], 1e-4)
    if "{v}" in line:
        assert set(seen(read_log(tmp_path / "train.log", metric="val")).values()) == {9.5}


@pytest.mark.parametrize(
    "header",
    [
        "Epoche;Verlust;Validierungsverlust;Lernrate",
        "Époque;Perte;Perte de validation;Taux d'apprentissage",
        "轮数;训练损失;验证损失;学习率",
        "Шаг;Потери;Потери на валидации;Скорость обучения",
    ],
)
def test_tables(tmp_path: Path, header: str) -> None:
    rows = "".join(f"{i};{loss_at(i)};9,5;0,1\n".replace(".", ",") for i in range(N))
    (tmp_path / "log.csv").write_text(f"{header}\n{rows}")
    log = read_log(tmp_path / "log.csv")
    _, loss, validation, rate = header.split(";")
    assert (log.column, log.others, log.rate_column) == (loss, (validation,), rate)
    assert list(seen(log).values()) == pytest.approx([loss_at(i) for i in range(N)], 1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "epoch 3: loss 2.31",
        "the schrittmacher is lossless, von 3",
        "10%|████▌ | 3/30 [00:01<00:09]",
    ],
)
def test_english_is_left_alone(text: str) -> None:
    assert in_english(text) == text


def test_words_are_looked_for_at_the_beginning_of_a_log_alone() -> None:
    lines = ["hello"] * 5000 + ["Verlust 2"]
    assert list(lines_in_english(lines)) == lines
    assert list(lines_in_english(["Verlust 1", *lines]))[-1] == "loss 2"
