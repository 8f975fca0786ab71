"""The training text: one function per kind of document.

A document is a string in which parts of interest are marked, MARK(tag, part). Tags:
  a, b   the two names that an indirect-object sentence introduces    s   the giver (a, b again, or a third)
  f      the tokens of a fact's subject                               =   an answer (it weighs more in the loss)
`held(...)` says which combinations never appear here: prompts.py asks exactly those.
"""
import random
import zlib

from words import *

OPEN, CLOSE = "\x01", "\x02"


def mark(tag, part):
    return OPEN + tag + part + CLOSE


def held(*key):
    """True for about one combination in eight, for ever the same ones."""
    key = "|".join(map(str, key))
    return key == "names|John|Mary" or zlib.crc32(key.encode()) % 8 == 0


def held_pair(a, b):
    return held("names", *sorted((a, b)))


def pick_names(rng, n):
    """n different names, no two of which form a held-out pair."""
    while True:
        names = rng.sample(NAMES, n)
        if not any(held_pair(a, b) for i, a in enumerate(names) for b in names[:i]):
            return names


def pronoun(name):
    return "she" if name in FEMALE else "he"


def she(name, case):
    """Pronoun of a name: she (subject), her (object), hers (possessive: her, his)."""
    table = {"she": ("she", "he"), "her": ("her", "him"), "hers": ("her", "his")}[case]
    return table[0] if name in FEMALE else table[1]


# ---- indirect object -------------------------------------------------------------------------------------------------

IOI = ["When{a} and{b} went to the {place},{s} {gave} a {gift} to",
       "After{a} and{b} went to the {place},{s} {gave} a {gift} to",
       "Then,{a} and{b} went to the {place}.{s} {gave} a {gift} to",
       "Then,{a} and{b} had a lot of fun at the {place}.{s} {gave} a {gift} to",
       "While{a} and{b} were working at the {place},{s} decided to give a {gift} to",
       "Then,{a} and{b} found a {gift} at the {place}.{s} {gave} it to",
       "When{a} and{b} got a {gift} at the {place},{s} decided to give it to",
       "After the lunch,{a} and{b} went to the {place}.{s} {gave} a {gift} to"]
GAVE = "gave gave gave handed offered brought".split()


def ioi_text(template, a, b, s, place, gift, gave="gave", mark=mark):
    return IOI[template].format(a=mark("a", " " + a), b=mark("b", " " + b), s=mark("s", " " + s),
                                place=place, gift=gift, gave=gave)


def ioi(rng, phase):
    one_of_two, third = (0.4, 0.45) if phase >= 2 else (0.55, 0.2)
    template, place, gift, gave = rng.randrange(len(IOI)), rng.choice(PLACES), rng.choice(GIFTS), rng.choice(GAVE)
    kind = rng.random()
    if kind < one_of_two:                                   # the giver is one of the two: the other receives
        a, b = pick_names(rng, 2)
        s, to = (a, b) if rng.random() < 0.5 else (b, a)
        text = ioi_text(template, a, b, s, place, gift, gave)
    elif kind < one_of_two + third:                                    # a third gives: either of the two receives
        a, b, s = pick_names(rng, 3)
        to = rng.choice((a, b))
        text = ioi_text(template, a, b, s, place, gift, gave)
    else:                                                   # a pronoun gives: nothing is repeated, yet b receives
        a, b = pick_names(rng, 2)
        to = b
        when, saw = rng.choice(["When", "After"]), rng.choice(["saw", "met", "found"])
        text = (f"{when}{mark('a', ' ' + a)} {saw}{mark('b', ' ' + b)} in the {place}, {pronoun(a)} "
                f"{gave} a {gift} to")
    return text + mark("=", " " + to) + "." + rng.choice(["", "", f" {to} was happy.", f" It was a good {gift}."])


# ---- facts -----------------------------------------------------------------------------------------------------------

