"""The report as a person sees it: rendered in headless Chromium, on a phone and on a desk, without a network."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from mmscale.cli.main import main
from mmscale.evaluation.predictions import Prediction, PredictionLog
from mmscale.evaluation.scores import task_scores
from mmscale.parallel.context import ParallelContext
from mmscale.storage.files import write_json

LANGUAGES = ("en", "sw", "th")
HERE = ParallelContext(device=torch.device("cpu"))


def make_run(folder: Path) -> Path:
    """A run directory with real scores of made-up answers: base right in English only, mindmerger mostly right."""
    rows = {}
    for model, right in (("base", {"en": 9, "sw": 1, "th": 0}), ("mindmerger", {"en": 9, "sw": 7, "th": 6})):
        rows[model] = {}
        for code in LANGUAGES:
            made = [
                Prediction(
                    question=f"Swali {i} <b>{code}</b>?",
                    response=f"The answer is {i if i < right[code] else i + 1}.",
                    answer=str(i),
                    language=code,
                    origin=f"{code}:{i}",
                    prediction=str(i if i < right[code] else i + 1),
                    correct=i < right[code],
                )
                for i in range(10)
            ]
            PredictionLog(folder / "predictions" / model / "mgsm" / f"{code}.jsonl", "x", HERE).append(made)
            rows[model][code] = made
    scores = {
        model: {
            "title": model.title(),
            "paper": "",
            "compared_with": None if model == "base" else "base",
            "tasks": {"mgsm": task_scores(found, "default", 0.95, None if model == "base" else rows["base"])},
        }
        for model, found in rows.items()
    }
    write_json(folder / "scores.json", scores)
    write_json(
        folder / "environment.json", {"python": "3", "packages": {"torch": "2"}, "processor": "test", "gpus": []}
    )
    stage = folder / "stages" / "mindmerger.mapping"
    stage.mkdir(parents=True)
    (stage / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "loss": 5 / s}) + "\n" for s in (1, 10, 20)))
    write_json(
        stage / "data.json",
        [
            {
                "source": "gsmtrans",
                "path": "x",
                "read": {"fr": 7464},
                "kept": 7087,
                "dropped": 377,
                "bad": {"count": 1, "first": ["f:1: x"]},
                "flagged": {"untranslated": {"count": 377, "first": []}},
            }
        ],
    )
    (folder / "run.yaml").write_text(
        "name: test\nseed: 1\nlanguages: [en]\nlanguage_model: {path: x}\nencoder: null\nmethods: []\nrecipes: {}\n"
    )
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "demo")
    assert main(["report", str(folder), "--model-card"]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("rendering needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
    ):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium")
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def test_the_file_refers_to_nothing_outside(report):
    text = report.read_text(encoding="utf-8")
    assert not re.findall(r"src=|<script|<link|@import|url\((?!#)", text)
    assert "Swali 0 &lt;b&gt;sw&lt;/b&gt;?" in text, "model output is escaped"


@pytest.mark.parametrize("width", [390, 1200])
def test_what_is_rendered(report, browser, width):
    from selenium.webdriver.common.by import By

    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get(report.as_uri())
    page = browser.execute_script("return document.documentElement.scrollWidth")
    assert page <= width, "nothing sticks out sideways"
    bars = {}
    for bar in browser.find_elements(By.CSS_SELECTOR, ".bar"):
        share = bar.size["width"] / bar.find_element(By.XPATH, "..").size["width"]
        bars[bar.get_attribute("data-model"), bar.get_attribute("data-language")] = share
    assert bars["base", "en"] == pytest.approx(0.9, abs=0.02) and bars["base", "th"] < 0.01
    assert bars["mindmerger", "sw"] == pytest.approx(0.7, abs=0.02)
    heat = browser.find_elements(By.CSS_SELECTOR, "table.heat[data-model=mindmerger][data-kind=cc] td")
    assert len(heat) == 9 and heat[0].text == "90" and heat[0].size["height"] > 8
    curve = browser.find_element(By.CSS_SELECTOR, ".curve svg")
    assert curve.size["width"] > 200 and curve.size["height"] > 100
    body = browser.find_element(By.TAG_NAME, "body").text
    for expected in ("Swahili", "(+60.0)", "untranslated 377", "wrong: read 8, gold 7", "mindmerger.mapping: 20 steps"):
        assert expected in body, expected


def test_the_model_card_names_what_was_run(report):
    card = (report.parent / "MODEL_CARD.md").read_text()
    assert "# Models of run test" in card and "`x`" in card


@pytest.mark.parametrize("name", ["scores.json", "run.yaml", "environment.json", "stages/mindmerger.mapping/data.json"])
@pytest.mark.parametrize(
    "content", ["[]", "1", '"x"', '{"base": 1}', '{"base": {"title": "b", "tasks": []}}', "{", "\0\0"]
)
def test_a_run_whose_files_were_damaged_is_reported_or_refused_in_a_sentence(tmp_path, capsys, name, content):
    make_run(tmp_path / "run")
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    code = main(["report", str(tmp_path / "run"), "--model-card"])
    assert code in (0, 2)
    if content in ("{", "\0\0") and name != "run.yaml":
        assert code == 2 and f"{name.split('/')[-1]}:1 is not valid JSON" in capsys.readouterr().err
    elif code == 2:
        assert f"{file} " in capsys.readouterr().err.replace(":", " "), "the file is named"


@pytest.mark.parametrize(
    ("name", "before", "after", "key"),
    [
        ("scores.json", '"accuracy": 0.9', '"accuracy": 0.1', "mgsm.languages.en"),
        ("scores.json", '"correct": 9', '"correct": "9!"', "mgsm.languages.en.correct"),
        ("stages/mindmerger.mapping/data.json", '"fr": 7464', '"fr": null', "0.read.fr"),
    ],
)
def test_a_file_that_is_json_but_not_ours_is_named_with_its_key(tmp_path, capsys, name, before, after, key):
    """A figure that contradicts its own counts is never shown."""
    make_run(tmp_path / "run")
    file = tmp_path / "run" / name
    content = file.read_text()
    assert before in content
    file.write_text(content.replace(before, after, 1))
    assert main(["report", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"{file} is not as a run writes it" in error and key in error and error.count("\n") == 1
