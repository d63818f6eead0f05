"""Sentence needles: one true-sounding sentence that nothing else in the text speaks of, and a question about it.

The answer is the needle sentence again, as in the needle-in-a-haystack test. All sentences are our own.
"""

from __future__ import annotations

from ..errors import PoolTooSmall
from ..item import Family, Item
from ..seeds import rng

# key: (needle, question, value). The value is what only the needle says: it is not in the question.
SENTENCES: dict[str, tuple[str, str, str]] = {
    # at sea and on the coast
    "lighthouse": (
        "The keeper of the Dunmore lighthouse stores three brass lanterns under the spiral staircase.",
        "What does the keeper of the Dunmore lighthouse store under the spiral staircase?",
        "three brass lanterns",
    ),
    "ferry": (
        "The last ferry to Skellan Island leaves from the fish market at a quarter past nine.",
        "From where does the last ferry to Skellan Island leave?",
        "the fish market",
    ),
    "shipwreck": (
        "Divers who searched the wreck of the Perpetua found a sealed jar of nutmeg in the captain's cabin.",
        "What did divers who searched the wreck of the Perpetua find in the captain's cabin?",
        "a sealed jar of nutmeg",
    ),
    # kitchens and gardens
    "soup": (
        "Grandmother Ilse always thickened her winter soup with crushed hazelnuts and a spoon of rye flour.",
        "With what did Grandmother Ilse always thicken her winter soup?",
        "crushed hazelnuts and a spoon of rye flour",
    ),
    "bakery": (
        "The bakery on Wexley Lane gives every tenth customer a cinnamon pretzel wrapped in blue paper.",
        "What does the bakery on Wexley Lane give every tenth customer?",
        "a cinnamon pretzel wrapped in blue paper",
    ),
    "orchard": (
        "To keep deer out of the Harrow orchard, the owners hang bars of lavender soap from the lowest branches.",
        "What do the owners hang to keep deer out of the Harrow orchard?",
        "bars of lavender soap",
    ),
    "beekeeper": (
        "The beekeeper of Tolvanen calms her hives by humming an old sailing song at dusk.",
        "How does the beekeeper of Tolvanen calm her hives?",
        "humming an old sailing song at dusk",
    ),
    # mountains and travel
    "mountain-hut": (
        "The warden of the Corvo mountain hut keeps the spare key inside a hollow wooden marmot.",
        "Where does the warden of the Corvo mountain hut keep the spare key?",
        "inside a hollow wooden marmot",
    ),
    "train": (
        "On the night train to Varnholt, passengers in the first carriage are woken with peppermint tea.",
        "With what are passengers in the first carriage woken on the night train to Varnholt?",
        "peppermint tea",
    ),
    "desert": (
        "Caravans that cross the Ashkar desert find their way by a row of seven white cairns.",
        "By what do caravans that cross the Ashkar desert find their way?",
        "seven white cairns",
    ),
    "picnic": (
        "The best thing to do in Elmstead on a rainy day is to watch the puppet makers behind the town hall.",
        "What is the best thing to do in Elmstead on a rainy day?",
        "watch the puppet makers behind the town hall",
    ),
    # science
    "telescope": (
        "The mirror of the Ostrava telescope is cleaned twice a year with distilled vinegar.",
        "With what is the mirror of the Ostrava telescope cleaned twice a year?",
        "distilled vinegar",
    ),
    "frog": (
        "The glass frogs of the Mirano valley turn pale orange an hour before an earthquake.",
        "What colour do the glass frogs of the Mirano valley turn an hour before an earthquake?",
        "pale orange",
    ),
    "glacier": (
        "A core drilled from the Solheim glacier contained pollen of a plum tree that no longer exists.",
        "What did a core drilled from the Solheim glacier contain?",
        "pollen of a plum tree",
    ),
    "alloy": (
        "Professor Quill discovered that her new alloy becomes magnetic only when it is dipped in warm milk.",
        "When does the new alloy of Professor Quill become magnetic?",
        "dipped in warm milk",
    ),
    # work, law and money
    "treaty": (
        "The treaty of Lindqvist was signed in a barber shop because the palace had no heating.",
        "Where was the treaty of Lindqvist signed?",
        "in a barber shop",
    ),
    "bank": (
        "The oldest bank of Morrow County still accepts dried beans as a deposit on Thursdays.",
        "What does the oldest bank of Morrow County still accept as a deposit on Thursdays?",
        "dried beans",
    ),
    "factory": (
        "Every umbrella from the Pettigrew factory has a tiny owl carved into its handle.",
        "What does every umbrella from the Pettigrew factory have carved into its handle?",
        "a tiny owl",
    ),
    "auction": (
        "At the Belgrave auction, a mended accordion sold for more than the two paintings beside it.",
        "What sold for more than the two paintings at the Belgrave auction?",
        "a mended accordion",
    ),
    # music, games and art
    "orchestra": (
        "The conductor of the Halden orchestra tunes the hall by dropping a silver coin on the stage.",
        "How does the conductor of the Halden orchestra tune the hall?",
        "dropping a silver coin",
    ),
    "chess": (
        "Grandmaster Oyelaran opens every tournament by eating a single green apple at the board.",
        "How does Grandmaster Oyelaran open every tournament?",
        "eating a single green apple",
    ),
    "painter": (
        "The painter Rosalind Achterberg mixed her famous grey from soot and the juice of blackberries.",
        "From what did the painter Rosalind Achterberg mix her famous grey?",
        "soot and the juice of blackberries",
    ),
    "museum": (
        "The smallest exhibit of the Tarrant museum is a violin made from the shell of a walnut.",
        "What is the smallest exhibit of the Tarrant museum?",
        "a violin made from the shell of a walnut",
    ),
    # health and sport
    "marathon": (
        "The runner who won the Castellan marathon wore two different shoes to bring luck to her sisters.",
        "What did the runner who won the Castellan marathon wear?",
        "two different shoes",
    ),
    "doctor": (
        "Doctor Farrow tells patients who cannot sleep to count the ticks of a slow kitchen clock.",
        "What does Doctor Farrow tell patients who cannot sleep to count?",
        "the ticks of a slow kitchen clock",
    ),
    "swimmer": (
        "Before the swim across Lake Ondine, Teodora rubs her shoulders with goose fat and rosemary.",
        "With what does Teodora rub her shoulders before the swim across Lake Ondine?",
        "goose fat and rosemary",
    ),
    # school and everyday life
    "school": (
        "Pupils of the Winslow village school borrow rubber boots from a chest beside the piano.",
        "What do pupils of the Winslow village school borrow from a chest beside the piano?",
        "rubber boots",
    ),
    "letter": (
        "The letter that Captain Brandt never posted was hidden behind the portrait of a sleeping greyhound.",
        "Where was the letter that Captain Brandt never posted hidden?",
        "behind the portrait of a sleeping greyhound",
    ),
    "clock": (
        "The town clock of Averdale runs eleven minutes late in memory of a stranded wedding guest.",
        "In memory of whom does the town clock of Averdale run late?",
        "a stranded wedding guest",
    ),
    "password": (
        "To enter the reading room of the Kestrel club, visitors must whisper the name of a river.",
        "What must visitors whisper to enter the reading room of the Kestrel club?",
        "the name of a river",
    ),
}


def item(key: str) -> Item:
    """The sentence needle of that key."""
    needle, question, value = SENTENCES[key]
    return Item("needle", "sentence", key, needle, question, value, answer=f" {needle}")


def items(n: int, seed: int) -> list[Item]:
    """`n` different needles; the same seed gives the same first ones for every n."""
    if n > len(SENTENCES):
        raise PoolTooSmall(
            f"{n} sentence needles are asked for; there are {len(SENTENCES)}. Ask for fewer, or use kind='number', "
            "which has thousands."
        )
    keys = list(SENTENCES)
    return [item(keys[index]) for index in rng(seed, "sentences").permutation(len(keys))[:n]]


FAMILIES = [Family("sentence", lambda n, seed, _: items(n, seed))]
