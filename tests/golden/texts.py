"""Strings that a tokenizer must get right, and strings that it usually gets wrong.

plain()          no special tokens inside; only characters that Unicode 14 and later agree on
special(names)   with the texts of control tokens inside, whole, cut, nested and repeated
newer()          characters assigned after Unicode 14: their class depends on the version of the
                 tables of whoever looks, so a difference here is information, not an error
long_runs()      for the linear-time promise
"""

import random
import unicodedata

# What Unicode calls White_Space, and what is often taken for it and is not.
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
NOT_SPACES = "\x1c\x1d\x1e\x1f\u180e\u200b\u200c\u200d\u2060\ufeff\xad"

ENGLISH = """\
Hello, world!
The quick brown fox jumps over the lazy dog.
What is the capital of France?
I'm sure you're right; they'll say it's what we've done, he'd agree.
I'M SURE YOU'RE RIGHT; THEY'LL SAY IT'S WHAT WE'VE DONE, HE'D AGREE.
'tis the season, rock 'n' roll, the '90s, o'clock, y'all'd've
it’s typographic, they’re curly, ‘quoted’ “text”…
'''s ''t 's't're've'm'll'd 'S 'T 'RE 'sx 'rex 'llama 'dt
can't won't shouldn't CAN'T Can'T ain't've
e-mail: someone@example.com, https://example.com/a?b=c&d=%20#frag
Dr. Smith paid $1,234.56 (approx. €1.100,50) on 2024-02-29 at 23:59:59.999!
3.14159 1e-9 0x1F 1_000_000 007 42nd 1/2 v1.2.3-rc4 A4 B2B
supercalifragilisticexpialidocious antidisestablishmentarianism
TITLE CASE And MiXeD cAsE camelCase PascalCase snake_case SCREAMING_SNAKE kebab-case
word.word,word;word:word!word?word-word_word/word\\word|word
!!! ??? ... --- *** ### $$$ %%% ^^^ &&& === +++ ~~~ ``` ((())) [[[]]] {{{}}} <<<>>>
"""

CODE = (
    "int main(void)\n{\n    printf(\"%d\\n\", 42);\n\treturn 0;\n}\n",
    "def f(x, *args, **kw):\n    if x >= 10 and not kw:\n"
    "        return [i**2 for i in range(x)]\n\n\n",
    "<html>\r\n  <body class=\"a b\">&nbsp;&amp;</body>\r\n</html>\r\n",
    "SELECT * FROM t WHERE a='it''s' AND b<>3; -- done",
    "for (let i=0;i<n;++i){a[i]??=b?.c;}  // comment",
    "#include <stdio.h>\n#define X(a,b) a##b\n\n\n\n#endif",
    "fn main() -> Result<(), Box<dyn Error>> { let v: Vec<_> = (1..=9).collect(); Ok(()) }",
    "{\"key\": [1, 2.5, -3e10, true, null], \"\\u00e9\": \"\\n\"}",
    "\\begin{equation} \\frac{a}{b} = \\sum_{i=0}^{n} x_i^2 \\end{equation}",
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n- item\n  - sub\n    1. one\n",
    "\tindented\n\t\ttwice\n        eight\n         nine\n \t mixed\t \t",
    "if x:\n\n\n    y\n   \n \n  z\n",
    "aGVsbG8gd29ybGQ= 0123456789abcdef deadBEEF 550e8400-e29b-41d4-a716-446655440000",
    "\x1b[31mred\x1b[0m\x07\x08",
)

LANGUAGES = """\
你好，世界！今天天气怎么样？
人工智能正在改变世界。我有3个苹果，价格是１２３元。
日本語のテキスト、カタカナとひらがな。東京都は2024年に…
안녕하세요 세계! 한국어 텍스트입니다.
한글 자모 분해형
Привет, мир! Съешь же ещё этих мягких французских булок.
Γειά σου Κόσμε, ἀρχῇ ἦν ὁ λόγος
שלום עולם! זה טקסט בעברית.
مرحبا بالعالم! ٣٫١٤ و ۱۲۳ نص عربي، مع تشكيل: مُحَمَّد
नमस्ते दुनिया! क्षत्रिय १२३४५ हिन्दी
สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง ๑๒๓
வணக்கம் உலகம் বাংলা ১২৩ ગુજરાતી ਪੰਜਾਬੀ
ქართული ენა Հայերեն አማርኛ ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ
Ünïcödé ñandú façade naïve coöperate Žluťoučký kůň İstanbul ıssız ßẞ ŒŒ
Tiếng Việt: Một con mèo nằm trên chiếu
ʻŌlelo Hawaiʻi, kŵn, Łódź, þorn, ðat, ŋ, ʃ, ʒ
𝕳𝖊𝖑𝖑𝖔 𝒲𝑜𝓇𝓁𝒹 ＨＥＬＬＯ ⓗⓔⓛⓛⓞ 𝟙𝟚𝟛 𝟬𝟭𝟮
漢字かな交じり文ABC123混在テスト
"""