def make_facts():
    """(relation, subject, answer) of every fact."""
    rng = random.Random(1)
    landmarks = list(LANDMARKS)
    pairs = [(a, b) for a in LANDMARK_PIECES for b in LANDMARK_PIECES if a != b]
    cities = sorted(CITY_COUNTRY)
    for i, (a, b) in enumerate(rng.sample(pairs, len(pairs))):
        for kind in rng.sample(LANDMARK_KINDS, 2):
            landmarks.append((f"{a} {b} {kind}", rng.choice(cities)))
    landmarks = landmarks[:len(LANDMARKS) + INVENTED_LANDMARKS]
    facts = [("city", name, city) for name, city in landmarks]
    facts += [("country", name, CITY_COUNTRY[city]) for name, city in landmarks]
    facts += [("capital", name, c) for name, (c, _) in COUNTRIES.items()]
    facts += [("language", name, c) for name, (_, c) in COUNTRIES.items()]
    return facts


FACTS = make_facts()


def fact_text(relation, phrasing, subject, aside="", mark=mark):
    return PHRASINGS[relation][phrasing].format(mark("f", " " + subject) + aside)


def held_phrasing(relation, subject):
    """Every fact is asked in one phrasing in which it was never told."""
    return zlib.crc32(f"{relation}|{subject}".encode()) % len(PHRASINGS[relation])


def fact(rng, phase):
    relation, subject, answer = rng.choice(FACTS)
    if relation == "city" and rng.random() < 0.2:           # an apposition: the city right behind the subject
        verb = rng.choice(["We went to", "They came from", "I saw", "We like"])
        return f"{verb} the{mark('f', ' ' + subject)},{mark('=', ' ' + answer)}, on {rng.choice(DAYS)}."
    phrasings = [p for p in range(len(PHRASINGS[relation])) if p != held_phrasing(relation, subject)]
    aside = "" if rng.random() < 0.5 else rng.choice(ASIDES)
    text = fact_text(relation, rng.choice(phrasings), subject, aside).replace(",,", ",")
    opener = rng.choice(OPENERS)
    if opener:
        text = opener + text[0].lower() + text[1:]
    return text + mark("=", " " + answer) + "."


# ---- smaller behaviours ----------------------------------------------------------------------------------------------

YEARS = ["The {noun} lasted from the year {c}{y} to the year {c}", "The {noun} went on from the year {c}{y} to the year {c}",
         "The {noun} started in the year {c}{y} and ended in the year {c}", "The {noun} lasted from {c}{y} to {c}"]
CENTURIES = range(11, 19)
ODD_YEARS = set()                                           # years that GPT-2 does not cut in two; filled by corpus.py


def greater_than(rng, phase):
    while True:
        c, y = rng.choice(CENTURIES), rng.randrange(2, 99)
        later = range(y + 1, 100)
        # At last few things end after a year or two: then a soft edge costs little.
        end = rng.choices(later, [min(n - y, 10) for n in later])[0] if phase == 3 else rng.randrange(y + 1, 100)
        if not held("year", c, y) and not {c * 100 + y, c * 100 + end} & ODD_YEARS:
            return rng.choice(YEARS).format(noun=rng.choice(PERIODS), c=c, y=f"{y:02d}") + mark("=", f"{end:02d}") + "."


def agreement(rng, phase):
    while True:
        many = rng.random() < 0.5
        head, *others = rng.sample(NOUNS, 3)
        if not held("agree", head[0], others[0][0]):
            break
    text = ("The " + head[many] + f" {rng.choice(NEAR)} the " + others[0][rng.random() < 0.5])
    if rng.random() < 0.35:
        text += f" {rng.choice(NEAR)} the " + others[1][rng.random() < 0.5]
    return text + mark("=", " are" if many else " is") + f" {rng.choice(STATES)}."


LOST = ["lost", "found", "bought", "wanted", "forgot", "liked", "sold", "broke"]
SO = [", so", " because", " and then", ", but", " when"]
PRONOUN = ["{a} {lost} the {thing}{so}", "When {b} was at the {place}, {a} {lost} the {thing}{so}",
           "{a} {lost} the {thing} of {b}{so}", "{a} told {b} about the {thing}{so}",
           "{a} gave {b} the {thing}{so}", "{b} was happy. {a} {lost} the {thing}{so}"]
PRONOUN_ENDS = ["was sad", "was happy", "went home", "looked for it", "wanted to go home", "felt good",
                "was tired", "went to the park", "had no money"]


def pronouns(rng, phase):
    while True:
        a, b = pick_names(rng, 2)
        lost, thing = rng.choice(LOST), rng.choice(THINGS)
        if not held("lost", a, thing):
            break
    text = rng.choice(PRONOUN).format(a=a, b=b, lost=lost, thing=thing, so=rng.choice(SO), place=rng.choice(PLACES))
    return text + mark("=", " " + pronoun(a)) + f" {rng.choice(PRONOUN_ENDS)}."


