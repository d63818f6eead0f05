"""Where sentences, clauses and words begin in a text of any language, and whether a text says some words.

Everything here counts in characters and rests on Unicode's own properties; no language has to be named. Scripts differ
in two ways that matter:

- *without spaces*: Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and their like put no space between words;
- *attached*: Korean, Arabic, Hebrew, Amharic and the Dravidian languages put spaces between words, and write particles,
  articles and endings as part of them.
"""

from __future__ import annotations

import unicodedata

import regex

# Letters (and marks) of scripts in which a word's end cannot be seen.
_UNSPACED = (
    r"[[\p{L}\p{M}\p{N}\p{So}]&&[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{scx=Yiii}\p{scx=Thai}\p{scx=Laoo}"
    r"\p{scx=Khmr}\p{scx=Mymr}\p{scx=Tibt}\p{scx=Lana}\p{scx=Talu}\p{scx=Tale}\p{scx=Tavt}\p{scx=Java}\p{scx=Bali}]]"
)
# Of these, the ones that put no space between sentences either, and the full-width punctuation that goes with them.
_SOLID = (
    r"[[[\p{L}\p{M}\p{N}]&&[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{scx=Yiii}]]"
    r"[\p{P}&&[\p{scx=Han}\p{scx=Hira}\p{scx=Yiii}\p{EA=F}\p{EA=W}\p{EA=H}]]]"
)
_ATTACHED = (
    r"[[\p{L}\p{M}]&&[\p{Hangul}\p{Arabic}\p{Hebrew}\p{Syriac}\p{Thaana}\p{Ethiopic}\p{Tamil}\p{Telugu}\p{Kannada}"
    r"\p{Malayalam}\p{Sinhala}]]"
)
# What makes one word with its neighbour: letters, marks and digits of all other scripts.
_WORD = rf"[[[\p{{L}}\p{{M}}\p{{N}}_]--{_UNSPACED}]--{_ATTACHED}]"
_EXTENDS = r"[\p{M}\p{EMod}\u200d]"  # belongs to the character before it

_CLOSING = r"[\p{Pe}\p{Pf}\"']"
_CLOSING_OR_GERMAN = r"[\p{Pe}\p{Pf}\"'“«]"  # before a space; in Chinese “ opens what follows
_OPENING = r"[\p{Ps}\p{Pi}\"'¿¡]"
_BLANKS = r"[^\S\n\r\x85\u2028\u2029]"  # white space within a line
# These are also written inside numbers, names, code and addresses: they end a sentence before a space (or before a
# script that has none), and what begins there does not begin in lower case.
_COMMON_END = r"[.!?…‥․‼⁇⁈⁉‽]"
_OWN_END = r"(?:[\p{SB=STerm}．།༎༏༐༑༒\u037e--[!?‼⁇⁈⁉‽]]|(?<=\p{Greek});|፡፡)"

_WORDS = rf"{_UNSPACED}\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--{_UNSPACED}]+"

_V1 = regex.V1
_SENTENCE = regex.compile(
    rf"{_OWN_END}{_CLOSING}*{_BLANKS}*(?=\S)(?!{_COMMON_END}|{_OWN_END})(?<!\p{{Nd}}．(?=\p{{Nd}}))"
    rf"|{_COMMON_END}{_CLOSING_OR_GERMAN}*{_BLANKS}+(?=\S)(?!{_OPENING}*\p{{Ll}})"
    rf"|[.!?‼⁇⁈⁉‽]{_CLOSING}*(?=[{_SOLID}--\p{{P}}])",
    _V1,
)
_LINE = regex.compile(r"[\n\r\x85\u2028\u2029](?=\S|[^\S\n\r\x85\u2028\u2029]+\S)", _V1)
_CLAUSE = regex.compile(
    rf"[\p{{Terminal_Punctuation}}\p{{Pd}}…・]{_CLOSING}*{_BLANKS}+(?=\S)"
    rf"|[[\p{{Terminal_Punctuation}}&&{_SOLID}]・]{_CLOSING}*(?=[^\s\p{{Nd}}\p{{Terminal_Punctuation}}])"
    rf"|(?<=[{_UNSPACED}--{_SOLID}]){_BLANKS}+(?=\S)|(?<={_BLANKS})(?=[{_UNSPACED}--{_SOLID}])",
    _V1,
)
_SPACE = regex.compile(r"(?<=\s)(?=\S)", _V1)
_BORDER = regex.compile(r"\b(?=[\p{L}\p{N}])", _V1 | regex.WORD)
_GRAPHEME = regex.compile(r"\X", _V1)
_SOLID_CHARACTER = regex.compile(_SOLID, _V1)
_UNSPACED_CHARACTER = regex.compile(_UNSPACED, _V1)
_IGNORED = regex.compile(
    r"[[\p{Default_Ignorable_Code_Point}--\u200d][\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u065f\u0670]]",
    _V1,
)


