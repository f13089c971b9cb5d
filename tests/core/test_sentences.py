"""Sentences end where a reader would end them, in many languages; nothing is lost, and no text takes long."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanqa.sentences import sentence_around, sentence_spans

CASES = [
    # Each text is written with ¦ where a sentence ends and another begins.
    # Plain
    "One sentence",
    "One sentence.",
    "It rained. ¦The river rose! ¦Did it? ¦Yes.",
    "  It rained.  ¦  The river rose.  ",
    "No stop\nin a broken line\ngoes on",
    "A line ends here.\n¦The next begins.",
    "Really?! ¦No!!! ¦Well...",
    "He wrote 3 books. ¦12 are lost.",
    "It costs a lot. ¦$5 is cheap.",
    "It is hot. ¦😀 So they say.",
    "he came. ¦he saw. ¦he won.",
    "He came. ¦iPhone users did not.",
    "THE END. ¦NOTHING FOLLOWS.",
    "The word . ¦The next one .",
    "It ended in 1990. ¦In 1991 it began.",
    "It ended in 1990. ¦25 people stayed.",
    "A... b",
    "He said... nothing.",
    "He left... ¦Nobody knew.",
    "He left… ¦Nobody knew.",
    "Wait . . . what? ¦Nothing.",
    # Titles and names
    "Mr. Smith met Mrs. Jones. ¦Dr. No. arrived.",
    "Mr. A said no. ¦Then he left.",
    "Prof. Dr. Meyer spoke to Gen. Lee and Lt. Col. Ross.",
    "J. R. R. Tolkien wrote it. ¦J.R.R. Tolkien died in 1973.",
    "George W. Bush and W. E. B. Du Bois met.",
    "Robert M. La Follette ran.",
    "Martin Luther King Jr. was there. ¦So was Sammy Davis Jr. ¦He sang.",
    "He lives on Main St. ¦He likes it there.",
    "They saw St. Louis, Mt. Everest and Ft. Worth.",
    "World War I. ¦The end came late.",
    "He got a vitamin C. ¦It helped.",
    # Abbreviations
    "Fruit, e.g. apples, i.e. food, etc. is good.",
    "Apples, pears, etc. ¦They are good.",
    "Apples, pears, etc. ¦Der Apfel ist gut.",
    "Brown v. Board of Education vs. Texas.",
    "In the U.S. Army. ¦He left the U.S. ¦He came back to the U.S.",
    "The U.S.A. is big. ¦A U.S. senator knows.",
    "She lives in Washington, D.C. ¦The city is hot.",
    "At 5 p.m. he left. ¦At 6 a.m. ¦She came.",
    "Apple Inc. was founded. ¦He left Apple Inc. ¦In May he died.",
    "He works at Foo Co. (Ltd.) in Rome.",
    "He holds a Ph.D. from MIT. ¦She holds a Ph.D. ¦They met.",
    "See Smith et al. (2010) and Jones et al. ¦The rest is lost.",
    "It is approx. 5 km long. ¦It weighs 3 kg. ¦Paris is far.",
    "He is 5 ft. 3 in. tall. ¦She walked in. ¦The door shut.",
    "It is 5 m. ¦Wide rivers are rare.",
    "On Jan. 5 and Dec. 24. ¦In Jan. ¦The snow fell.",
    "See No. 5, Fig. 3, p. 12, pp. 3–4, Vol. II and Eq. 7.",
    "He said no. ¦Nobody cared. ¦It was a work of art. ¦She agreed.",
    "mr. smith came. ¦j. r. tolkien left.",
    # Numbers
    "Pi is 3.14 and e is 2.718. ¦That is all.",
    "It costs $1.50. ¦Python 3.10.4 is old. ¦So is v1.2.",
    "It is 1,000.5 m. ¦That is long.",
    "On 3. 10. 1990 it was done.",
    # Addresses
    "Ask me@example.com or see http://www.example.com/a.b?c=d. ¦Then write.",
    "Use example.com. ¦Read file.txt. ¦Node.js is a program.",
    "The .NET library and 5.x are fine.",
    "Yahoo! is a firm. ¦He asked who? of them.",
    # Quotes and brackets
    '"I came. ¦I saw." ¦He left.',
    'He said: "I came." ¦Then he left.',
    '"Really?" he asked. ¦"Yes!" she said.',
    "“Go!” ¦“No.” ¦‘Why?’ ¦Because.",
    "(He left. ¦She stayed.) ¦Nobody came.",
    "It rained (a lot!) and it (?) Roman.",
    "It is so [1]. ¦He left.[12][a] ¦She stayed.",
    'It lay "in the dust".) ¦It was lost.',
    "**Bold.** ¦*Italic.* ¦Plain.",
    "He left. ¦- Nobody knew.",
    "„Ich komme.“ ¦Er ging. ¦»Nein.« ¦Sie blieb.",
    "« Oui. » ¦Il partit. ¦« Non ! » ¦Elle resta.",
    # Paragraphs, lists and headings
    "A title\n\n¦A text\n\n\n¦Another",
    "A title\r\n\r\n¦A text\r\nof two lines",
    "One\r\r¦two",
    "Page one\f¦Page two",
    "# Heading\n¦Text of it\nthat goes on\n¦## Another\n¦Text",
    "Heading\n=======\n¦Text\n-----\n¦Text",
    "Buy:\n¦- milk\n¦- bread. ¦Fresh bread\n  of today\n¦* eggs\n¦• tea",
    "1. First. ¦More of it\n¦2. Second\n   goes on\n¦3. Third",
    "To do\n¦1. Wash\n¦2. Dry",
    "a) one\n¦b) two\n¦c) three",
    "(1) one\n¦(2) two",
    "I. Introduction\n\n¦2.1. Methods\n\n¦A. Data",
    "Oxygen (O\n2) is a gas, O\n2. ¦It burns.",
    "He was born in the year\n1990. ¦He died.",
    "| a | b |\n¦| 1. | 2. |\n¦Text",
    # Other languages
    "Am 3. Oktober kam z. B. Herr Dr. Meyer, d. h. der Chef. ¦Im 19. Jahrhundert, ca. 1850, v. Chr. und n. Chr.",
    "Er wohnt in der Hauptstr. ¦Sie auch. ¦Vgl. Abb. 3, S. 12 und Nr. 5 usw. ¦Die Stadt ist alt.",
    "M. Le Pen et Mme. Dupont sont là. ¦C'est la p. 12.",
    "¿Quién es? ¦¡Nadie! ¦El Sr. García vive en EE. UU. ¦No lo sé.",
    "Il Sig. Rossi è qui. ¦È tardi.",
    "Это А. С. Пушкин. ¦Он родился в 1799 г. ¦В г. Москва, на ул. Ленина и т. д. ¦Потом умер.",
    "Τι είναι αυτό\u037e ¦Δεν ξέρω.",
    "これは本です。¦それは何ですか？¦はい！",
    "彼は「行くよ。」と言った。¦そして出かけた。",
    "「行くよ。」¦彼は出かけた。",
    "他说：“你好。”¦我很好。¦“再见！”¦她说……然后走了。",
    "他说你好.¦我很好!¦价格是3.5元。¦好吗?¦好",
    "圆周率是３．１４。¦是的．¦好",
    "没有句号的一行",
    "그는 왔다. ¦그리고 갔다. ¦왜?",
    "राम आया। ¦सीता गई॥ ¦डॉ. शर्मा कहाँ हैं? ¦घर पर।",
    "राम आया।¦सीता गई।",
    "هل أنت هنا؟ ¦نعم. ¦قال د. محمد ذلك.",
    "آپ کہاں ہیں۔ ¦میں یہاں ہوں۔",
    "Որտե՞ղ ես։ ¦Այստեղ։",
    "Thai ไม่มีจุดจบประโยค",
    "",
    " \n\t ",
]


def sentences(text):
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize("case", CASES)
def test_sentences_end_where_a_reader_ends_them(case):
    expected = [part.strip() for part in case.split("¦") if part.strip()]
    assert sentences(case.replace("¦", "")) == expected


PIECES = st.sampled_from(
    [
        *"aZé9中。．「」।؟…\"'“”«»()[]|#*-=_.!?,:; \n\r\t\f\u2028\u3000\ud83d"[:-1],
        "Mr.",
        "U.S.",
        "e.g.",
        "1.",
        "\n\n",
        "\n- ",
    ]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=60).map("".join))


@given(TEXTS)
def test_sentences_hold_everything_but_white_space_once(text):
    spans = sentence_spans(text)
    ends = [0, *(place for span in spans for place in span)]
    assert ends == sorted(ends)
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)
    between = [*ends, len(text)]
    assert not "".join(text[end:start] for end, start in zip(between[::2], between[1::2], strict=True)).strip()


@given(TEXTS, st.data())
def test_the_sentences_around_a_span_hold_it_and_are_sentences(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    low, high = sentence_around(text, start, end)
    assert 0 <= low <= start <= end <= high <= len(text)
    spans = sentence_spans(text)
    assert low in {start, *(span[0] for span in spans)}
    assert high in {end, *(span[1] for span in spans)}
    if text[start:end].strip():
        held = [span for span in spans if span[0] < end and span[1] > start]
        assert (low, high) == (min(start, held[0][0]), max(end, held[-1][1]))


@pytest.mark.parametrize(
    ("span", "sentence"),
    [("Smith", "Dr. Smith came."), ("left. Nobody", "He left. Nobody knew."), ("knew.", "Nobody knew.")],
)
def test_a_span_is_widened_to_its_sentences(span, sentence):
    text = "It rained. Dr. Smith came. He left. Nobody knew. It rained."
    start = text.index(span)
    assert text[slice(*sentence_around(text, start, start + len(span)))] == sentence


def test_an_empty_span_is_in_the_sentence_that_goes_on_there():
    text = "One. Two.\n\n\nThree."
    assert sentence_around(text, 0, 0) == (0, 4)
    assert sentence_around(text, 5, 5) == (5, 9)
    assert sentence_around(text, 10, 11) == (10, 11)


def test_the_sentence_of_a_span_is_found_in_a_huge_text_without_reading_it():
    text = "It rained. " * 500_000
    at = text.index("rained", 2_500_000)
    began = time.process_time()
    for _ in range(10):
        low, high = sentence_around(text, at, at + 6)
    assert time.process_time() - began < 1
    assert text[low:high] == "It rained."


def test_a_sentence_without_end_is_cut_far_from_the_span():
    text = "word " * 100_000
    low, high = sentence_around(text, 250_000, 250_004)
    assert 1_000 < 250_000 - low < 5_000
    assert 1_000 < high - 250_004 < 5_000


HOSTILE = [(1_000_000, piece) for piece in (".", '"', "\n", "Mr. ")]
HOSTILE += [
    (500_000, piece)
    for piece in ("a\n", '."', "- \n", ".[1]", "((. ", "J. ", "。」", "=\n", ". »", "1.\n", "1.1.", " ")
]


@pytest.mark.parametrize(("n_chars", "piece"), HOSTILE, ids=json.dumps)
def test_no_text_takes_more_time_than_its_length(n_chars, piece):
    def seconds(n_chars):
        text = piece * (n_chars // len(piece))
        began = time.process_time()
        sentence_spans(text)
        return time.process_time() - began

    # What grows with the square would take 2500 times as long.
    small = min(seconds(n_chars // 50) for _ in range(3))
    assert seconds(n_chars) < max(250 * small, 0.5)


def test_the_development_set_is_split_well(root):
    """Its texts are of Wikipedia: hardly a sentence is short, or holds a stop and a capital that is not a name's."""
    questions = json.loads((root / "data" / "heldout200.json").read_text(encoding="utf-8"))
    contexts = [paragraph["context"] for article in questions["data"] for paragraph in article["paragraphs"]]
    lengths = [len(sentence.split()) for context in contexts for sentence in sentences(context)]
    assert 18 < sum(lengths) / len(lengths) < 30
    assert sum(length < 4 for length in lengths) < 0.01 * len(lengths)