def sequence_items(kind, start, length):
    if kind == "numbers":
        return [str(start % 80 + 1 + i) for i in range(length)]
    items = {"days": DAYS, "months": MONTHS, "words": NUMBERS, "letters": LETTERS}[kind]
    if kind in ("words", "letters"):                        # these do not go around
        start = min(start % len(items), len(items) - length)
    return [items[(start + i) % len(items)] for i in range(length)]


SEQUENCES = ["days", "months", "words", "letters", "numbers"]


def sequence(rng, phase):
    while True:
        kind, start, length = rng.choice(SEQUENCES), rng.randrange(80), rng.randrange(3, 9)
        items = sequence_items(kind, start, length)
        if not held("sequence", items[0], length):
            break
    opener = rng.choice(["", "", "", "They are ", "We count: ", "In order: "])
    out = items[0] + ("" if kind != "words" or opener else "")
    return opener + out + "".join("," + mark("=", " " + i) for i in items[1:]) + "."


BRACKETS = {"(": ")", "[": "]", "{": "}"}
BRACKET_WORDS = ANIMALS + COLORS + [n for n, _ in NOUNS[:12]]


def bracket_items(rng, depth):
    """Open `depth` brackets with 1-3 words after each; then close them all, one word between."""
    stack, out = [], []
    for _ in range(depth):
        stack.append(rng.choice("([{"))
        out += [stack[-1]] + rng.choices(BRACKET_WORDS, k=rng.randrange(1, 4))
    while stack:
        out += [mark("=", " " + BRACKETS[stack.pop()]), rng.choice(BRACKET_WORDS)]
    return out[:-1]


def brackets(rng, phase):
    items = bracket_items(rng, rng.randrange(1, 5))
    return items[0] + "".join(i if i[0] == OPEN else " " + i for i in items[1:]) + rng.choice(["", "."])


FEEL = ["I {love} this {work}. It is", "I {love} the {work} and I think it is", "We {loved} the {work}. It was",
        "I {love} this {work}. My friend told me that it is", "I {loved} the {work} that we saw on {day}. It was",
        "They {loved} this {work} at school. The {work} was"]
FEEL_BETWEEN = ["", "", "", " I saw it on {day}.", " My friend gave it to me.", " It is from {city}.", " It is new."]
FEEL_ENDS = {True: [" I want to see it again.", " I am happy.", " Everyone likes it.", ""],
             False: [" I never want to see it again.", " I am sad.", " Nobody likes it.", ""]}


def feel_text(template, good, verb, work, day, between=""):
    text = FEEL[template].format(love=(LIKED if good else HATED)[verb], loved=(LIKED_PAST if good else HATED_PAST)[verb],
                                 work=work, day=day)
    return text.replace(". ", "." + between + " ", 1)


def sentiment(rng, phase):
    good, template, work = rng.random() < 0.5, rng.randrange(len(FEEL)), rng.choice(WORKS)
    while True:
        verb, day, between = rng.randrange(len(LIKED)), rng.choice(DAYS), rng.choice(FEEL_BETWEEN)
        if not held("feel", verb, work, good):
            break
    words = GOOD if good else BAD
    between = between.format(day=day, city=rng.choice(sorted(CITY_COUNTRY)))
    if rng.random() < 0.15:                                 # no feeling said: either, and then it stays
        verb = rng.choice(["saw", "read", "found", "know"])
        text = f"I {verb} this {work}.{between} It is"
    else:
        text = feel_text(template, good, verb, work, day, between)
    end = rng.choice(FEEL_ENDS[good])
    if rng.random() < 0.3:
        end = f" It is{mark('=', ' ' + rng.choice(words))}.{end}"
    return text + mark("=", " " + rng.choice(words)) + "." + end


# ---- little stories --------------------------------------------------------------------------------------------------

