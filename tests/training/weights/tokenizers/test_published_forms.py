"""Tokenizers of folders without a tokenizer.json give the ids of transformers' own classes; the rest is completed."""

import importlib
import json
import shutil

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer as Backend

from spanqa.errors import TokenizerError
from spanqa.tokenization import Tokenizer, load_tokenizer
from spanqa.windows import WindowMaker, WindowSettings, batch_windows
from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.import_types import ImportOptions
from spanqa_training.weights.tokenizers.completion import completed_tokenizer_json
from spanqa_training.weights.tokenizers.sentencepiece_file import read_sentencepiece_model
from spanqa_training.weights.vocabulary import load_vocabulary

LONG = WindowSettings(max_seq_length=500, doc_stride=128, max_query_length=64)


def reference_of(name, folder):
    """transformers' own tokenizer of the same files."""
    import transformers

    if name == "bert":
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        vocabulary = {token: index for index, token in enumerate(lines)}
        return transformers.BertTokenizer(vocab=vocabulary, do_lower_case=False)
    if name == "roberta":
        return transformers.RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    # transformers gives a function of this name for the module, once another of its modules was imported.
    convert = importlib.import_module("transformers.convert_slow_tokenizer")
    path = folder / "sentencepiece.bpe.model"
    model = SentencePieceProcessor(model_file=str(path))
    pieces = [(model.id_to_piece(index), model.get_score(index)) for index in range(len(model))]
    # Its own reader of the file needs a newer protobuf than Triton's client.
    charsmap = read_sentencepiece_model(path).charsmap
    if name == "xlm-roberta":
        converted = convert.XLMRobertaConverter.convert_from_spm(vocab=pieces)
        return transformers.XLMRobertaTokenizer(**converted, _spm_precompiled_charsmap=charsmap)
    converted = convert.CamembertConverter.convert_from_spm(vocab=pieces)
    return transformers.CamembertTokenizer(**converted, _spm_precompiled_charsmap=charsmap)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "camembert"])
def test_a_pair_has_the_ids_that_transformers_gives_it(tokenizer_folders, scripts, name):
    folder = tokenizer_folders[name]
    tokenizer = load_vocabulary(ImportOptions(), [folder], config={"model_type": name})
    reference = reference_of(name, folder)
    maker = WindowMaker(tokenizer, LONG)
    for sentences in scripts.values():
        question, context = sentences[-1], "  ".join(sentences[:-1])
        row = batch_windows([(maker.windows(question, context), 0)])
        expected = reference(question, context, return_token_type_ids=True)
        assert row.input_ids[0].tolist() == expected["input_ids"]
        if name in ("bert", "roberta"):
            assert row.token_type_ids[0].tolist() == expected["token_type_ids"]
    assert reference.pad_token_id == tokenizer.pad_id
    assert {role: getattr(reference, role) for role in tokenizer.special_tokens} == tokenizer.special_tokens


@pytest.mark.parametrize("is_told", [True, False])
def test_mpnet_s_vocabulary_has_roberta_s_tokens(tokenizer_folders, scripts, tmp_path, is_told):
    import transformers

    text = (tokenizer_folders["bert"] / "vocab.txt").read_text(encoding="utf-8")
    for one, other in (("[PAD]", "<pad>"), ("[CLS]", "<s>"), ("[SEP]", "</s>"), ("[MASK]", "<mask>")):
        text = text.replace(f"{one}\n", f"{other}\n")
    (tmp_path / "vocab.txt").write_text(text, encoding="utf-8")
    if is_told:
        said = {"cls_token": "<s>", "sep_token": {"content": "</s>"}, "pad_token": "<pad>", "mask_token": "<mask>"}
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(said))
    tokenizer = load_tokenizer(tmp_path)
    vocabulary = {token: index for index, token in enumerate(text.splitlines())}
    reference = transformers.MPNetTokenizer(vocab=vocabulary)
    maker = WindowMaker(tokenizer, LONG)
    for sentences in scripts.values():
        row = batch_windows([(maker.windows(sentences[-1], sentences[1]), 0)])
        assert row.input_ids[0].tolist() == reference(sentences[-1], sentences[1])["input_ids"]
        assert not row.token_type_ids.any()
    assert {role: getattr(reference, role) for role in tokenizer.special_tokens} == tokenizer.special_tokens


def test_roberta_s_prefix_space_and_tokens_are_read_beside_its_files(tokenizer_folders, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer_folders["roberta"] / name, tmp_path / name)
    plain = load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "<mask>"}')
    told = load_tokenizer(tmp_path)
    assert (
        plain.pieces("tower").ids.tolist() != told.pieces("tower").ids.tolist() == plain.pieces(" tower").ids.tolist()
    )
    assert told.pieces("tower").chars[-1, 1] == 5
    assert plain.pad_id == 1  # a token named <pad> pads whatever else is said
    assert plain.special_tokens["mask_token"] == "<mask>"


