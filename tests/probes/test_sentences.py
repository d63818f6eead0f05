"""Sentences, clauses and words in many scripts."""

from __future__ import annotations

import unicodedata

import pytest

from headscope.probes.sentences import (
    between,
    clause_starts,
    line_starts,
    mentions,
    rouge_words,
    sentence_starts,
    space_starts,
    word_starts,
)


@pytest.mark.parametrize(
    "marked",
    [  # "|" stands where a sentence starts
        "It rained. |Nobody came? |(We waited.) |He said: “Go!” |Then version 3.14 of v2.1 came, e.g. the old one.",
        "Well… |And then... so it was. |The end",
        "„Hallo.“ |Dann ging er. |»So.« |Ja.",
        "老猎人去图书馆。|他说：“走吧！”|然后走了！？|圆周率是３．１４。|OK.|你好",
        "雨が降った。|「はい。」|次の文です｡|終わり",
        "घड़ी पीछे चलती है। |दूसरा वाक्य॥ |तीसरा।|चौथा",
        "یہ کتاب ہے۔ |کیا؟ |ہاں",
        "ሰላም ነው። |እንዴት፧ |ደህና፡፡ |በጣም",
        "Καλημέρα; |Ναι.",
        "Առաջին։ |Երկրորդ",
        "សួស្តី។ |បណ្ណាល័យ",
        "စာကြည့်တိုက်။ |ပြီးပြီ",
        "བོད་ཡིག། |ཁྱེད་རང་།",
        "비가 왔다. |아무도 없었다! |네?",
        "def f(x):\n|    return x[0]!=x[1]\r\n|print(f)\n\n  \n|end\n",
        "ไม่มีจุดในประโยคนี้ แต่มีช่องว่าง",
    ],
)
def test_a_sentence_starts_after_the_end_of_another(marked: str) -> None:
    parts = marked.split("|")
    starts = [len("".join(parts[:i])) for i in range(1, len(parts))]
    assert sentence_starts("".join(parts)) == starts


def test_lines_clauses_and_words() -> None:
    text = "a, b: c\n  d — e;f"
    assert line_starts(text) == [8]
    assert [text[at] for at in clause_starts(text)] == ["b", "c", "e"]
    assert [text[at] for at in space_starts(text)] == ["b", "c", "d", "—", "e"]
    assert [text[at] for at in word_starts(text)] == ["a", "b", "c", "d", "e", "f"]
    assert [at for at in clause_starts("他说，走、跑；我３，５") if at] == [3, 5, 7]
    assert clause_starts("ไปบ้าน แล้วนอน") == [7]
    assert [at for at in word_starts("don't 3,000") if at] == [6]


def test_a_word_starts_at_whole_characters_only() -> None:
    assert word_starts("ที่นี่") == [0, 3]
    assert word_starts("कि की") == [0, 3]
    assert word_starts("cafe\u0301 x") == [0, 6]


def test_what_stands_between_sentences() -> None:
    assert between("馆。", "老猎人") == between("文。", "GPT") == between("馆", "老") == between("a ", "b") == ""
    assert (
        between("It rained.", "老猎人") == between("ห้อง", "ที่นี่") == between("왔다.", "비가") == between("x", "y") == " "
    )


@pytest.mark.parametrize(
    ("text", "words", "times"),
    [
        ("We saw The\n library. THE LIBRARY!", "the library", 2),
        ("lanterns", "lantern", 0),
        ("13 boats and 3.", "3", 1),
        ("C++ is C", "c++", 1),
        ("node-93abcd", "node-93abc", 0),
        ("он коту не кот", "Кот", 1),
        ("cafés", "café", 0),
        ("cafe\u0301", "café", 1),
        ("cafe\u0301", "cafe", 0),
        ("ＧＰＴ", "gpt", 1),
        ("用GPT写，GPT4", "GPT", 1),
        ("第3章13", "3", 1),
        ("他去图书\n馆了", "图书馆", 1),
        ("東京都庁", "東京", 1),
        ("ﾄｼｮｶﾝで", "トショカン", 1),
        ("ห้อง\u200bสมุดใหม่", "ห้องสมุด", 1),
        ("ที่นี่", "ที", 0),
        ("ຫ້ອງສະໝຸດໃໝ່", "ຫ້ອງສະໝຸດ", 1),
        ("បណ្ណាល័យធំ", "បណ្ណាល័យ", 1),
        ("중앙 도서관에서", "도서관", 1),
        ("13번 3번", "3", 1),
        ("والكِتابُ", "كتاب", 1),
        ("לירושלים", "ירושלים", 1),
        ("በአዲስ", "አዲስ", 1),
        ("घर में घरों में", "घर", 1),
        ("சிவப்புப்பெட்டி", "சிவப்பு", 1),
        ("👍🏽 👍", "👍", 1),
        ("❤️", "❤", 1),
        ("anything", " ", 0),
    ],
)
def test_words_are_found_as_their_script_writes_them(text: str, words: str, times: int) -> None:
    assert mentions(text, words) == times


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The best_thing in S.F. is 42: don't!", "the best thing in s f is 42 don t"),
        ("Лучшее в Москве — сидеть в Парке.", "лучшее в москве сидеть в парке"),
        ("Η ΑΘΉΝΑ, Straße naïve", "η αθήνα strasse naïve"),
        ("去GPT图书馆。", "去 gpt 图 书 馆"),
        ("ﾄｼｮｶﾝへ", "ト シ ョ カ ン へ"),
        ("ที่นี่", "ที่ นี่"),
        ("도서관에 간다", "도서관에 간다"),
        ("والكِتابُ هنا", "والكتاب هنا"),
        ("घरों में", "घरों में"),
        ("— 👍 …", ""),
    ],
)
def test_words_are_told_apart_in_every_script(text: str, found: str) -> None:
    assert rouge_words(text) == unicodedata.normalize("NFKC", found).split()
