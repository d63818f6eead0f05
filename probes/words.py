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
# No word is part of another one, nor of an adjective or noun above, nor the other way round.
MORE_WORDS = _split_words(
    """
    abacus accord admiral alcove almanac alphabet ambush anthem apricot aquarium archway armchair artist
    asphalt athlete attic avenue bakery ballad bamboo banner barley beetle biscuit blanket blossom blueprint bonfire
    bottle boulder bracelet brigade brush buckle buffalo bugle bungalow cabbage cactus calendar camera carousel
    carpet carriage cathedral cavern cedar cereal chalk chapel cherry chimney cinema circus citizen cliff cloak
    coconut coffee comet compass concert cookie cottonwood cousin coyote cricket crocodile crystal cupboard curtain
    cushion cyclone daisy dancer debate denim deputy desert dialect diamond dinner doctor dolphin donkey doorway
    dragon drawer drummer eagle eclipse elbow elephant ember emerald engine envelope equator errand estuary
    fabric factory farmer feather ferry fiction figurine finger flamingo flannel flute fossil fowl freckle freight
    furnace gallery garlic gazelle genius ginger giraffe glove gondola gorge grain grammar graph gravel grocer
    guitar gymnast habitat hallway hamlet handle harmony hatchet hazel hedge helmet hickory highway hinge hobby
    honey horizon hostel husband hyena icicle igloo incense infant insect invoice jacket jaguar jasmine jelly
    jewel jigsaw journal juggler jungle juniper kayak kernel kingdom kitchen kitten knuckle koala label lagoon
    laundry lavender ledger legend lettuce library lilac locket lobster lullaby lunch magpie mango maple
    market marsh mascot meteor midnight miner mosaic mosquito motor mountain muffin mural museum mushroom mustard
    napkin nectar nephew nickel nightfall notebook novel nutmeg oasis oatmeal obelisk ocean octopus office olive
    omelet onion orchard organist ostrich outpost oxygen oyster package paddock pagoda painter palace pancake panther
    papaya parade parcel parlor pastry patrol peacock peanut pelican pencil penguin photo piano picnic pigment pilot
    pistachio pixel pizza plaza plumber poem polka popcorn poster potato powder pretzel prince pulley pumpkin puppet
    puzzle pyramid quartz quiver raccoon radish rainbow ranger rattle recipe reef referee reindeer relic reptile
    rhubarb riddle rival robot rocket rooster rubber rudder safari sailor sandal sapphire sauce scarf scholar school
    scooter seagull seaweed senator shadow shamrock shampoo sheriff shoulder shuttle siren skeleton sketch slipper
    smoke snail soccer soldier spaniel spatula spider sponge squirrel stadium starfish statue steeple stomach
    strawberry studio subway sugar suitcase sulfur sundial sunrise surgeon swallow sweater syrup tablet tailor
    tangerine tapestry teacher telescope temple tennis terrace theater thunder ticket tiger timber toffee tomato
    tornado tortoise towel tractor trapeze treasure trophy trumpet tugboat tulip tundra turbine turquoise turtle
    twilight typhoon umbrella uncle unicorn uniform vaccine vampire vanilla vase vehicle veranda vessel vineyard
    vinegar visitor volcano voyage vulture waffle wagon waiter walrus warehouse waterfall weasel whale wharf whisker
    whistle widow window winter wizard wolf wombat woodpecker workshop wreath yacht yogurt zebra zeppelin zipper
    """
)
