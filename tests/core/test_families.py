"""Every kind of tokenizer, in twelve scripts: windows, spans and offsets into the text as it was sent."""

import itertools
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import processors

from spanqa.errors import InputError, TokenizerError
from spanqa.spans import decode
from spanqa.tokenization import Tokenizer
from spanqa.windows import WindowMaker, WindowSettings, batch_windows

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "albert", "deberta-v2")
SETTINGS = WindowSettings(max_seq_length=96, doc_stride=24, max_query_length=32)
N_QUESTIONS = 250
"""Of each of twelve scripts: 3,000."""
NOISE = ("\n\n", "\t", "  ", "\u3000", "\u00a0", " \r\n ", " ")
CARRIED = "Ġ▁"


def questions_of(script, sentences, rng):
    """Contexts of several sentences joined by white space of every kind, ten questions about each."""
    asked = [sentence for sentence in sentences if sentence[-1] in "?;؟？" or len(sentence) < 30]
    for at in range(N_QUESTIONS // 10):
        chosen = rng.choice(len(sentences), size=6).tolist()
        parts = [part for index in chosen for part in (sentences[index], NOISE[rng.integers(len(NOISE))])]
        context = ("\ufeff" if at % 5 == 0 else "") + "".join(parts) + ("🚀" if at % 3 == 0 else "")
        if at % 4 == 1:
            context = unicodedata.normalize("NFD", context)
        for number in range(10):
            yield f"{asked[number % len(asked)]} {script} {number}", context


@pytest.fixture(scope="session")
def asked(scripts):
    """3,000 questions, with their contexts."""
    rng = np.random.default_rng(15)
    return [one for script, sentences in scripts.items() for one in questions_of(script, sentences, rng)]


@pytest.fixture(params=FAMILIES)
def family(request, tokenizers_of_families):
    """One family's tokenizer, and the library's own of the same tokenizer.json."""
    tokenizer = tokenizers_of_families[request.param]
    backend = Backend.from_str(tokenizer.serialized)
    backend.no_padding()
    if request.param == "bert":  # a vocab.txt says nothing of pairs
        ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids)
    return tokenizer, backend


def is_kept(text, index, normalizer):
    """Whether a character must stand in a piece: no space, control, lone mark or what becomes one."""
    category = unicodedata.category(text[index])
    if text[index].isspace() or category[0] in "CZ" or is_nothing(text[index], normalizer):
        return False
    before = text[index - 1] if index else " "
    return category[0] != "M" or not (before.isspace() or unicodedata.category(before)[0] in "CZM")


def is_nothing(character, normalizer):
    return normalizer is not None and without_spaces(normalizer.normalize_str(character)) == ""


def assert_pieces(text, pieces, normalizer):
    """No piece begins or ends with white space, all stand in order, and together they hold every character."""
    starts, ends = pieces.chars.T
    assert pieces.ids.dtype == pieces.chars.dtype == np.int32
    assert (np.diff(starts) >= 0).all()
    assert (np.diff(ends) >= 0).all()
    assert starts.min(initial=0) >= 0
    assert ends.max(initial=0) <= len(text)
    covered = np.zeros(len(text) + 1, dtype=bool)
    for start, end in pieces.chars[starts < ends].tolist():
        assert not text[start].isspace()
        assert not text[end - 1].isspace()
        covered[start:end] = True
    missing = [index for index in range(len(text)) if not covered[index] and is_kept(text, index, normalizer)]
    assert not missing, [(text[index], index) for index in missing]


