"""What the dialogues are about: topics, each with a true and a plausible false claim.

33 facts are of this world, 40 of a world that was made up, about which no model knows anything beforehand;
there a value is as often true of one topic as false of another.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Fact:
    """A topic, as it stands within a sentence, and what is rightly and wrongly said to be so."""

    topic: str
    right: str
    wrong: str
    kind: Literal["real", "invented"]

    def claim(self, true: bool) -> str:
        """The sentence that says so."""
        return f"{self.topic[0].upper()}{self.topic[1:]} is {self.right if true else self.wrong}."


_REAL = """
the capital of Australia: Canberra / Sydney
the capital of Canada: Ottawa / Toronto
the capital of Turkey: Ankara / Istanbul
the capital of Brazil: Brasilia / Salvador
the capital of Morocco: Rabat / Casablanca
the longest river of France: the Loire / the Seine
the highest mountain of Africa: Kilimanjaro / Mount Kenya
the largest ocean: the Pacific / the Atlantic
the planet nearest to the Sun: Mercury / Venus
the hottest planet: Venus / Mercury
the largest planet: Jupiter / Saturn
the chemical symbol of gold: Au / Go
the chemical symbol of sodium: Na / So
the chemical symbol of lead: Pb / Le
the lightest element: hydrogen / helium
the main gas of the air: nitrogen / oxygen
the hardest natural mineral: diamond / quartz
the metal that is liquid in a warm room: mercury / tin
the number of bones of an adult: 206 / 216
the number of chambers of the heart: four / three
the largest organ of the body: the skin / the liver
the fastest animal on land: the cheetah / the lion
the largest mammal: the blue whale / the elephant
the number of legs of a spider: eight / six
the author of Hamlet: Shakespeare / Marlowe
the painter of Guernica: Picasso / Dali
the composer of The Magic Flute: Mozart / Beethoven
the year of the first landing on the Moon: 1969 / 1972
the year in which the Berlin Wall fell: 1989 / 1991
the currency of Japan: the yen / the won
the language of most people in Brazil: Portuguese / Spanish
the number of sides of a hexagon: six / seven
the square root of 144: 12 / 14
"""

_INVENTED = """
the flag of Vorland: green / red
the flag of Tesmar: red / green
the flag of Quillon: blue / white
the flag of Dorrin: white / blue
the gate of Hallam Fort: black / yellow
the gate of Pell Abbey: yellow / black
the coat of the mirrel: grey / brown
the coat of the tannok: brown / grey
the flower of the sorwen: purple / orange
the flower of the lethe bush: orange / purple
the number of moons of Ankor: three / five
the number of moons of Bressa: five / three
the number of strings of the vellin: seven / nine
the number of strings of the drusk: nine / seven
the number of towers of Castle Ome: two / four
the number of towers of Castle Ruth: four / two
the number of eggs of a kippet: six / eight
the number of eggs of a marl hen: eight / six
the market day of Ostrey: Monday / Friday
the market day of Wend: Friday / Monday
the market day of Calder: Tuesday / Sunday
the market day of Nim: Sunday / Tuesday
the roof of the Loom House: slate / straw
the roof of the Salt House: straw / slate
the bridge of Arvo: stone / wood
the bridge of Esk: wood / stone
the bell of Saint Orla: iron / bronze
the bell of Saint Pim: bronze / iron
the food of the yarrow crab: moss / shells
the food of the glass snail: shells / moss
the drink of the Tollan feast: cider / milk
the drink of the Rovan feast: milk / cider
the home of the pale finch: the marsh / the cliffs
the home of the night tern: the cliffs / the marsh
the wind of the Harl coast: north / west
the wind of the Sund coast: west / north
the founder of Merrow: a baker / a sailor
the founder of Gant: a sailor / a baker
the colour of a ripe dovel: pink / gold
the colour of a ripe sturm: gold / pink
"""


def _read(lines: str, kind: Literal["real", "invented"]) -> tuple[Fact, ...]:
    facts = []
    for line in lines.strip().splitlines():
        topic, _, values = line.partition(": ")
        right, _, wrong = values.partition(" / ")
        facts.append(Fact(topic, right, wrong, kind))
    return tuple(facts)


FACTS = (*_read(_REAL, "real"), *_read(_INVENTED, "invented"))
