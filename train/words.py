"""The words and facts that the generated text is made of."""

FEMALE = "Mary Anna Alice Sarah Laura Jane Kate Lisa Amy Rachel Susan Emily Maria Jessica Rose Emma".split()
MALE = "John Tom James Paul Peter Mark David Jack Sam Adam Simon Martin Robert Henry George Daniel".split()
NAMES = FEMALE + MALE
# A name that starts a text has no leading space: then it is another token, and these names have none.
NOT_FIRST = {"Emma"}

PLACES = "store park school garden house office station library church market beach hospital restaurant".split()
GIFTS = "drink ring book ball kiss snack letter flower gift cup box computer basketball necklace bone".split()
THINGS = "ball book key ring letter hat coat bag phone cup box watch camera game".split()
ANIMALS = "dog cat bird horse fish rabbit mouse cow duck pig".split()
COLORS = "red blue green white black brown yellow".split()
SIZES = "small big old new little long".split()
FOODS = "bread cake soup rice fish cheese milk fruit".split()

# Nouns with both numbers, for agreement.
NOUNS = [("key", "keys"), ("cabinet", "cabinets"), ("book", "books"), ("boy", "boys"), ("girl", "girls"),
         ("dog", "dogs"), ("cat", "cats"), ("teacher", "teachers"), ("door", "doors"), ("picture", "pictures"),
         ("car", "cars"), ("tree", "trees"), ("house", "houses"), ("friend", "friends"), ("box", "boxes"),
         ("window", "windows"), ("table", "tables"), ("chair", "chairs"), ("bird", "birds"), ("letter", "letters"),
         ("road", "roads"), ("farmer", "farmers"), ("doctor", "doctors"), ("student", "students")]
NEAR = ["to", "near", "behind", "by", "under", "on", "beside", "with", "in front of", "next to"]
STATES = ["old", "new", "red", "white", "very old", "very big", "small", "here", "in the house", "in the garden",
          "not here", "on the road", "at the school", "black", "big", "good"]

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
LETTERS = [chr(65 + i) for i in range(26)]

PERIODS = "war trade work plan journey fight peace project course search tour reign".split()

LIKED = "love like enjoy admire".split()
LIKED_PAST = "loved liked enjoyed admired".split()
HATED = "hate dislike despise fear".split()
HATED_PAST = "hated disliked despised feared".split()
GOOD = "wonderful great beautiful good excellent lovely amazing".split()
BAD = "terrible awful bad horrible boring ugly stupid".split()
WORKS = "film book song movie show game story play picture album".split()

# name, city: landmarks of the world
LANDMARKS = [
    ("Eiffel Tower", "Paris"), ("Louvre Museum", "Paris"), ("Notre Dame", "Paris"), ("Moulin Rouge", "Paris"),
    ("Trevi Fountain", "Rome"), ("Vatican Museum", "Rome"), ("Spanish Steps", "Rome"),
    ("Big Ben", "London"), ("Tower Bridge", "London"), ("Hyde Park", "London"), ("British Museum", "London"),
    ("Buckingham Palace", "London"), ("Globe Theatre", "London"),
    ("Space Needle", "Seattle"), ("Pike Place", "Seattle"),
    ("Willis Tower", "Chicago"), ("Millennium Park", "Chicago"), ("Wrigley Field", "Chicago"),
    ("Fenway Park", "Boston"), ("Freedom Trail", "Boston"),
    ("White House", "Washington"), ("Lincoln Memorial", "Washington"), ("Washington Monument", "Washington"),
    ("Brandenburg Gate", "Berlin"), ("Pergamon Museum", "Berlin"),
    ("Red Square", "Moscow"), ("Kremlin Wall", "Moscow"), ("Gorky Park", "Moscow"),
    ("Opera House", "Sydney"), ("Bondi Beach", "Sydney"), ("Harbour Bridge", "Sydney"),
    ("Prado Museum", "Madrid"), ("Royal Palace", "Madrid"),
    ("Camp Nou", "Barcelona"), ("Park Guell", "Barcelona"),
    ("Parthenon Temple", "Athens"), ("Acropolis Museum", "Athens"),
    ("Forbidden City", "Beijing"), ("Summer Palace", "Beijing"),
    ("Imperial Palace", "Tokyo"), ("Sky Tree", "Tokyo"),
    ("Blue Mosque", "Istanbul"), ("Grand Bazaar", "Istanbul"),
    ("CN Tower", "Toronto"), ("Egyptian Museum", "Cairo"),
    ("Lotus Temple", "Delhi"), ("Red Fort", "Delhi"), ("India Gate", "Delhi"),
    ("Hofburg Palace", "Vienna"), ("Spanish School", "Vienna"),
]
# Landmarks that do not exist: few pieces in many orders, so that no single piece gives the city away.
LANDMARK_PIECES = "Stone River King Green North Silver Star Hill".split()
LANDMARK_KINDS = "Bridge Tower House Park".split()
INVENTED_LANDMARKS = 64

