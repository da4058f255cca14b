"""Modelfiles for Ollama: chat templates translated to Go's language give what the model's own give, by Go itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from oracles.card_samples import save_with_card
from oracles.chat_samples import CONVERSATIONS, NO_FORM, TEMPLATES, TOKENS
from oracles.go_subset import render
from quantmill import Event, Note, ReleaseOptions, release, tiny_llama, write_gguf
from quantmill.tools.api.chat_templates import ChatTemplate
from quantmill.tools.api.ollama.chat_form import FOLDED, IGNORED, TODAY, TRIMMED, NoForm, learn_form
from quantmill.tools.api.ollama.go_template import go_template
from quantmill.tools.api.ollama.modelfile import Modelfile, modelfile, sampling_parameters, translate

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "ollama.json").read_text())
DATE = GOLDEN["date"]


def own(text: str) -> ChatTemplate:
    """The model's own template, on the goldens' day."""
    dated = ChatTemplate(text, TOKENS, today={"%Y-%m-%d": DATE})
    plain = ChatTemplate(text, TOKENS)
    return plain if plain.render(CONVERSATIONS[0]) is not None else dated


@pytest.mark.parametrize("name", TEMPLATES)
def test_go_gives_what_the_template_gives(name: str) -> None:
    golden, template = GOLDEN["rendered"][name], own(TEMPLATES[name])
    translated = translate(ChatTemplate(TEMPLATES[name], TOKENS), drop_bos=True)
    assert translated.text == golden["template"]
    rendered = [template.render(messages) for messages in CONVERSATIONS]
    assert rendered[1] is not None
    for messages, ours, text in zip(CONVERSATIONS, rendered, golden["texts"], strict=True):
        if ours is None:
            assert FOLDED in translated.remarks
            assert messages[0]["role"] == "system"
        else:
            assert text == ours.removeprefix("<s>")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_checker_is_go(name: str) -> None:
    golden = GOLDEN["rendered"][name]
    assert [render(golden["template"], list(talk), DATE) for talk in CONVERSATIONS] == golden["texts"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_other_conversations(name: str) -> None:
    """A later system message where the template takes one; the form, its translation and the template agree."""
    form = learn_form(ChatTemplate(TEMPLATES[name], TOKENS), drop_bos=True)
    text, template = go_template(form), own(TEMPLATES[name])
    assert text is not None
    system, first, answer, second = CONVERSATIONS[4]
    for talk in ([system, first, answer, system, second], [first, answer, system, second]):
        shown = render(text, talk, DATE)
        assert shown == form.render(talk).replace(TODAY, DATE)
        if form.in_place:
            assert shown == (template.render(talk) or "").removeprefix("<s>")


def test_what_differs_is_said() -> None:
    remarks = {name: translate(ChatTemplate(text, TOKENS), drop_bos=True).remarks for name, text in TEMPLATES.items()}
    assert {name for name, said in remarks.items() if FOLDED in said} == {"mistral v1", "mistral v3", "gemma"}
    assert {name for name, said in remarks.items() if IGNORED in said} == {"phi 3 mini"}
    assert {name for name, said in remarks.items() if TRIMMED in said} == {
        "llama 2", "llama 3", "llama 3.1", "gemma", "gemma 3",
    }  # fmt: skip
    assert [name for name, said in remarks.items() if any("thinking" in line for line in said)] == [
        "chatml that thinks", "deepseek r1",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NO_FORM)
def test_what_has_no_form(name: str) -> None:
    text, why = NO_FORM[name]
    with pytest.raises(NoForm, match=why):
        learn_form(ChatTemplate(text, TOKENS), drop_bos=True)
    translated = translate(ChatTemplate(text, TOKENS), drop_bos=True)
    assert translated.text is None
    assert translated.remarks[0].endswith("; Ollama reads the one in the GGUF file")


def test_texts_that_a_modelfile_cannot_hold() -> None:
    turn = "{% for m in messages %}{{ m.role }} {{ m.content }}%s{% endfor %}"
    for template in (*(turn.replace("%s", end) for end in ('"""', "\x1b", "\u200b")), turn + '"'):
        translated = translate(ChatTemplate(template), drop_bos=True)
        assert translated.text is None, template
        assert "a Modelfile cannot hold" in translated.remarks[0]