# More bytes that the demo vocabulary has no token for, alone and between others.
NO_TOKEN = (
    "\x04", "a\x04b", "\x03\x04\x05", "\x01\x1d\x01 \x06", "x\x13\x14\x16y",
    "\U00040000", "a\U00040000b", "\U0007ffff\U00080000\U000bffff",
)

SYMBOLS = """\
½ ¼ ¾ ⅓ ² ³ ¹ ⁴ ₂ Ⅳ ⅻ ① ⑩ ⒈ ㊿ 〇 〡 ㈠ ௰ ༳ ꘠ 𐄇 𐅀 𒐀 🄀
a½ 1½ x² x²y H₂O Ⅳth ①② ①a½b Ⅳ. ½½ ½'s
a ½ b  ½  ² ٣ ۴ १ 1٣ a1b2c3
😀 😃😄 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩🇪 ❤️ 1️⃣ #️⃣ 👩🏿‍🚀
→ ← ⇒ ∀x∈ℝ: ∑∏∫√∞ ≠ ≤ ± × ÷ ° µ Ω ℃ ™ © ® § ¶ † ‡ • ‰ № ª º
€ £ ¥ ₹ ₿ ¢ « » „ “ ” ‚ ‘ ’ – — ― … · ¿ ¡
┌─┬─┐│ │ │└─┴─┘ ███▓▒░ ▲▼◆ ♠♥♦♣ ♔♕ ☃ ☢ ✓ ✗
"""

MARKS = (
    "e\u0301 e\u0300\u0323 a\u030a\u0301 n\u0303o",
    " e\u0301", " \u0301", "\u0301", "a \u0301b", "1\u0301", "1\u20e3", "'\u0301s", "\u0301's",
    "Z\u0351\u036b\u0343a\u0368\u0363l\u0321\u033bg\u0334\u0353o\u0315!",
    "\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd \u0e01\u0e33 \u0915\u094d\u0937",
    "cafe\u0301 vs caf\xe9", "\ufb01 \ufb03 \u01c4 \u01c5 \u02b0 \u00aa \u3031",
    "I\u0307 \u0130 \u017f \u212a '\u017f 'S 'l\u017f",
)

ODD = (
    "", " ", "  ", "   ", "\n", "\r", "\r\n", "\t", "\0", "\0\0a\0",
    "a", "A", "1", ".", "'", "''", "é", "字", "😀",
    "".join(map(chr, range(32))), "\x7f\x80\x81\x9f", "".join(map(chr, range(0xA0, 0x100))),
    "".join(map(chr, range(0x20, 0x7F))),
    "\ufffd \ufffe\uffff \ufdd0 \U0001fffe \U0010ffff \U0010fffd",
    "\ue000\uf8ff \U000f0000 \U00100000",
    "\u0378 \u0530\u2fe0 a\u0378 \U000e0080 x\U0003fffd",
    "\u202eright to left\u202c \u2066isolate\u2069 \u200f\u200e",
    "\U000e0001\U000e0041 \ufe0f \u034f",
    "line one\r\nline two\n\rline three\r\r\n\n\nend",
    "a\r\n\r\nb\r\r\rc\n\n\nd \n e \r\n f\t\n\tg",
    "word  word   word    word     word",
    " word  'word   1word    .word     \u5b57      \U0001f600",
    "trailing   ", "   leading", "  both  ", "\n\nleading newlines", "trailing newlines\n\n",
    "   \n   \n", "\n   \n   x", " \n", "\n ", "\t ", " \t", "\t\t x", "  \t\n  \r\n  x",
    "1 2  3   4", "12345678901234567890", "1 234 567", "1.2.3",
    "1a2b", "a1 b2", " 1", "  1", "\n1", "a  1  b",
    "_a_ __init__ a_b", "\u00a0a \u00a0 a\u00a0", "\u3000\u3000\u4e2d\u3000a", "a\u2028b\u2029c",
    "x\u200by \u200b z\ufeff", "\ufeffBOM at the start", "soft\u00adhyphen \u00ad",
)


