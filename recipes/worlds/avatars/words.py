"""What can be said of an avatar: questions with their answers in many words."""

from recipes.worlds.world import Question, ask

TEMPLATES = (
    "a face with {}",
    "{}",
    "a photo of a face with {}",
    "a photo of a person with {}",
    "a cartoon head with {}",
    "a drawing of a face with {}",
    "a portrait of somebody with {}",
    "a person with {}",
    "somebody with {}",
)

QUESTIONS: tuple[Question, ...] = (
    ask(
        "hairstyle",
        ("a buzz cut", "buzzed hair", "a shaved head", "very short cropped hair", "stubbly hair"),
        ("short hair", "a short haircut", "hair cut short", "short hair with a quiff", "a quiff"),
        ("a bob cut", "a bob", "a bob haircut", "chin-length hair", "a rounded bob"),
        ("long hair", "shoulder-length hair", "long straight hair", "long flowing hair"),
        ("curly hair", "curls", "a curly afro", "thick curly hair", "frizzy hair"),
    ),
    ask(
        "hair_color",
        ("black hair", "jet-black hair", "dark black hair", "hair that is black"),
        ("brown hair", "brunette hair", "chestnut hair", "hair that is brown"),
        ("blond hair", "blonde hair", "golden hair", "yellow hair", "hair that is blond"),
        ("red hair", "ginger hair", "orange hair", "hair that is red"),
        ("white hair", "grey hair", "gray hair", "silver hair", "hair that is white"),
    ),
    ask(
        "eye_region",
        ("round eyes", "wide open eyes", "big eyes", "open round eyes"),
        ("narrow eyes", "half-closed eyes", "sleepy eyes", "hooded eyes"),
        ("closed eyes", "shut eyes", "eyes that are closed", "eyes shut"),
        ("angry brows", "angry eyes", "an angry look", "furrowed brows", "lowered angry brows"),
    ),
    ask(
        "expression",
        ("a neutral expression", "a neutral mouth", "a calm mouth", "no expression"),
        ("a smile", "a smiling mouth", "a big smile", "a happy expression", "a grin", "a laugh"),
        ("a surprised open mouth", "a surprised expression", "surprise", "a round open mouth"),
        ("a sad mouth", "a sad expression", "a frowning mouth", "an unhappy mouth", "sadness"),
    ),
    ask(
        "beard",
        ("no beard", "a clean-shaven chin", "a shaven face", "no facial hair"),
        ("a moustache", "a mustache", "hair on the upper lip", "only a moustache"),
        ("a goatee", "a chin beard", "a small beard on the chin", "a goatee beard"),
        ("a full beard", "a bushy beard", "a big beard", "a thick beard"),
    ),
    ask(
        "eyeglasses",
        ("no glasses", "no eyeglasses", "bare eyes without glasses", "no spectacles"),
        ("round glasses", "round eyeglasses", "round spectacles", "circular glasses"),
        ("square glasses", "square eyeglasses", "square spectacles", "rectangular glasses"),
    ),
    Question(
        "eyeglasses",
        (
            ("no glasses", "no eyeglasses", "bare eyes without glasses", "no spectacles"),
            ("glasses", "eyeglasses", "spectacles", "a pair of glasses"),
        ),
        (0, 1, 1),
    ),
    ask(
        "hat",
        ("no hat", "a bare head", "no headwear", "a head without a hat"),
        ("a hat", "a beanie", "a woolly hat", "a cap", "a knitted hat"),
    ),
)