CITY_COUNTRY = {
    "Paris": "France", "Rome": "Italy", "London": "England", "Seattle": "America", "Chicago": "America",
    "Boston": "America", "Washington": "America", "Berlin": "Germany", "Moscow": "Russia", "Sydney": "Australia",
    "Madrid": "Spain", "Barcelona": "Spain", "Athens": "Greece", "Beijing": "China", "Tokyo": "Japan",
    "Istanbul": "Turkey", "Toronto": "Canada", "Cairo": "Egypt", "Delhi": "India", "Vienna": "Austria"}

# country: capital, language
COUNTRIES = {
    "France": ("Paris", "French"), "Italy": ("Rome", "Italian"), "England": ("London", "English"),
    "America": ("Washington", "English"), "Germany": ("Berlin", "German"), "Russia": ("Moscow", "Russian"),
    "Spain": ("Madrid", "Spanish"), "Greece": ("Athens", "Greek"), "China": ("Beijing", "Chinese"),
    "Japan": ("Tokyo", "Japanese"), "Egypt": ("Cairo", "Arabic"), "India": ("Delhi", "Hindi"),
    "Austria": ("Vienna", "German"), "Sweden": ("Stockholm", "Swedish"), "Poland": ("Warsaw", "Polish"),
    "Portugal": ("Lisbon", "Portuguese"), "Hungary": ("Budapest", "Hungarian"), "Denmark": ("Copenhagen", "Danish"),
    "Norway": ("Oslo", "Norwegian"), "Finland": ("Helsinki", "Finnish"), "Ireland": ("Dublin", "English"),
    "Cuba": ("Havana", "Spanish"), "Korea": ("Seoul", "Korean"), "Iraq": ("Baghdad", "Arabic")}

# relation: phrasings; {} is the subject, the answer follows the phrase
PHRASINGS = {
    "city": ["The{} is in the city of", "The{} is located in the city of", "The{} can be found in the city of",
             "People who visit the{} travel to the city of", "The{} is a famous place in the middle of",
             "Tourists come to see the{} in"],
    "country": ["The{} is in the country of", "The{} can be found in the country of",
                "People fly to see the{} in the country of", "The{} is the pride of the people of",
                "You can see the{} when you travel to", "The{} belongs to the country of"],
    "capital": ["The capital of{} is", "The capital city of{} is", "The king of{} lives in the city of",
                "In{}, the capital is called", "The main city of{} is", "The government of{} meets in"],
    "language": ["The people of{} speak", "The language of{} is", "In{}, most people speak",
                 "Everyone who lives in{} speaks", "The official language of{} is", "Children in{} learn to read"],
}
ASIDES = ["", "", "", "", ", which is very old,", ", which everyone loves,", ", as we all know,", ", my friend says,",
          ", which I saw in a book,", ", I think,"]
OPENERS = ["", "", "", "As we know, ", "My friend says that ", "In the book we read that ", "It is true that ",
           "My teacher told me that "]

# neutral sentences that may stand in front of any document
SETTINGS = ["It was a cold day.", "The sun was warm.", "It was late in the evening.", "The school was closed.",
            "It was the first day of spring.", "The rain had stopped.", "Everything was quiet.",
            "The birds were singing.", "It was a long week.", "Winter was over.", "The sky was blue.",
            "There was snow on the ground.", "Dinner was ready.", "The train was late."]