def sentence_starts(text: str) -> list[int]:
    """Where a sentence starts: after the end of another and the white space behind it, or after a line break."""
    return sorted({*(match.end() for match in _SENTENCE.finditer(text)), *line_starts(text)})


def line_starts(text: str) -> list[int]:
    """Where a line that is not blank starts, its indentation included."""
    return [match.end() for match in _LINE.finditer(text)]


def clause_starts(text: str) -> list[int]:
    """Where a part of a sentence starts: after a comma, colon or dash, or after a space where words have none."""
    return sorted({match.end() for match in _CLAUSE.finditer(text)})


def space_starts(text: str) -> list[int]:
    """Where something starts after white space."""
    return [match.end() for match in _SPACE.finditer(text)]


def word_starts(text: str) -> list[int]:
    """Where a word may start. Where words are not told apart that is every character: ask the tokenizer for more."""
    whole = {match.start() for match in _GRAPHEME.finditer(text)}
    return [match.start() for match in _BORDER.finditer(text) if match.start() in whole]


def rouge_words(text: str) -> list[str]:
    """The words of a text as ROUGE counts them, without case; single characters where words are not told apart.

    In English these are the runs of letters and digits, [a-z0-9]+.
    """
    return regex.findall(_WORDS, _plain(text), _V1)


def without_spaces(character: str) -> bool:
    """Whether a letter belongs to a script that puts no space between words."""
    return _UNSPACED_CHARACTER.match(character) is not None


def between(before: str, after: str) -> str:
    """What stands between two sentences: a space, or "" in Chinese or Japanese and where there is white space."""
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return ""
    solid = [_SOLID_CHARACTER.match(character) is not None for character in (before[-1], after[0])]
    punctuation = [unicodedata.category(character)[0] == "P" for character in (before[-1], after[0])]
    alone = any(one and sign for one, sign in zip(solid, punctuation, strict=True))  # full-width signs bring their own
    return "" if all(solid) or alone else " "


def places(text: str, words: str) -> list[tuple[int, int]]:
    """Where `words` stand in `text`, character by character, but for white space: a line may be broken inside them."""
    return [match.span() for match in regex.finditer(_spelled(words.strip()), text, _V1, overlapped=True)]


def mentions(text: str, words: str) -> int:
    """How often `text` says `words`: whatever the case, compatibility forms and white space, and as whole words.

    A word ends where its script shows it: "lantern" is not in "lanterns" nor "3" in "13", but "GPT" is in "用GPT写".
    Where words are not told apart, or carry particles, to be contained is enough.
    """
    sought = _plain(words).strip()
    if not sought:
        return 0
    left = rf"(?<!{_WORD})" if regex.match(_WORD, sought[0], _V1) else ""
    right = rf"(?!{_WORD})" if regex.match(_WORD, sought[-1], _V1) else ""
    pattern = rf"{left}{_spelled(sought)}(?!{_EXTENDS}){right}"
    return len(regex.findall(pattern, _plain(text), _V1))


def _spelled(words: str) -> str:
    """A pattern for `words` with any white space, also between characters of scripts that have none."""
    pattern = ""
    for left, right in zip(words, words[1:] + " ", strict=True):
        if not left.isspace():
            loose = without_spaces(left) and without_spaces(right)
            pattern += regex.escape(left) + (r"\s+" if right.isspace() else r"\s*" if loose else "")
    return pattern.removesuffix(r"\s+")


def _plain(text: str) -> str:
    """Without case, compatibility forms, invisible characters and the vowel points of Arabic and Hebrew."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return regex.sub(r"\s+", " ", _IGNORED.sub("", folded))
