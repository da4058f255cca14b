from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench.texts import WORDS, grams_of, overlap, write_texts
from hypothesis import given
from hypothesis import strategies as st

from quantmill.formats.errors import QuantmillError, TokenizerError
from quantmill.imatrix.corpus import TextTokenizer, cut, default_text, read_text
from quantmill.imatrix.weights import Weights
from quantmill.tools.api.running import SHIPPED_TOKENS


def test_windows_by_hand() -> None:
    corpus = cut(range(10, 21), 4, bos=1, name="text")
    assert corpus.tokens.tolist() == [[10, 11, 12, 13], [14, 15, 16, 17]]
    assert corpus.inputs.tolist() == [[1, 11, 12, 13], [1, 15, 16, 17]]  # BOS stands in a token's place
    assert (corpus.n_chunks, corpus.n_ctx, corpus.first_chunk) == (2, 4, 0)


@given(st.integers(2, 9), st.integers(0, 60), st.integers(0, 8), st.integers(-1, 8))
def test_windows_are_the_text(n_ctx: int, n: int, first: int, chunks: int) -> None:
    available = n // n_ctx
    wanted = max(0, available - first) if chunks < 0 else min(chunks, max(0, available - first))
    if not wanted:
        with pytest.raises(QuantmillError):
            cut(range(n), n_ctx, chunks=chunks, from_chunk=first)
        return
    corpus = cut(range(n), n_ctx, chunks=chunks, from_chunk=first)
    assert np.array_equal(corpus.tokens.reshape(-1), np.arange(first * n_ctx, (first + wanted) * n_ctx))
    assert np.array_equal(corpus.inputs, corpus.tokens)


def test_text_shorter_than_a_chunk() -> None:
    with pytest.raises(QuantmillError, match=r"story.txt: the text has 300 tokens, a chunk needs 512 \(.*-c 256\)"):
        cut(range(300), 512, name="story.txt")


def test_reading_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("zwölf\r\n\n".encode())
    assert read_text(path) == "zwölf\r\n"  # one newline goes, as llama.cpp has it
    path.write_bytes(b"ok \xff")
    with pytest.raises(QuantmillError, match="byte 3: is not UTF-8"):
        read_text(path)
    path.write_bytes(b"\n")
    with pytest.raises(QuantmillError, match="empty"):
        read_text(path)
    with pytest.raises(QuantmillError, match="No such file"):
        read_text(tmp_path / "none")


def test_default_text_is_varied() -> None:
    """And what is used of it where nothing says how much, some three characters a token."""
    text = read_text(default_text())
    assert len(text) > 1_000_000
    start = text[: 3 * SHIPPED_TOKENS]
    scripts = ("人", "люди", "मनुष्य", "أن", "인간", "すべて", "เสรี", "Mensch", "δικαι", "זכ", "உரிமை", "უფლება")
    code = ("public class ", "func ", "fn ", "def ", "SELECT ", "#include", "struct ", "export ", "local function")
    chats = ("<|im_start|>user", "<start_of_turn>model", "<|eot_id|>", "[INST]", "ASSISTANT:")
    for words in (scripts, code, chats, ("sqrt", "matrix", "Miss Woodhouse")):
        assert [word for word in words if word not in text] == []
        assert sum(word in start for word in words) > 0.6 * len(words)


def test_default_text_repeats_nothing_and_is_judged_by_nothing(tmp_path: Path) -> None:
    text = read_text(default_text())
    words = WORDS.findall(text)
    grams = list(grams_of(words))
    assert len(set(grams)) > 0.99 * len(grams), "but inside a paragraph"
    for (_, split), path in write_texts(tmp_path).files.items():
        if split != "calibration":
            assert overlap(path.read_text("utf-8"), text) == 0


def test_control_tokens_are_text_unless_meant(smollm2: Weights) -> None:
    """The ids are llama.cpp's: 1 is <|im_start|>, 43 is the colon."""
    tokenizer = smollm2.tokenizer()
    assert tokenizer.bos is None
    assert tokenizer.encode("<|im_start|>user", parse_special=True)[0] == 1
    spelled = tokenizer.encode("<|im_start|>user")
    assert 1 not in spelled
    assert len(spelled) > 4


def test_topics_are_cut_into_llama_cpps_tokens(smollm2: Weights, topics: object) -> None:
    """The golden's text, decoded, gives the golden's tokens again."""
    tokens = topics.tokens.reshape(-1)  # type: ignore[attr-defined]
    tokenizer = smollm2.tokenizer()
    again = tokenizer.encode(tokenizer.encoder.decode(tokens.tolist(), skip_special_tokens=False))
    assert np.array_equal(again, tokens)


def test_tokenizer_of_another_model(smollm2: Weights) -> None:
    tokenizer = smollm2.tokenizer()
    small = TextTokenizer(tokenizer.encoder, None, 100)
    with pytest.raises(TokenizerError, match="but the model has only 100"):
        small.encode("Hello")
