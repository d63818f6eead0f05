"""What is asked for and replied in MRCR's transcripts: formats, topics and styles of our own, and a grammar of replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

import numpy as np

from ..words import ADJECTIVES, FIRST, NOUNS, TOWNS


@dataclass(frozen=True)
class Format:
    """A kind of text: how it may begin, how it may end, and whether its sentences are lines of verse."""

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    verse: bool = False


FORMATS: Mapping[str, Format] = {
    "poem": Format(
        ("O {topic} of {town}, I sing of you again,", "Softly now, you {topic}, the {adjective} hour is near,"),
        ("And so the {topic} fade with the {noun} into the {adjective} dusk.", "Sleep, {topic}, where the {noun} sleeps."),
        verse=True,
    ),
    "song": Format(
        ("Hey {name}, turn the {adjective} radio on for the {topic},", "Down in {town} the {topic} keep the beat,"),
        ("So clap for the {topic} till the {noun} falls down.", "Oh, {topic}, take {name} home to {town}."),
        verse=True,
    ),
    "riddle": Format(
        ("Guess what {name} and the {topic} hid in a {noun}:", "What do {topic} own that no {noun} can hold?"),
        ("Say it to the {adjective} {noun} and the {topic} will nod.", "Who am I, asked {name}, if not the {topic}?"),
        verse=True,
    ),
    "short story": Format(
        ("Once, at the edge of {town}, {name} inherited some {topic}.", "Nobody told {name} about the {topic} of {town}."),
        ("After that, {name} never sold a {noun} again.", "And the {topic} are in {town} to this day."),
    ),
    "letter": Format(
        ("Dear {name}, I write to you from {town} about the {topic}.", "My dear {name}, you asked how the {topic} are."),
        ("Yours, with a {adjective} {noun} enclosed, {name}.", "Write soon to {town}, {name}."),
    ),
    "news report": Format(
        ("{town}: a quarrel over {topic} closed the {adjective} market.", "Police in {town} were called to the {topic}."),
        ("A hearing about the {noun} is set in {town}.", "{name}, the mayor, declined to discuss the {noun}."),
    ),
    "diary entry": Format(
        ("Dear diary, today the {topic} came to {town}.", "I must not tell {name} what I saw among the {topic}."),
        ("Tomorrow I shall hide the {noun}.", "My {adjective} candle is nearly out, so good night."),
    ),
    "speech": Format(
        ("Citizens of {town}, the hour of the {topic} has come.", "Friends, {name} sends me to speak for the {topic}."),
        ("Raise your {noun} with me, and thank you.", "To the {topic}, and to {town}!"),
    ),
    "blog post": Format(
        ("Five things that {topic} taught me in {town}.", "Hello readers, {name} here, with more {topic}."),
        ("Tell me below about your own {adjective} {noun}.", "Next week: the {noun} market of {town}."),
    ),
    "review": Format(
        ("Two stars for the {topic} that I ordered from {town}.", "I was given these {topic} by {name} of {town}."),
        ("I would not buy the {noun} again.", "Better than my {adjective} {noun}, and cheaper."),
    ),
    "fable": Format(
        ("Long ago the {topic} asked the {noun} for advice.", "A {adjective} {noun} once ruled the {topic} of {town}."),
        ("The moral: keep your {noun} to yourself.", "Thus even {topic} must share a {noun}."),
    ),
    "postcard": Format(
        ("Greetings to {name} from {town}, city of {topic}!", "Weather {adjective}, {topic} everywhere, wish you were here."),
        ("Feed the {noun} for me, {name}.", "Back on the {adjective} train soon."),
    ),
}
TOPICS = tuple(
    """
    tapirs lighthouses beekeepers comets walruses tulips ferries cellos tortoises windmills hedgehogs volcanoes
    clocks penguins mushrooms trams puppets kites badminton sheepdogs oysters ballrooms chessboards pancakes
    scarecrows turbines umbrellas moths orchards icebergs jugglers submarines typewriters geese cathedrals
    skeletons nomads fireflies tugboats cacti librarians balloons marmots waterfalls blacksmiths carousels lobsters
    telescopes hammocks storks
    """.split()
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
    "{name} traded a {adjective} {noun} for {number} of them, {style}.",
    "In {town} people say that {topic} {deed} {place}.",
    "{time} the {adjective} {noun} of {name} was lost {place}.",
    "{style}, they {deed} {manner} and asked for a {noun}.",
    "A {adjective} {noun} in {town} remembers how {topic} {deed}.",
    "Where the {noun} ends, {number} {topic} {deed} {manner}.",
    "{name} calls the {topic} {quality}, and {name} calls them {quality}.",
    "What is {quality} about them is the {noun} they keep {place}.",
    "{time} even {town} grew {quality}, and the {topic} {deed}.",
    "Give a {noun} to {name}, and {topic} will come {place}, {style}.",
    "They {deed}, {style}, until {name} {saw} the {adjective} {noun}.",
)
SLOTS: Mapping[str, tuple[str, ...]] = {
    "adjective": ADJECTIVES,
    "noun": NOUNS,
    "name": FIRST,
    "town": TOWNS,
    "number": tuple("two three five six seven nine ten eleven twelve twenty thirty forty fifty sixty ninety".split()),
    "time": (
        *("before dawn", "at noon", "on the last Friday of May", "every ninth winter", "after the fair", "in leap years"),
        *("since the flood", "twice a week", "when the bells rang", "long past midnight", "during the eclipse"),
        *("on her birthday", "between two storms", "all through Lent", "at low tide", "one harvest later"),
        *("in the year of the frost", "just after supper", "at first snow", "while the kettle sang"),
    ),
    "place": (
        *("behind the chapel", "under the pier", "on the roof of the bank", "along the canal", "inside the old mill"),
        *("by the toll gate", "across seven fields", "near the quarry", "in the cellar of the inn", "beside the tracks"),
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
    "quality": tuple(
        "brave stubborn punctual graceful greedy loyal thrifty vain polite clumsy curious generous drowsy famous "
        "fragile cunning merciful boring sincere reckless".split()
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
    """A text of an opening, `lines` lines and a closing, none of whose lines is in `used`, to which they are added."""
    kind = FORMATS[request.format]
    style = request.style or _any(rng, tuple(STYLES))
    order = rng.permutation(len(LINES)).tolist()
    patterns = [LINES[order[i % len(LINES)]] for i in range(lines)]
    patterns = [_any(rng, kind.openings), *patterns, _any(rng, kind.closings)]
    found = []
    for pattern in patterns:
        while (line := _line(rng, pattern, request.topic, STYLES[style])) in used:
            pass
        used.add(line)
        found.append(line)
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
