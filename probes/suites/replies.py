"""What MRCR's transcripts ask for and reply: formats, topics and styles of our own, and a grammar of replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

import numpy as np

from ..words import ADJECTIVES, FIRST, NOUNS, TOWNS


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True)
class Format:
    """A kind of text: how it may begin, how it may end, and whether its sentences are lines of verse."""

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    verse: bool = False


FORMATS: Mapping[str, Format] = {
    "poem": Format(
        (
            "O {topic} of {town}, I sing of you,",
            "Softly, you {topic}, the {adjective} hour is near,",
            "{name} dreamt {topic},",
        ),
        ("So fade the {topic} and the {noun}.", "Sleep, {topic}, {place}.", "Only the {noun} is {quality} now."),
        verse=True,
    ),
    "song": Format(
        ("Hey {name}, play it for the {topic},", "Down in {town} {topic} keep the beat,", "La la, {topic}, {time},"),
        ("Clap till the {noun} falls down.", "Oh {topic}, take {name} home.", "Fade out {place}, {topic}."),
        verse=True,
    ),
    "riddle": Format(
        (
            "Guess what {name} and the {topic} hid:",
            "What do {topic} own {place}?",
            "{number} {topic} and one {noun}, how so?",
        ),
        ("Say {noun} and the {topic} will nod.", "Who am I, asked {name}?", "Answer {time}, or lose a {noun}."),
        verse=True,
    ),
    "short story": Format(
        (
            "At the edge of {town}, {name} inherited {topic}.",
            "Nobody told {name} about {topic}.",
            "{time}, {topic} arrived.",
        ),
        ("After that, {name} sold no {noun}.", "The {topic} stayed {place}.", "{name} shut the {adjective} door."),
    ),
    "letter": Format(
        (
            "Dear {name}, {town} is full of {topic}.",
            "My dear {name}, you asked after the {topic}.",
            "{name}, {time} I saw {topic}.",
        ),
        ("Yours, with a {noun} enclosed, {name}.", "Write soon to {town}.", "Kiss the {adjective} {noun} from me."),
    ),
    "news report": Format(
        (
            "{town}: a quarrel over {topic} closed the market.",
            "Police {saw} {topic} {place}.",
            "{number} {topic} reached {town} {time}.",
        ),
        ("A hearing on the {noun} is set.", "{name}, the mayor, left {manner}.", "Trains to {town} run again."),
    ),
    "diary entry": Format(
        (
            "Dear diary, {topic} came to {town}.",
            "I must not tell {name} about the {topic}.",
            "Slept badly, heard {topic} {place}.",
        ),
        ("Tomorrow I shall hide the {noun}.", "My {adjective} candle is nearly out.", "{name} knows nothing."),
    ),
    "speech": Format(
        (
            "Citizens of {town}, the hour of the {topic} has come.",
            "Friends, {name} sends me to praise {topic}.",
            "Why {topic}?",
        ),
        ("Raise your {noun} with me.", "To {town}.", "I yield, {style}, to {name}."),
    ),
    "blog post": Format(
        (
            "What {topic} taught me in {town}.",
            "Hello readers, more {topic} from {name}.",
            "{number} facts about {topic}.",
        ),
        ("Tell me about your {adjective} {noun}.", "Next week: {town}.", "Thanks to {name} for the {noun}."),
    ),
    "review": Format(
        ("Two stars for the {topic} from {town}.", "I was given {topic} by {name}.", "Bought {topic} {time}."),
        ("I would not buy the {noun} again.", "Better than my {adjective} {noun}.", "Ask {name} for a refund."),
    ),
    "fable": Format(
        (
            "Long ago {topic} asked the {noun} for advice.",
            "A {adjective} {noun} once ruled the {topic}.",
            "{topic} met a {noun} {place}.",
        ),
        ("The moral: be {quality}.", "Thus even {topic} must share.", "So the {noun} learnt to wait."),
    ),
    "postcard": Format(
        (
            "Greetings to {name} from {town}, city of {topic}.",
            "{topic} everywhere {time}, {name}.",
            "Hotel {adjective}, {topic} {quality}.",
        ),
        ("Feed the {noun} for me.", "Back {time}.", "Love to {name} and the {noun}."),
    ),
}
TOPICS = _words(
    """
    tapirs lighthouses beekeepers comets walruses tulips ferries cellos tortoises windmills hedgehogs volcanoes
    clocks penguins mushrooms trams puppets kites badminton sheepdogs oysters ballrooms chessboards pancakes
    scarecrows turbines umbrellas moths orchards icebergs jugglers submarines typewriters geese cathedrals
    skeletons nomads fireflies tugboats cacti librarians balloons marmots waterfalls blacksmiths carousels lobsters
    telescopes hammocks storks
    """
)
STYLES: Mapping[str, tuple[str, ...]] = {
    "formal": ("with due respect", "as is customary", "in accordance with the rules", "pursuant to notice"),
    "playful": ("giggling all the while", "hop, skip and jump", "for a lark", "cheeks full of jam"),
    "solemn": ("with bowed heads", "in deep silence", "as if at a grave", "without one smile"),
    "dramatic": ("as thunder broke", "with trembling hands", "against all fate", "to gasps from the gallery"),
    "laconic": ("more or less", "that is all", "no matter", "such is life"),
    "scholarly": ("as the sources attest", "according to the archive", "in the strict sense", "pace the critics"),
    "cheerful": ("beaming with joy", "to merry applause", "in the best of moods", "whistling brightly"),
    "gloomy": ("under a grey sky", "with little hope", "while the rain went on", "as everything must end"),
    "romantic": ("with a pounding heart", "beneath the moon", "for love alone", "sighing tenderly"),
    "rustic": ("mud on their boots", "as the hay came in", "by lamp and hearth", "smelling of apples"),
}
LINES = (
    "{time} {name} {saw} {number} {topic} {place}.",
    "The {topic} of {town} {deed} {manner}, {style}.",
    "No {noun} is as {quality} as {topic} {place} {time}.",
    "{name} traded a {adjective} {noun} for {number}, {style}.",
    "In {town}, {style}, {quality} {topic} {deed} {place}.",
    "{time} the {adjective} {noun} was lost {place}.",
    "{style}, they {deed} {manner} for a {noun}.",
    "Some {adjective} {noun} in {town} knows how {topic} {deed}.",
    "Where the {noun} ends, {number} {topic} {deed}.",
    "{name} calls them {quality}, but {name} says {quality}.",
    "How {quality} is the {noun} {place}, and how {adjective}.",
    "{time} even {town} grew {quality}, {style}.",
    "Give a {noun} to {name}, who is {quality}, {style}.",
    "They {deed} until {name} {saw} the {adjective} {noun}.",
    "Once {place}, twice {place}, always {manner}, {style}.",
    "My aunt {name} {saw} a {noun} {manner} {time}.",
    "Two {adjective} {topic} are worth {number} from {town}.",
    "Not {quality}, not {quality}, yet they {deed} {place}.",
    "Who {saw} {name} {time}? A {noun}, {style}.",
    "It smells of {noun} {place}, and {topic} {deed}.",
    "{manner}, {name} left {town} with {number} {topic}.",
    "{adjective} was the {noun}, {adjective} the road to {town}.",
    "Had {name} been {quality}, the {topic} would {deed}.",
    "{place} hangs one {adjective} {noun}, {style}, {time}.",
)
SLOTS: Mapping[str, tuple[str, ...]] = {
    "adjective": ADJECTIVES,
    "noun": NOUNS,
    "name": FIRST,
    "town": TOWNS,
    "number": _words("two three five six seven nine ten eleven twelve twenty thirty forty fifty sixty ninety"),
    "time": (
        *("before dawn", "at noon", "on the last Friday of May", "every ninth winter", "in leap years"),
        *("since the flood", "twice a week", "when the bells rang", "long past midnight", "during the eclipse"),
        *("on her birthday", "between two storms", "all through Lent", "at low tide", "one harvest later"),
        *("in the year of the frost", "just after supper", "at first snow", "while the kettle sang"),
    ),
    "place": (
        *("behind the chapel", "under the pier", "on the roof of the bank", "along the canal", "inside the old mill"),
        *("by the toll gate", "across seven fields", "near the quarry", "in the inn", "beside the tracks"),
        *("at the ferry landing", "upstairs", "among the ruins", "on Gallows Hill", "within the walled garden"),
        *("past the customs house", "below the weir", "on the village green", "over the border", "beyond the dunes"),
    ),
    "deed": (
        *("argue about salt", "march in pairs", "paint their doors blue", "hum old psalms", "count the stars twice"),
        *("refuse to dance", "hoard string", "learn Greek", "sell maps to sailors", "vote by lantern light"),
        *("borrow ladders", "forget their debts", "bury coins", "mend nets", "bake black bread", "tell bad jokes"),
        *("guard the well", "quarrel over chairs", "keep careful ledgers", "practise knots"),
    ),
    "manner": (
        *("without haste", "in perfect order", "back to front", "out of spite", "for a small fee", "with one eye shut"),
        *("by the dozen", "in spite of everything", "as if nobody knew", "like retired judges", "word for word"),
        *("at half price", "on tiptoe", "to the letter", "against advice", "in borrowed coats"),
    ),
    "quality": _words(
        "brave stubborn punctual graceful greedy loyal thrifty vain polite clumsy curious generous drowsy famous "
        "fragile cunning merciful boring sincere reckless"
    ),
    "saw": (
        *("met", "sketched", "followed", "photographed", "insulted", "counted", "rescued", "praised", "mistook"),
        *("startled", "weighed", "cursed", "woke", "crossed", "hired", "forgave"),
    ),
}
FIELDS = {text: tuple(name for _, name, _, _ in Formatter().parse(text) if name) for text in LINES} | {
    text: tuple(name for _, name, _, _ in Formatter().parse(text) if name)
    for each in FORMATS.values()
    for text in (*each.openings, *each.closings)
}


@dataclass(frozen=True)
class Request:
    """What the user asks for; the same for all needles of a set."""

    format: str
    topic: str
    style: str


def a_request(rng: np.random.Generator, style: bool) -> Request:
    """Any of them; without `style` it is one that nobody asks for, and each reply has its own."""
    return Request(_any(rng, tuple(FORMATS)), _any(rng, TOPICS), _any(rng, tuple(STYLES)) if style else "")


def a_reply(rng: np.random.Generator, request: Request, lines: int, used: set[str]) -> str:
    """A text of an opening, `lines` lines and a closing; none of the lines is in `used`, to which they are added."""
    kind = FORMATS[request.format]
    style = request.style or _any(rng, tuple(STYLES))
    order = rng.permutation(len(LINES)).tolist()
    phrases, found = STYLES[style], [_line(rng, _any(rng, kind.openings), request.topic, STYLES[style])]
    for i in range(lines):
        while (line := _line(rng, LINES[order[i % len(LINES)]], request.topic, phrases)) in used:
            pass  # the smallest pattern has tens of thousands of lines
        used.add(line)
        found.append(line)
    found.append(_line(rng, _any(rng, kind.closings), request.topic, phrases))
    return ("\n" if kind.verse else " ").join(found)


def _line(rng: np.random.Generator, pattern: str, topic: str, phrases: Sequence[str]) -> str:
    fields = FIELDS[pattern]
    parts = pattern.split("{")
    text = parts[0]
    for field, part in zip(fields, parts[1:], strict=True):
        word = topic if field == "topic" else _any(rng, phrases if field == "style" else SLOTS[field])
        text += word + part.partition("}")[2]
    return text[0].upper() + text[1:]


def _any(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
