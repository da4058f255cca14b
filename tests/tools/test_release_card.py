"""What a release says: the card, its tables and picture, and what is taken over from the original's card."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from oracles.card_samples import save_with_card
from quantmill.formats.progress import Event, Note
from quantmill.tools.api.releasing.card import Facts, File, model_card
from quantmill.tools.api.releasing.front_matter import FrontMatter, front_matter
from quantmill.tools.api.releasing.levels import PLAIN, USES, WITH_IMPORTANCE, method
from quantmill.tools.api.releasing.options import ReleaseOptions
from quantmill.tools.api.releasing.prompt import prompt_template
from quantmill.tools.api.releasing.release import release


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_with_card(tmp_path_factory.mktemp("models") / "Tiny-Llama")


def test_files_of_other_sets(tiny: Path, text: Path, tmp_path: Path) -> None:
    table = tmp_path / "others.csv"
    table.write_text(
        "name,level,size,kld_mean,kld_mean_error,top1\n"
        "some|body Q4_K_M,Q4_K_M,0.9MB,0.0125,0.001,0.98\n\n"
        '"other, Q3",Q3_K_M,700000,,,\n'
    )
    options = ReleaseOptions(levels=["Q4_K_M"], imatrix=None, evaluate=True, evaluation_text=text, n_ctx=64, chunks=2)
    made = release(tiny, tmp_path / "with", replace(options, compare=table))
    card = (made.folder / "README.md").read_text()
    assert "| *some\\|body Q4_K_M* | Q4_K_M |  | 900.0 kB |  | 0.01250 ± 0.00100 |  | 98.00 % |" in card
    assert "| *other, Q3* | Q3_K_M |  | 700.0 kB |  |  |  |  |" in card
    assert "what others.csv says" in card
    without = release(tiny, tmp_path / "without", options)
    pictures = [(folder / "size-kld.png").read_bytes() for folder in (made.folder, without.folder)]
    assert pictures[0] != pictures[1]
    assert list(made.manifest.files) == list(without.manifest.files)
    unmeasured = release(tiny, tmp_path / "unmeasured", ReleaseOptions(levels=["Q4_K_M"], imatrix=None, compare=table))
    card = (unmeasured.folder / "README.md").read_text()
    assert "| Tiny-Llama.Q4_K_M.gguf | Q4_K_M |" in card.split("## Measured")[1]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name,level,size\na,Q4_0,1GB\nb,Q4_0,big\n", "line 3: size: 'big' is not a valid size, such as 4.5GiB"),
        ("name,level,size\na,Q4_0,1XB\n", "line 2: size: '1XB' has the unknown unit 'XB'"),
        ("name,level,size\na,Q4_0,0\n", "line 2: size: 0 bytes"),
        ("name,level,size\n\na,Q4_0\n", "line 3: 2 cells for 3 columns"),
        ("name,level,size\na,Q4_0,1GB,5\n", "line 2: 4 cells for 3 columns"),
        ("name,level,size\n,Q4_0,1GB\n", "line 2: has no name"),
        ("name,level,size\na,Q4_0,1GB\na,Q4_0,2GB\n", "line 3: 'a' stands there twice"),
        ("name,level\na,Q4_0\n", "line 1: 'size' is missing"),
        ("name,level,size,kld\na,Q4_0,1,2\n", "line 1: 'kld' is no column that is known"),
        ("name,level,size,size\na,Q4_0,1,2\n", "line 1: 'size' stands there twice"),
        ("name,level,size,kld_mean\na,Q4_0,1,x\n", "line 2: kld_mean: 'x' is not a number"),
        ("name,level,size,kld_mean\na,Q4_0,1,nan\n", "line 2: kld_mean: nan is not possible"),
        ("name,level,size,kld_mean\na,Q4_0,1,-1\n", "line 2: kld_mean: -1 is not possible"),
        ("name,level,size,perplexity\na,Q4_0,1,inf\n", "line 2: perplexity: inf is not possible"),
        ("name,level,size,top1\na,Q4_0,1,98.2\n", "line 2: top1: 98.2 is more than 1 (a share, not per cent)"),
        ('name,level,size\n"a,Q4_0,1\n', "line 2: is not CSV"),
        ("name,level,size\n", "names no file"),
        ("", "names no file"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_tables_that_are_none(
    content: str | bytes | None, problem: str, tiny: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    table = tmp_path / "table.csv"
    if content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert f"table.csv: {problem}" in refused(
        "release", tiny, tmp_path / "set", "--imatrix", "none", "--compare", table
    )


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--license", "Apache 2.0"), "--license: 'Apache 2.0' is no identifier of the hub's"),
        (("--license", ""), "--license: '' is no identifier of the hub's"),
        (("--license", "apache-"), "--license: 'apache-' is no identifier of the hub's"),
        (("--language", "english"), "--language: 'english' is no code of a language"),
        (("--language", "en,d"), "--language: 'd' is no code of a language"),
        (("--language", "en;de"), "--language: 'en;de' is no code of a language"),
    ],
)
def test_identifiers_that_are_none(
    words: tuple[str, str], problem: str, tiny: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert problem in refused("release", tiny, tmp_path / "set", "--imatrix", "none", *words)


def test_the_original_s_card(tiny: Path, tmp_path: Path) -> None:
    """Its text stands below ours; its front matter is merged, and a line says where ours differs."""
    model = shutil.copytree(tiny, tmp_path / "Tuned")
    (model / "README.md").write_text(
        "---\nlicense: other\nlicense_name: odd\nlicense_link: LICENSE\nlanguage: [de]\nbase_model: org/Base\n"
        "library_name: transformers\ntags: [chat, gguf]\npipeline_tag: text-generation\nwidget: [{text: a}]\n---\n"
        "# Tuned\n\n![p](img/p.png) [site](https://x.org/a)\x1b[2J\n---\nend\n"
    )
    events: list[Event] = []
    options = ReleaseOptions(levels=["Q8_0"], imatrix=None, base_model="me/Tuned")
    made = release(model, tmp_path / "set", options, progress=events.append)
    card = (made.folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head == {
        "base_model": "me/Tuned", "base_model_relation": "quantized", "license": "other", "license_name": "odd",
        "license_link": "LICENSE", "language": ["de"], "tags": ["chat", "gguf", "quantized"],
        "pipeline_tag": "text-generation", "library_name": "gguf",
    }  # fmt: skip
    ours, _, theirs = card.partition("# The original's model card: me/Tuned\n")
    assert "## How to run" in ours
    assert theirs.strip() == (
        "# Tuned\n\n![p](https://huggingface.co/me/Tuned/resolve/main/img/p.png) [site](https://x.org/a)\\x1b[2J\n---\nend"
    )
    assert (
        Note(
            "README.md: beside the original's card, base_model org/Base becomes me/Tuned, "
            "library_name transformers becomes gguf, widget is left out"
        )
        in events
    )
    again = replace(options, license="mit", language=["en", "zh-Hant"])
    events.clear()
    made = release(model, tmp_path / "other", again, progress=events.append)
    head = yaml.safe_load((made.folder / "README.md").read_text().split("---")[1])
    assert (head["license"], head["language"]) == ("mit", ["en", "zh-Hant"])
    assert not {"license_name", "license_link"} & set(head)
    (line,) = [event.text for event in events if isinstance(event, Note) and "README.md" in event.text]
    assert "license other becomes mit, license_name is left out, license_link is left out, language is replaced" in line


def test_every_level_has_its_words() -> None:
    assert len(PLAIN) >= 10
    for level in {*PLAIN, *WITH_IMPORTANCE}:
        assert USES[level]
    assert method("IQ2_XS").startswith("IQ2_XS: 2.3125 bits per weight; eight magnitudes")


def test_a_card_of_strange_names() -> None:
    """YAML and Markdown with what a stranger may have put into a checkpoint."""
    file = File("a.gguf", "Q8_0", 10, 8.5, ("Q8_0",))
    front = FrontMatter("a/b", {"license": "yes", "tags": ["#1", 3, "a: b"]})
    facts = Facts('x: "y"\n- z', front, [file], [], prompt="```\nhi")
    head = yaml.safe_load(front_matter(front).split("---")[1])
    assert head["license"] == "yes"
    assert head["tags"] == ["#1", "a: b", "gguf", "quantized"]
    card = model_card(facts)
    assert "````\n```\nhi\n````" in card
    assert '# x: "y"\\n- z in GGUF' in card.replace("\\\\", "\\")


def test_a_card_of_names_that_are_markup() -> None:
    """Pipes, HTML, links, ends of the front matter, and words of the shell and of Python stay a file's name."""
    name = "a|b <img src=x> [c](d) `e`; $(rm) \"f'.gguf"
    front = FrontMatter("`a`\n---", {"license": "x\n---\n# y", "tags": ["\u202e"]})
    file = File(name, "Q8_0", 10, 8.5, ("Q8_0",))
    facts = Facts("<b>\n---\n# x", front, [file], [], prompt="\x1b[2J{prompt}")
    card = model_card(facts)
    assert yaml.safe_load(card.split("\n---\n")[0])["license"] == "x\n---\n# y"
    assert [line for line in card.splitlines() if line == "---"] == ["---"] * 2
    assert "\x1b" not in card
    assert "\u202e" not in card
    assert "<b>" not in card.replace("\\<", "")
    (row,) = [line for line in card.splitlines() if line.startswith("| [")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert "](./a%7Cb%20%3Cimg%20src%3Dx%3E%20%5Bc%5D%28d%29%20%60e%60%3B%20%24%28rm%29%20%22f%27.gguf)" in row
    (command,) = re.findall(r"llama-cli -m (.*) -c 4096", card)
    assert shlex.split(command) == [name]
    (literal,) = re.findall(r"llm = Llama\((.*), n_ctx=4096\)", card)
    assert ast.literal_eval(literal) == name


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
            "<s>[system] {system_message}\n[user] {prompt}\n",
        ),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}Q: {{ messages[0].content }}",
            "Q: {prompt}",
        ),
        ("{{ messages.__class__.__mro__ }}", None),
        ("{% for", None),
        ("nothing", None),
        (None, None),
    ],
)
def test_prompt_templates(template: str | None, expected: str | None) -> None:
    assert prompt_template(template, {"bos_token": "<s>"}) == expected
