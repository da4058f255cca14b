"""The ids of added tokens, which four files of a folder may give, and not always alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ....errors import TokenizerError, name_list
from .added_tokens import TOKEN_KEYS, AddedToken, NamedTokens

# The classes with which transformers runs tokenizer.json as it stands. Others take only its vocabulary, and add to that
# what tokenizer_config.json or added_tokens.json declare (TokenizersBackend.convert_to_native_format).
_WHOLE_CLASSES = {None, "PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend"}


@dataclass(frozen=True)
class TokenSources:
    """What the files of a folder say of added tokens.

    Args:
        path: the folder, for messages.
        listed: tokenizer.json's ``added_tokens`` in their order; None without a tokenizer.json.
        decoder: tokenizer_config.json's ``added_tokens_decoder``; None where it has none.
        ids: added_tokens.json, which does not say what is special, and which nobody reads beside a decoder.
        named: the special tokens that tokenizer_config.json and special_tokens_map.json name.
        tokenizer_class: transformers' class.
    """

    path: Path
    listed: tuple[tuple[int, AddedToken], ...] | None
    decoder: Mapping[int, AddedToken] | None
    ids: Mapping[str, int]
    named: NamedTokens
    tokenizer_class: str | None

    @property
    def declaring(self) -> str:
        """The file that declares tokens beside tokenizer.json."""
        return "added_tokens.json" if self.decoder is None else "tokenizer_config.json"

    @property
    def declared_ids(self) -> Mapping[str, int]:
        """What that file declares: text -> id."""
        if self.decoder is None:
            return self.ids
        return {token.text: number for number, token in self.decoder.items()}

    @property
    def declared(self) -> list[tuple[int, AddedToken]]:
        """The tokens that transformers adds by their ids, in the order in which it does; the last of an id is meant."""
        if self.decoder is not None:
            return sorted(self.decoder.items(), key=_number)
        named = [token for key, token in self.named.by_key.items() if key in TOKEN_KEYS and token is not None]
        special = {token.text for token in (*named, *(self.named.extra or ()))}
        by_id = {number: AddedToken(content, content in special) for content, number in self.ids.items()}
        return sorted({**by_id, **dict(self.listed or ())}.items(), key=_number)


@dataclass(frozen=True)
class AddedTokens:
    """The added tokens of a folder.

    Args:
        by_id: each by its id.
        only_named: those of the ids that no file gives, since their tokens are named and in no vocabulary.
        notes: a line for each contradiction that was settled.
    """

    by_id: Mapping[int, AddedToken]
    only_named: frozenset[int]
    notes: tuple[str, ...]


def merge_added_tokens(base: Mapping[str, int], sources: TokenSources, *, ids_stand: bool = False) -> AddedTokens:
    """Number the added tokens as transformers does, whatever ids the files declare for them.

    A text that the vocabulary has keeps its id there. A new one gets the next free id, in the order of tokenizer.json's
    list, then of the declared ids, then of the special tokens that are only named. What is said last of a text's flags
    holds. See tokenizers' ``AddedVocabulary.add_tokens`` and transformers' ``TokenizersBackend.__init__``.

    Args:
        base: text -> id of the vocabulary without added tokens.
        sources: what the files say.
        ids_stand: whether a new text gets the id that is declared for it, even one of the vocabulary's. So does
            llama.cpp's converter with a SentencePiece model alone, and so did the classes that wrote such folders.

    Raises:
        TokenizerError: the files contradict each other, and transformers' classes read them differently; or a next free
            id is not free, because the vocabulary's ids have gaps.

    Example:
        >>> listed = ((2, AddedToken("<x>", special=False)),)
        >>> sources = TokenSources(
        ...     Path("folder"), listed, None, {"<x>": 3, "<y>": 0}, NamedTokens({}, None, None), None
        ... )
        >>> merged = merge_added_tokens({"a": 0, "b": 1}, sources)
        >>> {number: token.text for number, token in merged.by_id.items()}
        {2: '<x>', 3: '<y>'}
    """
    numbering = _number_all(base, sources, sources.listed or (), ids_stand=ids_stand)
    _refuse_taken_ids(base, sources, numbering, ids_stand=ids_stand)
    _refuse_other_classes(base, sources, numbering)
    notes = [
        *_notes_on_list(base, sources, numbering),
        *_notes_on_declared(base, sources, numbering),
        *(_notes_on_standing_ids(base, sources, numbering) if ids_stand else ()),
    ]
    return AddedTokens(numbering.by_id, frozenset(numbering.only_named), tuple(notes))


class _Numbering:
    """Ids given one after the other.

    Args:
        base: text -> id of the vocabulary without added tokens.
        compact: count on from the number of texts, as the tokenizers library does; else from the highest id.
    """

    def __init__(self, base: Mapping[str, int], *, compact: bool) -> None:
        self._base = base
        self._next = len(base) if compact else max(base.values(), default=-1) + 1
        self.ids: dict[str, int] = {}
        self.by_id: dict[int, AddedToken] = {}
        self.only_named: set[int] = set()

    def add(self, token: AddedToken, number: int | None = None) -> None:
        """Add a token, or change the flags of one that is there. A new text gets ``number``, or the next free id."""
        if not token.text:
            return
        known = self.ids.get(token.text, self._base.get(token.text))
        if known is None:
            known = self._next if number is None else number
        self._next = max(self._next, known + 1)
        self.ids[token.text], self.by_id[known] = known, token

    def name(self, token: AddedToken, *, special: bool) -> None:
        """Add a token that a file names where it is no added token yet; else make it special if this is asked for."""
        known = self.ids.get(token.text)
        if known is None:
            self.add(token)
            if token.text and token.text not in self._base:
                self.only_named.add(self.ids[token.text])
        elif special:
            self.by_id[known] = replace(self.by_id[known], special=True)


def _number_all(
    base: Mapping[str, int],
    sources: TokenSources,
    listed: Iterable[tuple[int, AddedToken]],
    *,
    ids_stand: bool = False,
) -> _Numbering:
    numbering, declared = _Numbering(base, compact=not ids_stand), sources.declared
    for _, token in listed:
        numbering.add(token)
    for number, token in declared:
        numbering.add(token, number if ids_stand else None)
    texts = {token.text for _, token in declared}
    for named in sources.named.by_key.values():
        if named is not None:
            numbering.name(named, special=named.text in texts)
    for further in sources.named.further or ():
        numbering.name(further, special=False)
    return numbering


def _refuse_taken_ids(
    base: Mapping[str, int], sources: TokenSources, numbering: _Numbering, *, ids_stand: bool
) -> None:
    new = {number: text for text, number in numbering.ids.items() if text not in base}
    if ids_stand or new.keys().isdisjoint(base.values()):
        return
    taken = next((text, number) for text, number in base.items() if number in new)
    raise TokenizerError(
        f"the added token {new[taken[1]]!r} gets the id {taken[1]}, the next after {len(base)} texts, which is"
        f" {taken[0]!r} in the vocabulary",
        path=sources.path,
        hint="give the vocabulary's texts the ids from 0 on without gaps",
    )


def _refuse_other_classes(base: Mapping[str, int], sources: TokenSources, numbering: _Numbering) -> None:
    """Refuse files that contradict tokenizer.json, for a class that may take them instead of its list."""
    if sources.listed is None or sources.tokenizer_class in _WHOLE_CLASSES:
        return
    said = (*((token.text, number) for number, token in sources.listed), *sources.declared_ids.items())
    if all(numbering.ids.get(text, number) == number for text, number in said):
        return
    other = _number_all(base, sources, ()).ids
    for text, number in numbering.ids.items():
        if other.get(text, number) != number:
            also = f" with {sources.declaring}" if sources.declared_ids else ""
            raise TokenizerError(
                f"{text!r} is token {number} by tokenizer.json, but {other[text]}{also} where transformers takes only"
                f" its vocabulary, as it may for {sources.tokenizer_class}",
                path=sources.path,
                hint="delete added_tokens_decoder or added_tokens.json if tokenizer.json is right, and save the"
                " tokenizer again with transformers",
            )


def _notes_on_list(base: Mapping[str, int], sources: TokenSources, numbering: _Numbering) -> Iterator[str]:
    wrong = [(token.text, number) for number, token in sources.listed or () if numbering.ids.get(token.text) != number]
    if wrong := [(text, number) for text, number in wrong if text]:
        text, number = wrong[0]
        yield (
            f"tokenizer.json: {_count(wrong)} the id that the tokenizers library gives, not the one in its list:"
            f" {text!r} is {numbering.ids[text]}, not {number}"
        )
    declared = {"", *base, *(token.text for _, token in sources.declared)}
    lacking = [token.text for _, token in sources.listed or () if token.text not in declared]
    if lacking and sources.tokenizer_class not in _WHOLE_CLASSES:
        names = name_list([repr(text) for text in lacking], 3)
        yield (
            f"tokenizer.json: its added tokens {names} are kept, though added_tokens_decoder in tokenizer_config.json"
            f" lacks them; transformers' {sources.tokenizer_class} may go by the latter"
        )


def _notes_on_declared(base: Mapping[str, int], sources: TokenSources, numbering: _Numbering) -> Iterator[str]:
    unread = [] if sources.decoder is None else [(text, number) for text, number in sources.ids.items() if text]
    if unread := [(text, n) for text, n in unread if numbering.ids.get(text, base.get(text)) != n]:
        names = name_list([f"{text!r} (id {number})" for text, number in unread], 3)
        yield (
            f"added_tokens.json: {names} not taken from it, as in transformers, since tokenizer_config.json has"
            " added_tokens_decoder"
        )
    said, ids = [(text, number) for text, number in sources.declared_ids.items() if text], numbering.ids
    if left_out := [(text, number) for text, number in said if text not in ids]:
        names = name_list([f"{text!r} (id {number})" for text, number in left_out], 3)
        yield f"{sources.declaring}: {names} left out, as in transformers: the id is another token's"
    if wrong := [(text, number) for text, number in said if ids.get(text, number) != number]:
        text, number = wrong[0]
        yield (
            f"{sources.declaring}: {_count(wrong)} the vocabulary's id or the next free one, as in transformers,"
            f" not the one in this file: {text!r} is {ids[text]}, not {number}"
        )


def _notes_on_standing_ids(base: Mapping[str, int], sources: TokenSources, numbering: _Numbering) -> Iterator[str]:
    free = _number_all(base, sources, ()).ids
    said = [(text, number) for text, number in sources.declared_ids.items() if numbering.ids.get(text) == number]
    if kept := [(text, number) for text, number in said if free[text] != number]:
        text, number = kept[0]
        old = next((f", in place of {piece!r}" for piece, known in base.items() if known == number), "")
        yield (
            f"{sources.declaring}: {_count(kept)} the id in this file, as in llama.cpp's converter: {text!r} is"
            f" {number}{old}; transformers 5 may make it {free[text]}"
        )


def _count(tokens: Sequence[object]) -> str:
    return "1 added token has" if len(tokens) == 1 else f"{len(tokens)} added tokens have"


def _number(numbered: tuple[int, AddedToken]) -> int:
    return numbered[0]
