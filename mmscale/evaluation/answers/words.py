"""Words of answers by language: scale words, signs, how an answer is announced, how a new question begins."""

from __future__ import annotations

SCALES: dict[str, int] = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "lakh": 10**5,
    "lakhs": 10**5,
    "crore": 10**7,
    "crores": 10**7,
    "Tausend": 10**3,
    "tausend": 10**3,
    "Million": 10**6,
    "Millionen": 10**6,
    "Mio": 10**6,
    "Milliarde": 10**9,
    "Milliarden": 10**9,
    "Mrd": 10**9,
    "mille": 10**3,
    "millions": 10**6,
    "milliard": 10**9,
    "milliards": 10**9,
    "mil": 10**3,
    "millón": 10**6,
    "millones": 10**6,
    "milhão": 10**6,
    "milhões": 10**6,
    "mila": 10**3,
    "milione": 10**6,
    "milioni": 10**6,
    "miliardi": 10**9,
    "duizend": 10**3,
    "miljoen": 10**6,
    "miljard": 10**9,
    "тысяча": 10**3,
    "тысячи": 10**3,
    "тысяч": 10**3,
    "тыс": 10**3,
    "миллион": 10**6,
    "миллиона": 10**6,
    "миллионов": 10**6,
    "млн": 10**6,
    "миллиард": 10**9,
    "миллиарда": 10**9,
    "миллиардов": 10**9,
    "млрд": 10**9,
    "bin": 10**3,
    "milyon": 10**6,
    "milyar": 10**9,
    "nghìn": 10**3,
    "ngàn": 10**3,
    "triệu": 10**6,
    "tỷ": 10**9,
    "ribu": 10**3,
    "juta": 10**6,
    "miliar": 10**9,
    "सौ": 100,
    "हज़ार": 10**3,
    "हजार": 10**3,
    "लाख": 10**5,
    "करोड़": 10**7,
    "শত": 100,
    "শতাংশ": 1,  # per cent, which begins like a hundred
    "হাজার": 10**3,
    "লাখ": 10**5,
    "লক্ষ": 10**5,
    "কোটি": 10**7,
    "వంద": 100,
    "వందల": 100,
    "వేల": 10**3,
    "వేలు": 10**3,
    "లక్ష": 10**5,
    "లక్షల": 10**5,
    "లక్షలు": 10**5,
    "కోటి": 10**7,
    "కోట్లు": 10**7,
    "కోట్ల": 10**7,
    "ร้อย": 100,
    "พัน": 10**3,
    "หมื่น": 10**4,
    "แสน": 10**5,
    "ล้าน": 10**6,
    "ہزار": 10**3,
    "لاکھ": 10**5,
    "کروڑ": 10**7,
    "ألف": 10**3,
    "آلاف": 10**3,
    "مليون": 10**6,
    "ملايين": 10**6,
    "مليار": 10**9,
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "B": 10**9,
}
"""Behind a number, one space or none between: "1.5 million", "२ लाख"."""

SCALES_BEFORE: dict[str, int] = {"mia": 100, "elfu": 10**3, "laki": 10**5, "milioni": 10**6, "bilioni": 10**9}
"""Swahili puts the scale first: "elfu 80"."""

OF_MONEY = frozenset(["M", "B"])
"""Scales of amounts of money alone: $3M, but 3 M."""

CURRENCY_LETTERS = (
    *(
        "AED",
        "AUD",
        "BDT",
        "BRL",
        "CAD",
        "CHF",
        "CNY",
        "EGP",
        "EUR",
        "GBP",
        "HKD",
        "IDR",
        "INR",
        "JPY",
        "KES",
        "KRW",
        "MXN",
    ),
    *(
        "MYR",
        "NGN",
        "NZD",
        "PHP",
        "PKR",
        "PLN",
        "RMB",
        "RUB",
        "SAR",
        "SGD",
        "THB",
        "TRY",
        "TWD",
        "TZS",
        "UGX",
        "USD",
        "VND",
    ),
    *(
        "ZAR",
        "US",
        "Rs",
        "RM",
        "Rp",
        "Tk",
        "KSh",
        "Ksh",
        "TSh",
        "Tsh",
        "USh",
        "Sh",
        "Fr",
        "Kr",
        "kr",
        "zł",
        "R",
        "C",
        "A",
        "S",
        "NT",
        "HK",
    ),
)
"""In front of an amount, without a space: KSh500. Other letters before digits make a name of them: x2, CO2."""