def whitespace_cases():
    for s in SPACES + NOT_SPACES:
        yield f"a{s}b"
        yield f"a{s}{s}b"
        yield f"a {s}b{s} 1{s}.{s}"
        yield f"{s}{s} \n{s}x {s}"


def random_strings(seed, count, longest):
    """Strings from mixed alphabets; characters that Unicode 14 does not know are left out."""
    rng = random.Random(seed)
    alphabets = [
        "etaoin shrdlu", "abcABC 's't're", "0123456789 .,", " \n\t\r",
        SPACES, SPACES + NOT_SPACES + "ab1",
        "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ", "éèüñçøßÅ ö", "абвгдежзик ", "中文字符测试的一是 ",
        "あいうえおカキクケコー", "가나다라마 ", "אבגד ابتث ", "कखग\u093e\u093f\u094d ", "😀🎉👍🏽\u200d\ufe0f",
        "\u0300\u0301\u0302\u0323abc", "½²Ⅳ①٣१๑ 1a",
        "\x00\x01\x1b\x7f\x80\x9f", "\ue000\ufffd\uffff\u0378",
        "".join(map(chr, range(0x20, 0x17F))),
    ]
    for _ in range(count):
        pools = rng.sample(alphabets, rng.choice((1, 2, 2, 3, 5)))
        text = ""
        while len(text) < rng.randint(1, longest):
            text += "".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 4)))
            if rng.random() < 0.02:
                c = chr(rng.choice((rng.randrange(0x3000), rng.randrange(0x20000))))
                text += c if unicodedata.category(c) not in ("Cn", "Cs") else ""
        yield text


def plain(randoms=260, longest=60):
    texts = [*ENGLISH.splitlines(), ENGLISH, *CODE, *LANGUAGES.splitlines(), LANGUAGES]
    texts += [*SYMBOLS.splitlines(), SYMBOLS, *MARKS, *ODD, *NO_TOKEN, *whitespace_cases()]
    texts += random_strings(20240601, randoms, longest)
    return list(dict.fromkeys(texts))


def long_runs(n=4000):
    return [
        "a" * n, " " * n, "\n" * n, "1" * (n // 4), "\u00e9" * (n // 2), "\u4e2d" * (n // 4),
        "'" * n, "\U0001f600" * (n // 8), " a" * (n // 2), "ab" * (n // 2), " \n" * (n // 4),
        "the " * (n // 4),
    ]


def special(names):
    first, second = names[1], names[2]
    texts = [f"{n}" for n in names] + [f"a {n} b" for n in names]
    texts += [
        f"{first}user\nHello{second}\n{first}assistant\n",
        f"{first}{first}{second}{second}", f" {first} {second} ", f"\n{first}\n\n{second}\n",
        first[:-1], first[1:], first[:-2] + ">", f"<{first}>", f"{first[:5]}{first}{first[5:]}",
        first.upper(), first.replace("_", " "), first.replace("|", "\uff5c"),
        f"it's{second}'s {second}'s",
        f"1{first}2 {first}3", f"e{first}\u0301", f"  {first}  x", f"\u4e2d{first}\u6587",
        f"<|im_{first}start|>", f"<|im_start|{second}>",
    ]
    return list(dict.fromkeys(texts))


def newer():
    """Letters, digits and symbols of Unicode 15.0, 15.1, 16.0."""
    return [
        "a\U0001e4f0b \U0001e4d0\U0001e4d1 x", "\U00031350\U000323af", "\U0002ebf0 \U0002ee5d",
        "\U00010d40\U00010d41 a\U00010d40",
        "\U00011f50\U00011f51", "\U0001fae8 \U0001f6dc", "\U000105c0\U000105c1 \U00010d50",
        "\U0001ccf0\U0001ccf1", "\u1c89\u1c8a", "\ua7cb\ua7da",
    ]
