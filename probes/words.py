"""Word lists of our own: keys, people, places and what they do."""

from __future__ import annotations


def _split_words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _split_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


ADJECTIVES = _split_words(
    """
    amber ancient brisk bronze candid cobalt copper coral crimson crooked dapper dusky eager early fabled faint
    feral floral frosty gentle gilded golden granite hollow humble ivory jolly lively lucid marble mellow misty
    modest narrow noble northern opal pale patient plain polished proud quiet rapid restless rural rustic sable
    salty scarlet silent silver slender solemn southern steady sturdy sunlit tender timid tranquil upland velvet
    vivid western wild woven
    """
)
NOUNS = _split_words(
    """
    acorn anchor anvil apron badger barrel basket beacon bellows bobbin bonnet bridge bucket candle canoe canyon
    castle cellar chisel clover cottage cradle falcon fiddle forest fountain garden geyser glacier goblet hammer
    harbor harvest heron hornet island kettle ladder lantern lemon lizard magnet mantle meadow mirror mitten
    monsoon needle otter paddle parrot pebble pepper pigeon pillow planet plover pocket pottery prairie puddle
    quarry rabbit raft ribbon saddle salmon satchel shelter sparrow spindle spruce stable summit teapot thicket
    thimble tunnel turnip valley violin walnut willow
    """
)
FIRST = _split_words(
    """
    Adela Anselm Beatrix Bertil Camilla Cosmo Dagny Darius Edda Emeric Farah Florian Greta Gideon Hanna Hugo
    Ines Ivo Jorunn Julius Kaya Kasper Leonie Lucian Marit Milo Nadia Nestor Odile Oskar Petra Pascal Renata
    Rufus Selma Silas Tamsin Tobias Ulla Valentin Wanda Yusuf Zelda Zoran
    """
)
MIDDLE = _split_words(
    """
    Ada Blaise Clare Dean Eve Fay Glen Hope Ivy Jude Kit Lee Mae Noel Pearl Quinn Reed Sage Wren York
    """
)
LAST = _split_words(
    """
    Abernathy Almgren Bellweather Birkeland Castellane Corrigan Dahlgren Delacroix Eastwick Ellingham
    Fairweather Fenwick Garrison Grimaldi Halvorsen Hargreave Ishikawa Jankowski Kettering Kowalczyk Lindholm
    Lovelace Marchetti Merriweather Nakamura Northcott Okonkwo Olander Pemberton Petrakis Quarles Ravenscroft
    Rosenthal Sandoval Steadman Tillinghast Underhill Vandermeer Villanueva Wetherby Whitlock Yarborough Zamora
    Zielinski
    """
)
TOWNS = _split_lines(
    """
    Alderbrook
    Ambleford
    Brackenmoor
    Brindlewick
    Cinderhollow
    Coldharbour
    Dovermere
    Eaglestow
    Elderfield
    Fernhaven
    Foxcombe
    Glenmarrow
    Greywater
    Hartsfield
    Hollowbrook
    Ironbridge
    Juniper Falls
    Kingsmarsh
    Larkspur Bay
    Longmeadow
    Millbrook
    Mossgate
    Netherby
    Oakhampton
    Pinewood Crossing
    Ravensworth
    Riverbend
    Saltmarsh
    Silverton
    Stonebridge
    Thistledown
    Thornbury
    Umberleigh
    Wavecrest
    Westhaven
    Whitcombe
    Willowdale
    Windermoor
    Yarrowfield
    """
)
HOBBIES = _split_lines(
    """
    building model railways
    carving spoons from birch wood
    collecting antique maps
    folding paper animals
    growing giant pumpkins
    keeping racing pigeons
    painting miniature landscapes
    playing the hurdy-gurdy
    repairing pocket watches
    restoring old bicycles
    sailing toy boats
    sewing historical costumes
    solving crossword puzzles
    training sheepdogs
    watching migrating cranes
    writing limericks
    """
)
SUBJECTS = _split_lines(
    """
    actuarial science
    agricultural chemistry
    ancient history
    applied linguistics
    garden architecture
    cartography
    ceramic engineering
    classical philology
    forest ecology
    human geography
    marine biology
    medieval law
    nutrition science
    organ music
    petroleum geology
    theatre design
    urban planning
    veterinary medicine
    """
)