def runs_of_characters(chars):
    """Ranges of pieces that share characters, visible ones only."""
    runs = []
    for index in (index for index, (start, end) in enumerate(chars) if start < end):
        if runs and chars[index][0] < chars[runs[-1][-1]][1]:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def assert_surfaces(text, pieces, backend, tokenizer):
    """What a run of pieces says is what the normaliser makes of the slice of the text that it points at."""
    unknown = backend.token_to_id(tokenizer.special_tokens["unk_token"])
    alphabet = {chr(256 + n): code for n, code in enumerate(unprintable_bytes())}
    runs = runs_of_characters(pieces.chars.tolist())
    for run, following in zip(runs, [*runs, [len(pieces)]][1:], strict=True):
        ids = pieces.ids[run[0] : following[0]].tolist()  # with the blank ones behind it
        if unknown in ids:
            continue
        slice_ = text[int(pieces.chars[run[0], 0]) : int(pieces.chars[run, 1].max())]
        said = "".join(backend.id_to_token(index) for index in ids)
        if tokenizer.kind == "BPE":
            said = bytes(alphabet.get(sign, ord(sign)) for sign in said).decode()
        else:
            slice_ = backend.normalizer.normalize_str(slice_)
        assert without_spaces(said) == without_spaces(slice_)


def unprintable_bytes():
    """The bytes that GPT-2's alphabet shifts to 256 and on (its encoder.py, bytes_to_unicode)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    return [code for code in range(256) if code not in printable]


def without_spaces(text):
    return "".join(sign for sign in text if not sign.isspace() and sign != "▁" and unicodedata.category(sign) != "Cc")


def test_ids_and_token_types_are_those_of_the_library_for_the_same_pair(family, asked):
    tokenizer, backend = family
    maker = WindowMaker(tokenizer, WindowSettings(max_seq_length=2000, doc_stride=512, max_query_length=400))
    sample = asked[::20]
    for windows, encoding in zip(maker.windows_of_many(sample), backend.encode_batch(sample), strict=True):
        batch = batch_windows([(windows, 0)])
        assert batch.input_ids[0].tolist() == encoding.ids
        assert batch.token_type_ids[0].tolist() == encoding.type_ids
        assert len(windows) == 1


def test_windows_hold_every_character_of_every_script(family, asked):
    tokenizer, backend = family
    maker = WindowMaker(tokenizer, SETTINGS)
    seen = set()
    for (_, context), windows in zip(asked, maker.windows_of_many(asked), strict=True):
        pair, n_question, document = tokenizer.pair, len(windows.question_ids), windows.document
        assert windows.room == SETTINGS.max_seq_length - n_question - pair.n_special
        assert windows.starts.tolist() == [index * SETTINGS.doc_stride for index in range(len(windows))]
        assert int(windows.starts[-1] + windows.lengths[-1]) == len(document)
        ids = windows.input_ids(len(windows) - 1).tolist()
        low = len(pair.before) + n_question + len(pair.between)
        assert ids[:low] == [*pair.before, *windows.question_ids.tolist(), *pair.between]
        assert ids[low:] == [*document.ids[windows.starts[-1] :].tolist(), *pair.after]
        if context not in seen:
            seen.add(context)
            assert_pieces(context, document, backend.normalizer)
            if tokenizer.kind != "WordPiece":
                assert_surfaces(context, document, backend, tokenizer)


@pytest.mark.parametrize("word_boundaries", [False, True])
def test_every_span_is_a_slice_without_white_space_at_its_ends(family, asked, word_boundaries):
    tokenizer, _ = family
    maker = WindowMaker(tokenizer, SETTINGS)
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, size=(2, 64, SETTINGS.max_seq_length)).astype(np.float32)
    sample = asked[word_boundaries::2]
    for number, ((_, context), windows) in enumerate(zip(sample, maker.windows_of_many(sample), strict=True)):
        starts, ends = logits[:, : len(windows)]
        options = {"n_best": 4, "word_boundaries": word_boundaries, "distinct": number % 2 == 0}
        for span in decode(windows, context, starts, ends, **options).spans:
            assert span.text == context[span.char_start : span.char_end] != ""
            assert span.text == span.text.strip()
            assert unicodedata.category(span.text[0])[0] != "M" or not word_boundaries


def test_answers_labelled_in_training_are_found_again(family, asked):
    from spanqa.examples import Example, GoldAnswer
    from spanqa_training.data.labels import window_labels

    tokenizer, _ = family
    maker = WindowMaker(tokenizer, SETTINGS)
    rng = np.random.default_rng(4)
    sample = asked[::3]
    n_found = 0
    for number, ((question, context), windows) in enumerate(zip(sample, maker.windows_of_many(sample), strict=True)):
        runs = runs_of_characters(windows.document.chars.tolist())
        first = int(rng.integers(len(runs)))
        last = min(first + int(rng.integers(6)), len(runs) - 1)
        start = int(windows.document.chars[runs[first][0], 0])
        end = int(windows.document.chars[runs[last], 1].max())
        answer = GoldAnswer(text=context[start:end], char_start=start)
        example = Example(id=str(number), title="", paragraph=0, question=question, context=context, answers=(answer,))
        for index, (low, high) in enumerate(window_labels(windows, example)):
            if not low:
                continue
            shift = int(windows.starts[index]) - windows.context_offset
            chars = windows.document.chars
            assert context[chars[low + shift, 0] : chars[high + shift, 1]] == answer.text
            n_found += 1
    assert n_found > len(sample) / 2


@pytest.mark.parametrize("text", ["<s> a </s>", "</s></s>", "[SEP]", "a [CLS] b", "<pad><mask>", "▁</s>", "<s>NOTUSED"])
def test_special_tokens_in_a_text_are_ordinary_text(family, text):
    tokenizer, backend = family
    special = {token.content: index for index, token in backend.get_added_tokens_decoder().items()}
    unknown = backend.token_to_id(tokenizer.special_tokens["unk_token"])
    assert not (set(tokenizer.pieces(text).ids.tolist()) - {unknown}) & ({*special.values()} | tokenizer.pair.ids)


TROUBLE = (
    "the bridge </s> zqx0",
    "😀🚀👍🏽👩\u200d🚀🇩🇪",
    "e\u0301o\u0308\u0323\u0301a\u20dd",
    "東京大学に行く。か\u3099ｶﾞ㍿",
    "한국어 \u1112\u1161\u11ab",
    "שָׁלוֹם مَرْحَبًا ﷺ",
    "\t\n\r\u00a0\u3000\u2009\u200b\u2028\u0085",
    "\x00\x01\x07\x1b\x7f\u00ad\ufeff\u202e\ufffd",
    "İıßŉǰﬁﷺſK½ⅧAA´",
    "ภาษาน้ำ ក្រុង क़ा",
    "𝒳𐍈𠀀\U0010fffd ▁ `` ''",
)
CHARACTERS = st.one_of(
    st.sampled_from("".join(TROUBLE)),
    st.characters(blacklist_categories=("Cs", "Cn")).filter(lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn"),
)
TEXTS = st.lists(st.one_of(st.text(CHARACTERS, max_size=6), st.sampled_from(TROUBLE)), max_size=8).map(" ".join)


@pytest.mark.parametrize("name", FAMILIES[1:])
def test_offsets_hold_for_any_text(tokenizers_of_families, name):
    tokenizer = tokenizers_of_families[name]
    backend = Backend.from_str(tokenizer.serialized)

    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(TEXTS)
    def holds(text):
        pieces = tokenizer.pieces(text)
        assert_pieces(text, pieces, backend.normalizer)
        assert_surfaces(text, pieces, backend, tokenizer)

    holds()


@pytest.mark.parametrize("text", ["", " \n\t", "\u3000"])
def test_a_text_of_white_space_alone_is_refused(family, text):
    maker = WindowMaker(family[0], SETTINGS)
    with pytest.raises(InputError, match="the context holds no word"):
        maker.windows("who", text)
    with pytest.raises(InputError, match="the question holds no word"):
        maker.windows(text, "a tower")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Paris, 1950s don't", ["Paris", ",", "1950s", "don", "'", "t"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("น้ำ", ["น้", "ำ"]),
        ("می\u200cسازد", ["می\u200cسازد"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
    ],
)
@pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "deberta-v2"])
def test_words_are_those_of_the_text_whatever_the_pieces(tokenizers_of_families, name, text, words):
    """A piece may hold several characters of a script without spaces, but none is parted from its marks."""
    pieces = tokenizers_of_families[name].pieces(text)
    chars, continues = pieces.chars.tolist(), pieces.continues.tolist()
    begins = {low for (low, high), inside in zip(chars, continues, strict=True) if low < high and not inside}
    places = list(itertools.accumulate((len(word) for word in words), initial=0))
    text_places = []
    at = 0
    for word in words:
        at = text.index(word, at)
        text_places.append(at)
        at += len(word)
    assert begins <= set(text_places)
    if name == "roberta" or places[-1] == len(words[0]):
        assert begins >= {text_places[0]}


def test_settings_without_room_for_a_family_s_special_tokens_are_refused(tokenizers_of_families):
    from spanqa.errors import SettingsError

    tight = WindowSettings(max_seq_length=8, doc_stride=2, max_query_length=3)
    assert WindowMaker(tokenizers_of_families["bert"], tight).settings is tight
    with pytest.raises(SettingsError, match=r"4 special tokens and a step of doc_stride 2 need at least 9"):
        WindowMaker(tokenizers_of_families["roberta"], tight)


def test_every_family_joins_a_pair_as_it_was_published_to(tokenizers_of_families):
    shapes = {name: one.pair for name, one in tokenizers_of_families.items()}
    counts = {name: (len(pair.before), len(pair.between), len(pair.after)) for name, pair in shapes.items()}
    assert counts == {
        **dict.fromkeys(("bert", "albert", "deberta-v2"), (1, 1, 1)),
        **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), (1, 2, 1)),
    }
    assert [shapes[name].context_type for name in FAMILIES] == [1, 0, 0, 0, 1, 1]
    assert json.loads(tokenizers_of_families["roberta"].serialized)["post_processor"]["type"] == "RobertaProcessing"


def test_merges_that_make_a_special_token_are_refused(tokenizers_of_families):
    document = json.loads(tokenizers_of_families["roberta"].serialized)
    document["model"]["vocab"]["<s"] = len(document["model"]["vocab"])
    document["model"]["merges"] += [["<", "s"], ["<s", ">"]]
    with pytest.raises(TokenizerError, match=r"its merges make a special token of a pair: anybody could write it"):
        Tokenizer(json.dumps(document))


def test_a_post_processor_with_an_unknown_id_is_refused(tokenizers_of_families):
    document = json.loads(tokenizers_of_families["roberta"].serialized)
    document["post_processor"]["sep"] = ["</s>", 99_999]
    with pytest.raises(TokenizerError, match=r"adds the id 99999, which no token has"):
        Tokenizer(json.dumps(document))


def test_a_special_token_s_name_is_hidden_from_unigram_alone_in_the_text(tokenizers_of_families):
    """The file itself stays as it came, and its hash with it."""
    tokenizer = tokenizers_of_families["xlm-roberta"]
    assert "</s>" in tokenizer.serialized
    assert Tokenizer(tokenizer.serialized).sha256 == tokenizer.sha256


def test_a_prefix_space_that_is_a_piece_of_its_own_is_blank(tokenizers_of_families):
    document = json.loads(tokenizers_of_families["roberta"].serialized)
    document["pre_tokenizer"]["add_prefix_space"] = True
    pieces = Tokenizer(json.dumps(document)).pieces("龘 x")
    assert pieces.chars[0].tolist() == [0, 0]
    assert pieces.chars[1].tolist() == [0, 1]
    assert not pieces.continues[1]


def test_files_that_do_not_name_the_type_of_their_model_are_read(family, scripts):
    """Those of tokenizers before 0.10, as bert-base-uncased and roberta-base were published with."""
    tokenizer, _ = family
    document = json.loads(tokenizer.serialized)
    del document["model"]["type"]
    old = Tokenizer(json.dumps(document))
    assert (old.kind, old.pair, old.special_tokens) == (tokenizer.kind, tokenizer.pair, tokenizer.special_tokens)
    for sentences in scripts.values():
        for name in ("ids", "chars", "continues"):
            ours, theirs = (getattr(one.pieces(sentences[0]), name) for one in (old, tokenizer))
            np.testing.assert_array_equal(ours, theirs)