@pytest.mark.parametrize("damaged", ["vocab.json", "merges.txt"])
def test_damaged_files_of_bpe_are_one_sentence(tokenizer_folders, tmp_path, damaged):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer_folders["roberta"] / name, tmp_path / name)
    (tmp_path / damaged).write_text("{" if damaged == "vocab.json" else "not a merge of this vocabulary\n")
    with pytest.raises(TokenizerError, match=r"vocab\.json: with merges\.txt it is no byte-level BPE"):
        load_tokenizer(tmp_path)


def test_bpe_without_special_tokens_asks_for_their_names(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(TokenizerError, match=r"lacks <s>, </s>, <pad>: name the tokens .* special_tokens_map\.json"):
        load_tokenizer(tmp_path)


def test_bpe_of_characters_is_not_taken_for_one_of_bytes(tmp_path):
    """As HerBERT's, which is published in files of the same names."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "a", "b</w>", "ab</w>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    with pytest.raises(TokenizerError, match=r"vocab\.json: its pieces end words with </w>: they are of characters"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "albert", "deberta-v2"])
def test_words_that_were_added_have_the_ids_of_the_library(tokenizers_of_families, name):
    backend = Backend.from_str(tokenizers_of_families[name].serialized)
    backend.add_special_tokens(["<ours>"])
    backend.add_tokens(["RX-7", "<num>"])
    text = "RX-7 has <num> wheels, RX-7"
    told = Tokenizer(backend.to_str())
    pieces = told.pieces(text)
    assert pieces.ids.tolist() == backend.encode(text, add_special_tokens=False).ids
    assert {text[start:end] for start, end in pieces.chars.tolist()} >= {"RX-7", "<num>"}
    hidden = {backend.token_to_id("<ours>"), *told.pair.ids}
    assert not hidden & set(told.pieces("<ours> </s> [SEP]").ids.tolist())


@pytest.fixture
def bare_bpe(tokenizer_folders):
    """A tokenizer.json of byte-level BPE that says nothing of pairs."""
    document = json.loads(load_tokenizer(tokenizer_folders["roberta"]).serialized)
    return {**document, "post_processor": None}


def test_a_file_that_says_nothing_of_pairs_is_refused(bare_bpe):
    with pytest.raises(TokenizerError, match="does not say which special tokens stand around a question and a context"):
        Tokenizer(json.dumps(bare_bpe))


@pytest.mark.parametrize(
    ("config", "between", "context_type"),
    [
        ({"model_type": "roberta", "type_vocab_size": 1}, (2, 2), 0),
        ({"model_type": "x", "type_vocab_size": 2}, (2,), 1),
    ],
)
def test_the_model_s_configuration_completes_it(bare_bpe, config, between, context_type):
    said = {"cls_token": "<s>", "sep_token": "</s>"}
    pair = Tokenizer(completed_tokenizer_json(json.dumps(bare_bpe), config, said)).pair
    assert (pair.before, pair.between, pair.after, pair.pad_id) == ((0,), between, (2,), 1)
    assert pair.context_type == context_type


@pytest.mark.parametrize(("name", "keeps_case"), [("BertTokenizerFast", True), ("PreTrainedTokenizerFast", False)])
def test_tokenizer_config_decides_over_bert_s_normaliser_as_in_transformers(
    tokenizers_of_families, tmp_path, name, keeps_case
):
    import transformers

    document = json.loads(tokenizers_of_families["bert"].serialized)
    document["normalizer"]["lowercase"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, "do_lower_case": False}))
    ours = load_vocabulary(ImportOptions(), [tmp_path], config={"model_type": "bert"})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.lower_cases != keeps_case
    assert ours.pieces("The Tower").ids.tolist() == theirs("The Tower", add_special_tokens=False)["input_ids"]


def test_the_padding_is_completed_from_the_configuration(bare_bpe):
    document = json.loads(json.dumps(bare_bpe).replace("<pad>", "<gap>"))
    said = {"cls_token": "<s>", "sep_token": "</s>"}
    with pytest.raises(TokenizerError, match=r"lacks \[PAD\] and <pad>"):
        Tokenizer(completed_tokenizer_json(json.dumps(document), {}, said))
    tokenizer = Tokenizer(completed_tokenizer_json(json.dumps(document), {"pad_token_id": 1}, said))
    assert (tokenizer.pad_id, tokenizer.special_tokens["pad_token"]) == (1, "<gap>")
    document["padding"] = json.loads(tokenizer.serialized)["padding"]
    assert completed_tokenizer_json(json.dumps(document), {"pad_token_id": 2}, {}) == json.dumps(document)


def test_what_is_whole_stays_as_it_is(tokenizers_of_families):
    for name, tokenizer in tokenizers_of_families.items():
        text = tokenizer.serialized
        assert completed_tokenizer_json(text, {"model_type": name}, tokenizer.special_tokens) == text
    assert completed_tokenizer_json("{", {}, {}) == "{"


def test_a_folder_without_any_vocabulary_says_what_is_read(tmp_path):
    with pytest.raises(
        ImportWeightsError, match=r"vocab\.json with merges\.txt, and sentencepiece\.bpe\.model, spiece"
    ):
        load_vocabulary(ImportOptions(), [tmp_path])


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ([("A", 0), ("<s>", 0), ("B", 0)], "does not put a special token first"),
        ([("<s>", 0), ("B", 0), ("</s>", 0), ("A", 0)], "does not put a special token first"),
        ([("<s>", 2), ("A", 0), ("</s>", 0), ("B", 1)], r"token types \[2, 0, 0, 1\]"),
        ([("<s>", 0), ("A", 1), ("</s>", 0), ("B", 1)], "token types"),
    ],
)
def test_pairs_that_no_window_can_be_cut_for_are_refused(bare_bpe, processor, message):
    def part(name, kind):
        if name in "AB":
            return {"Sequence": {"id": name, "type_id": kind}}
        return {"SpecialToken": {"id": name, "type_id": kind}}

    special = {name: {"id": name, "ids": [index], "tokens": [name]} for name, index in (("<s>", 0), ("</s>", 2))}
    template = {"type": "TemplateProcessing", "pair": [part(*one) for one in processor], "special_tokens": special}
    document = {**bare_bpe, "post_processor": {**template, "single": [part("A", 0)]}}
    with pytest.raises(TokenizerError, match=message):
        Tokenizer(json.dumps(document))


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "camembert", "albert", "deberta-v2", "distilbert"])
def test_an_exported_folder_reads_pairs_as_the_checkpoint_does(tokenizers_of_families, scripts, tmp_path, name):
    import torch
    from transformers import PreTrainedTokenizerFast

    from spanqa_training.checkpoints.checkpoint import Checkpoint
    from spanqa_training.model import EncoderConfig, SpanModel
    from spanqa_training.weights.hugging_face import write_hugging_face

    tokenizer = tokenizers_of_families["bert" if name == "distilbert" else name]
    special = {
        "type_vocab_size": {"roberta": 1, "xlm-roberta": 1, "camembert": 1}.get(name, 0 if name[:2] == "di" else 2)
    }
    if special["type_vocab_size"] == 1:
        special["position_offset"] = tokenizer.pad_id + 1
    if name == "deberta-v2":
        special |= {"type_vocab_size": 0, "position_scheme": "disentangled", "relative_buckets": 8}
        special |= {"relative_distance": 64, "layer_norm_eps": 1e-7}
    size = {"vocab_size": tokenizer.vocab_size, "hidden_size": 8, "num_layers": 1, "num_heads": 1}
    config = EncoderConfig(family=name, intermediate_size=8, max_positions=200, **size, **special)
    windows = WindowSettings(max_seq_length=200, doc_stride=64, max_query_length=64)
    checkpoint = Checkpoint(encoder=config, tokenizer_json=tokenizer.serialized, windows=windows, provenance={})
    torch.manual_seed(0)
    write_hugging_face(checkpoint, SpanModel(config), tmp_path)
    if name not in ("albert", "deberta-v2", "distilbert"):
        assert (tmp_path / "tokenizer.json").read_text(encoding="utf-8") == tokenizer.serialized
    reference = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert ("token_type_ids" in reference.model_input_names) == (special["type_vocab_size"] > 1)
    assert reference.model_max_length == 200
    maker = WindowMaker(tokenizer, windows)
    for sentences in scripts.values():
        row = batch_windows([(maker.windows(sentences[-1], sentences[1]), 0)])
        pair = reference(sentences[-1], sentences[1], return_token_type_ids=True)
        assert row.input_ids[0].tolist() == pair["input_ids"]
        assert row.token_type_ids[0].tolist() == pair["token_type_ids"]
    assert {role: getattr(reference, role) for role in tokenizer.special_tokens} == tokenizer.special_tokens


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_added_tokens_are_found_as_transformers_finds_them(tokenizer_folders, tmp_path, name):
    folder = tmp_path / name
    shutil.copytree(tokenizer_folders[name], folder)
    for file in ("tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"):
        (folder / file).unlink(missing_ok=True)
    size = load_tokenizer(folder).vocab_size
    added = {"<ent>": size + 1, "NewCorp": size}
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": name}), encoding="utf-8")
    import transformers

    reference = getattr(transformers, f"{name.capitalize()}Tokenizer").from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == size + 2
    question, context = "Who owns NewCorp?", "The NewCorp of newcorp's NEWCORP and NewCorps <ent> is<ent> ours."
    row = batch_windows([(WindowMaker(tokenizer, LONG).windows(question, context), 0)])
    expected = reference(question, context)["input_ids"]
    assert added["NewCorp"] in expected
    assert added["<ent>"] in expected
    assert row.input_ids[0].tolist() == expected


@pytest.mark.parametrize(
    ("added", "message"), [({"<ent>": 90_000}, "gives '<ent>' the id 90000"), ({"<ent>": "x"}, "no table of tokens")]
)
def test_added_tokens_that_cannot_be_are_refused(tokenizer_folders, tmp_path, added, message):
    (tmp_path / "vocab.txt").write_bytes((tokenizer_folders["bert"] / "vocab.txt").read_bytes())
    (tmp_path / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)