_HOURS = (
    "hours?|hrs?|Stunden?|Std\\.?|heures?|horas?|ore|ora|uur|час(?:а|ов)?|小时|小時|個小時|个小时|時間|시간|ชั่วโมง|ঘণ্টা|ঘন্টা|గంటలు?|"
    "saat|giờ|jam|घंटे|घंटा|ساعات|ساعة|godzin[ay]?|ώρες"
)
_MINUTES = (
    r"\s?-?(?:minutes?|mins?|Minuten?|Min\.|minutos?|minuti|minuten|минут[аы]?|分钟|分鐘|分(?!の|之)|분(?!의)|นาที|মিনিট|నిమిషాలు?|"
    r"dakika|phút|menit|मिनट|دقيقة|دقائق|minut[ay]?|λεπτά)"
)
PARTS_OF_UNITS = (
    (_HOURS, _MINUTES, 60),
    (r"[hH](?=\s?\d\d(?!\d))", "", 60),
    (
        "minutes?|Minuten|минут[аы]?|分钟|分|분",
        r"\s?(?:seconds?|Sekunden|secondes|segundos|секунд[аы]?|秒钟|秒|초)",
        60,
    ),
    ("dollars?|euros?|Dollar|Euro|dólares", r"\s?(?:cents?|Cent|centimes|centavos|céntimos)", 100),
    ("feet|foot|ft", r"\s?(?:inches|inch|in\.?)", 12),
    ("元|块", r"[角毛]", 10),
)
"""A unit, its part, and how many parts the unit has; 3h30 needs no word behind it."""

MYRIADS: dict[str, int] = {
    "百": 100,
    "千": 10**3,
    "万": 10**4,
    "萬": 10**4,
    "億": 10**8,
    "亿": 10**8,
    "兆": 10**12,
    "백": 100,
    "천": 10**3,
    "만": 10**4,
    "억": 10**8,
    "조": 10**12,
}
"""Chinese, Japanese and Korean: they follow each other inside a number, as in 1億2000万."""

MINUS = ("minus", "negative", "moins", "menos", "meno", "минус", "负", "負", "マイナス", "마이너스", "âm", "eksi")

IS = {
    "en": r"answer\s+(?:is|was|would\s+be|will\s+be|must\s+be|should\s+be|comes\s+(?:out\s+)?to|equals)\b",
    "de": r"antwort\s+(?:ist|lautet|beträgt|wäre)\b",
    "es": r"respuesta\s+(?:es|sería|final\s+es)\b",
    "fr": r"réponse\s+(?:est|finale\s+est|serait)\b",
    "pt": r"resposta\s+(?:é|final\s+é|seria)(?!\w)",
    "it": r"risposta\s+(?:è|finale\s+è)(?!\w)",
    "nl": r"antwoord\s+is\b",
    "pl": r"odpowiedź\s+(?:to|brzmi)\b",
    "ru": r"ответ\w*\s+(?:есть|равен|будет|составляет|составит|является)",
    "tr": r"cevap\s+(?=\S)",
    "vi": r"(?:câu\s+trả\s+lời|đáp\s+án|đáp\s+số)\s+là\b",
    "id": r"jawaban(?:nya)?\s+(?:adalah|ialah)\b",
    "sw": r"jibu\s+(?:sahihi\s+|la\s+mwisho\s+)?(?:ni|litakuwa)\b",
    "zh": r"(?:答案|结果|結果|最终答案|最後答案)(?:就)?(?:是|为|為|等于|等於)",
    "ja": r"(?:答え|答|こたえ|回答|正解|解答)(?:は|が)",
    "ko": r"(?:답|정답|답변|대답)(?:은|이|는)",
    "bn": r"(?:উত্তর|উত্তরটি|উত্তরটা)\s*(?:হল|হলো|হচ্ছে|হবে)",
    "hi": r"उत्तर\s+(?:है|होगा|यह\s+है)",
    "te": r"(?:సమాధానం|జవాబు)\s+(?:ఏమిటంటే|అనేది)",
    "th": r"คำตอบ(?:สุดท้าย)?(?:คือ|เท่ากับ|เป็น)",
    "ar": r"(?:الجواب|الإجابة|الاجابة)(?:\s+النهائية|\s+النهائي)?\s+(?:هو|هي)",
    "ur": r"جواب\s+(?:ہے|یہ\s+ہے)",
    "el": r"απάντηση\s+είναι",
    "bg": r"отговорът\s+е(?!\w)",
    "et": r"vastus\s+on\b",
    "ht": r"repons\s+(?:lan\s+)?se\b",
    "qu": r"kutichiyqa",
    "ta": r"(?:பதில்|விடை)\s+(?:என்பது)",
}
"""By language, a statement of the answer: the first number behind it is meant."""

