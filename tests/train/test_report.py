import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from ernie5.errors import UserError
from ernie5.train.report import write_report

RUN = {
    "kind": "run",
    "parameters": {"total": 31_000_000, "active": 4_100_000, "share": 0.132},
    "versions": {"paddle": "3.3.1"},
    "device": "CPU",
}


def step(number, **more):
    return {
        "kind": "train",
        "step": number,
        "tokens": 4096 * number,
        "seconds": 61.0 * number,
        "stage": "short",
        "loss": 5.0,
        "loss_text": 4.0 / number,
        "loss_mtp": 4.5,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "tokens_per_s": 5000.0,
        "batch_tokens": 4096,
        "max_over_mean": [1.5, 1.2],
        "entropy": [0.9, 0.95],
    } | more


EVALUATION = {
    "kind": "eval",
    "step": 2,
    "loss": 2.5,
    "bits_per_byte": 1.25,
    "complete": True,
    "members": {"half": {"loss": 3.0, "bits_per_byte": 1.5}},
}


def report(run_dir, *records, config=""):
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if config:
        (run_dir / "config.yaml").write_text(config)
    html = write_report(run_dir).read_text(encoding="utf-8")
    ElementTree.fromstring(re.sub(r"<meta[^>]*>", "", html.removeprefix("<!doctype html>\n")))  # tags are balanced
    return html


def test_the_summary_has_the_numbers_of_the_run(tmp_path):
    html = report(tmp_path, RUN, step(1), step(2), EVALUATION, config="model: {name: small}")
    for text in ("<h1>small</h1>", "1.250", "whole validation set", "31M", "4.1M", "13.2 %", "8192", "2m 2s", "5000"):
        assert text in html


def test_every_kind_of_curve_is_drawn(tmp_path):
    html = report(tmp_path, step(1), step(2), EVALUATION)
    for title in ("Loss of text", "bits per byte", "multi-token", "Learning rate", "Gradient norm", "Tokens a second"):
        assert title in html
    assert "Tokens in a step" not in html  # constant
    assert html.count("<svg") == 8


def test_a_growing_batch_is_drawn(tmp_path):
    assert "Tokens in a step" in report(tmp_path, step(1), step(2, batch_tokens=8192))


def test_the_last_load_is_shown_as_a_heat_map(tmp_path):
    html = report(tmp_path, step(1, load=[[9, 1]]), step(2, load=[[1, 3]]), step(3))
    assert "Step 2; rows are layers" in html
    assert "layer 0, expert 1: 1.50 times the mean" in html


def modalities(**more):
    text, mtp = {"loss": 4.0, "weight": 1.0}, {"loss": 4.5, "weight": 0.3}
    return {"text": text, "mtp": mtp} | more


def test_modalities_stand_together_in_three_figures(tmp_path):
    audio, vision = {"loss": 2.0, "weight": 2.0, "grad_norm": 0.5}, {"loss": 0.6, "weight": 5.0}
    first = step(1, loss_audio=2.0, modalities=modalities(audio=audio, vision=vision))
    second = step(2, loss_audio=1.5, modalities=modalities(audio={"loss": 1.5, "weight": 2.5}))
    html = report(tmp_path, first, second, EVALUATION | {"loss_audio": 1.25})
    section = html[html.index("Balance of the modalities") : html.index("Balance of the experts")]
    assert re.findall("<h3>(.*?)</h3>", section) == [
        "Loss of each modality",
        "Weight of each modality&#x27;s loss",
        "Gradient norm of each modality",
    ]
    legends = [re.findall("</i>(.*?)</span>", part) for part in section.split("<h3>")[1:]]
    assert legends == [["text", "mtp", "audio", "vision"]] * 2 + [["audio"]]
    assert "Loss of speech, nats a code" in html and ">1.250</div>" in html


def test_text_alone_has_no_figures_of_modalities(tmp_path):
    assert "Balance of the modalities" not in report(tmp_path, step(1, modalities=modalities()))


def test_experts_of_the_modalities_are_a_map_a_layer_with_its_bits(tmp_path):
    use = {
        "kind": "expert_use",
        "step": 2,
        "layers": [0, 3],
        "tokens": {"text": 1200, "vision_generation": 40},
        "shares": [
            {"text": [1.0, 0.5], "vision_generation": [0.5, 1.0]},
            {"text": [1, 0], "vision_generation": [0, 1]},
        ],
        "bits": [0.0817, 1.0],
    }
    html = report(tmp_path, step(1), use | {"bits": [9, 9]}, use)
    assert re.findall(r"<h3>(Layer .*?)</h3>", html) == ["Layer 0: 0.082 bits", "Layer 3: 1.000 bits"]
    assert "text, expert 1: 50.0%" in html and "vision drawn, expert 1: 100.0%" in html
    assert "1,200 text, 40 vision drawn" in html


def test_a_run_of_one_kind_has_no_maps(tmp_path):
    use = {"kind": "expert_use", "layers": [0], "tokens": {"text": 9}, "shares": [{"text": [1.0]}], "bits": [0.0]}
    assert "Experts of the modalities" not in report(tmp_path, step(1), use)


def test_members_stand_beside_the_full_model(tmp_path):
    config = "members: [{name: half, num_layers: 3, num_experts: 0, top_k: 0}]"
    html = report(tmp_path, step(1), EVALUATION, config=config)
    row = re.search(r"<tr><td >half</td>.*?</tr>", html).group()
    assert re.findall(r">([^<>]+)</td>", row) == ["half", "3", "all", "full", "3.000", "1.500", "+20.0 %"]


def test_samples_of_a_few_steps_are_shown_the_newest_first(tmp_path):
    samples = [{"kind": "sample", "step": i, "prompt": "Say", "text": f" text {i}."} for i in range(1, 21)]
    shown = re.findall(r"<b>Say</b> text (\d+)\.", report(tmp_path, *samples))
    assert shown == ["20", "16", "12", "9", "5", "1"]


def test_whatever_a_run_wrote_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    html = report(
        tmp_path,
        RUN | {"device": evil, "versions": {evil: evil}},
        step(1, stage=evil),
        step(2, stage=evil + "2"),
        EVALUATION | {"members": {evil: {"loss": 1.0, "bits_per_byte": 1.0}}},
        {"kind": "sample", "step": 1, "prompt": evil, "text": evil},
        {"kind": "event", "step": 1, "text": evil},
        config=f"model: {{name: '{evil}'}}",
    )
    assert "<script" not in html and html.count("&lt;script&gt;") >= 8


def test_a_lone_surrogate_in_a_sample_does_not_stop_the_report(tmp_path):
    assert "a?b" in report(tmp_path, {"kind": "sample", "step": 1, "prompt": "", "text": "a\ud800b"})


def test_values_that_were_not_finite_are_passed_over(tmp_path):
    values = {"loss_text": None, "grad_norm": None, "max_over_mean": [None, 1.0], "tokens_per_s": None}
    nothing = EVALUATION | {"loss": None, "bits_per_byte": None, "members": {"half": {"loss": None}}}
    assert "not finite" in report(tmp_path, step(1, **values), nothing)


def test_the_page_fetches_nothing(tmp_path):
    html = report(tmp_path, RUN, step(1), EVALUATION)
    assert not re.search(r"https?://|src=|@import|url\(", html)


def test_a_run_with_one_event_only_has_a_report(tmp_path):
    assert "stopped by SIGTERM" in report(tmp_path, {"kind": "event", "step": 0, "text": "stopped by SIGTERM"})


def test_a_folder_without_records_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="has no records in metrics.jsonl"):
        write_report(tmp_path)