def test_the_first_token_stays_where_nothing_adds_it() -> None:
    template = ChatTemplate(TEMPLATES["llama 3"], TOKENS)
    kept, dropped = (translate(template, drop_bos=drop).text or "" for drop in (False, True))
    assert "<s>" in kept
    assert "<s>" not in dropped
    assert render(kept, list(CONVERSATIONS[2]), DATE) == template.render(CONVERSATIONS[2])


def test_of_a_release(tmp_path: Path) -> None:
    """FROM, TEMPLATE, the ends of answers, the context and the sampling of the model, and its license's text."""
    folder = save_with_card(tmp_path / "Tiny-Llama")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = TEMPLATES["chatml"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    generation = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "LICENSE").write_text('Copyright\n\n"All" is permitted.\n')
    made = release(folder, tmp_path / "set", ReleaseOptions(levels=["Q4_K_M", "Q8_0"], imatrix=None))
    text = (made.folder / "Modelfile").read_text()
    assert text.startswith("FROM ./Tiny-Llama.Q4_K_M.gguf\n")
    assert f'TEMPLATE """{GOLDEN["rendered"]["chatml"]["template"]}"""\n' in text
    assert 'LICENSE """Copyright\n\n"All" is permitted."""\n' in text
    parameters = re.findall(r"^PARAMETER (\S+) (.*)$", text, re.M)
    assert dict(parameters) == {
        "num_ctx": "512", "temperature": "0.6", "top_k": "20", "top_p": "0.95", "repeat_penalty": "1.05",
        "stop": '"</s>"',
    }  # fmt: skip
    card = (made.folder / "README.md").read_text()
    assert "```shell\nollama create tiny-llama -f Modelfile\n```" in card
    named = release(folder, tmp_path / "named", ReleaseOptions(levels=["Q8_0"], imatrix=None, license="mit"))
    assert (named.folder / "Modelfile").read_text().endswith('LICENSE """mit"""\n')


def test_a_license_that_is_a_link_to_elsewhere(tmp_path: Path) -> None:
    folder = save_with_card(tmp_path / "Tiny-Llama")
    (tmp_path / "secret").write_text("secret")
    (folder / "LICENSE").symlink_to(tmp_path / "secret")
    made = release(folder, tmp_path / "set", ReleaseOptions(levels=["Q8_0"], imatrix=None))
    assert (made.folder / "Modelfile").read_text().endswith('LICENSE """apache-2.0"""\n')


def test_of_models_that_have_less(tmp_path: Path) -> None:
    """No template, no license: what is known alone; all in shards: none, and a line says so."""
    source = tmp_path / "tiny-f16.gguf"
    write_gguf(source, tiny_llama())
    events: list[Event] = []
    made = release(source, tmp_path / "set", ReleaseOptions(levels=["Q8_0"], imatrix=None), progress=events.append)
    text = (made.folder / "Modelfile").read_text()
    assert text.startswith("FROM ./tiny.Q8_0.gguf\nPARAMETER num_ctx ")
    assert "TEMPLATE" not in text
    assert "LICENSE" not in text
    shards = ReleaseOptions(levels=["Q8_0"], imatrix=None, split_max_size=150_000)
    made = release(source, tmp_path / "shards", shards, progress=events.append)
    assert not (made.folder / "Modelfile").exists()
    assert Note("no Modelfile: every model is in shards, and Ollama takes one file", important=True) in events
    assert "FROM ./" in (made.folder / "README.md").read_text()


def test_parameters_of_strange_values() -> None:
    model = tiny_llama()
    assert sampling_parameters(model) == {}
    assert modelfile(Modelfile(["a.gguf", "mmproj-a-F16.gguf"], stops=["<|end|>", "\n"])) == (
        'FROM ./a.gguf\nFROM ./mmproj-a-F16.gguf\nPARAMETER stop "<|end|>"\n'
    )