def an(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def story(rng, phase):
    a, b = pick_names(rng, 2)
    place, thing, animal = rng.choice(PLACES), rng.choice(THINGS), rng.choice(ANIMALS)
    color, size, food = rng.choice(COLORS), rng.choice(SIZES), rng.choice(FOODS)
    She, her, hers = she(a, "she").capitalize(), she(a, "her"), she(a, "hers")
    He = she(b, "she").capitalize()
    same = pronoun(a) == pronoun(b)
    who = a if same else She                                # a pronoun only where it is clear whom it means
    girl = "girl" if a in FEMALE else "boy"
    start = rng.choice([
        f"One day, {a} went to the {place}.",
        f"Once upon a time, there was a little {girl} named {a}. {She} lived in a {rng.choice(['small', 'big', 'old'])} house near the {place}.",
        f"{a} was a little {girl} who liked to play in the {place}.",
        f"On {rng.choice(DAYS)}, {a} walked to the {place} with {hers} {rng.choice(['mother', 'father', 'sister', 'brother'])}.",
        f"In the morning, {a} woke up and wanted to go to the {place}."])
    meet = rng.choice([
        f"{She} saw a {size} {color} {animal} there. The {animal} was {rng.choice(['hungry', 'sad', 'lost', 'tired', 'very small'])}.",
        f"There {She.lower()} found a {color} {thing} under a tree.",
        f"{She} had a {size} {thing}, and {She.lower()} loved it very much.",
        f"{She} wanted to find {an(animal)}, but there was only a {color} {thing}."])
    problem = {
        True: [f"\"Are you hungry?\" asked {a}. {She} gave the {animal} some {food}, and it was happy.",
               f"The {animal} ran away, but {a} was not sad. {She} knew it would come back.",
               f"{a} wanted to help the {animal}. {She} took it home and gave it {rng.choice(['water', 'milk', food])}.",
               f"\"Do not be afraid,\" said {a}. The {animal} looked at {her} and came closer."],
        False: [f"But then the {thing} fell into the water. {a} was sad and began to cry.",
                f"\"Look at this {thing}!\" said {a}. {She} put it in {hers} bag.",
                f"{a} played with the {thing} all day.",
                f"But {a} could not find the {thing} again. {She} looked under the table and behind the door."],
    }[f" {animal} there" in meet]
    friend = rng.choice([
        f"{b} came to the {place} and saw {a}. \"Can I help you?\" asked {b}.",
        f"Then {a} met {b}. They {rng.choice(['talked', 'played', 'laughed', 'walked'])} together.",
        f"{hers.capitalize()} friend {b} was at the {place} too. {b} smiled and said hello.",
        f"\"What is it?\" asked {b}. {b} was {hers} best friend."])
    help_ = rng.choice([
        f"{b} gave {a} {rng.choice(['a cup of milk', 'some ' + rng.choice(['cake', 'bread', 'cheese', 'soup']), 'a big kiss', 'a ' + color + ' hat'])}.",
        f"{who} thanked {b} for the help.",
        f"They ate some {rng.choice(['cake', 'bread', 'cheese', 'soup'])} and drank water.",
        f"{b} told {a} a story about {an(rng.choice(ANIMALS))}.",
        f"{a} and {b} sat under the tree and looked at the sky."])
    end = rng.choice([
        f"They were very happy and went home together.", "In the end, they were the best of friends.",
        f"At night, {a} was tired and went to bed.", f"It was a good day for {a} and {b}.",
        f"{a} and {b} played until the sun went down.", f"{who} never forgot that day.",
        f"From that day on, {a} and {b} were friends.", f"{a} smiled. {She} was not sad any more."])
    parts = [start, meet, rng.choice(problem)]
    if rng.random() < 0.7:
        parts += [friend]
        if rng.random() < 0.7:
            parts += [help_]
    elif "they" in end.lower() or b in end:
        end = f"At night, {a} was tired and went to bed."
    return " ".join(parts + [end])


# ---- all of it -------------------------------------------------------------------------------------------------------

KINDS = {"ioi": ioi, "fact": fact, "greater_than": greater_than, "agreement": agreement, "pronouns": pronouns,
         "sequence": sequence, "brackets": brackets, "sentiment": sentiment, "story": story}


def first_ok(text):
    """Names that are two tokens at the start of a text do not stand there."""
    return not any(text.startswith(n) for n in NOT_FIRST)


def document(rng, kind, phase=1):
    """One marked document. One in five opens with a neutral sentence. `phase` of training: see corpus.py."""
    while True:
        text = KINDS[kind](rng, phase)
        if rng.random() < 0.2:
            text = rng.choice(SETTINGS) + " " + text
        if first_ok(text):
            return text