LABELS = (
    "final answer|answer|ans|a|antwort|respuesta|réponse|resposta|risposta|antwoord|odpowiedź|ответ|cevap|đáp án|đáp số|"
    "câu trả lời|jawaban|jawab|jibu|απάντηση|отговор|vastus|repons"
)
"""A label of the answer, before a colon or dash; it may also open a whole solution, so a number has to follow at once."""

LABELS_BARE = "答案|答|答え|こたえ|回答|解答|答复|정답|답|উত্তর|उत्तर|जवाब|సమాధానం|జవాబు|คำตอบ|الجواب|الإجابة|جواب|பதில்|விடை"
"""Labels that need no colon."""

QUESTIONS = (
    "question|new question|next question|problem|exercise|instruction|input|human|user|comment|q|frage|aufgabe|pregunta|problema|"
    "question suivante|pergunta|domanda|vraag|pytanie|вопрос|задача|soru|câu hỏi|pertanyaan|soal|swali|问题|問題|题目|質問|"
    "질문|문제|প্রশ্ন|प्रश्न|सवाल|ప్రశ్న|คำถาม|السؤال|سؤال|سوال|ερώτηση|въпрос|küsimus|kesyon|கேள்வி"
)
"""At the start of a line, before a colon: a new question."""

SO = (
    "so|thus|therefore|hence|that is|which is|i\\.e\\.|in total|finally|also|daher|somit|folglich|deshalb|por lo tanto|así que|"
    "es decir|donc|soit|ainsi|portanto|quindi|dus|więc|поэтому|значит|следовательно|итого|yani|vậy|jadi|kwa hiyo|hivyo|"
    "所以|因此|总共|一共|よって|だから|つまり|したがって|따라서|그래서|সুতরাং|অতএব|তাই|इसलिए|अतः|కాబట్టి|అందువలన|ดังนั้น|لذلك|إذن|لہذا"
)
"""Words that open a conclusion."""

REASON_OR_COMPARISON = {
    "en": r"because|since|as this is|(?:more|fewer|less)(?=\b.*\bthan\b)|than",
    "de": "weil|denn|da|als",
    "fr": "parce que|puisque|car",
    "es": "porque|ya que|puesto que",
    "pt": "porque|pois|já que|do que",
    "it": "perché|poiché",
    "nl": "omdat|want|dan",
    "ru": "потому что|так как|поскольку|чем",
    "pl": "ponieważ",
    "tr": "çünkü",
    "vi": "vì",
    "id": "karena|daripada",
    "sw": "kwa sababu|kwa kuwa|kwa vile|kuliko",
    "zh": "因为|因為",
    "ja": "なぜなら",
    "ko": "왜냐하면",
    "bn": "কারণ",
    "hi": "क्योंकि",
    "te": "ఎందుకంటే",
    "th": "เพราะ|เนื่องจาก",
    "ar": "لأن",
}
"""By language, words that open a reason or what is compared with."""

OF_A_WHOLE = (
    "out of(?: the| his| her| their| its)?|of (?:the|his|her|their|its|these|those)|"
    "von(?: den| seinen| ihren)?|der|sur(?: les)?|de (?:los|las|sus|les|ses)|d(?:os|as)|su(?:i|lle)?|van de|из|kati ya"
)
"""A part stands in front of them, the whole behind."""

ABBREVIATIONS = (
    "Rs",
    "approx",
    "ca",
    "ungef",
    "i.e",
    "e.g",
    "d.h",
    "z.B",
    "bzw",
    "No",
    "Nr",
    "env",
    "aprox",
    "т.е",
    "руб",
    "Mr",
    "Mrs",
    "Dr",
    "St",
)
"""A full stop behind them ends no sentence."""
