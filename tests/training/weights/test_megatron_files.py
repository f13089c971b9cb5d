"""A file of Megatron-LM is found in folders and zips, and goes with the vocabulary that it was trained on."""

from __future__ import annotations

import zipfile

import pytest

from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.megatron import megatron_file
from spanqa_training.weights.recognition import ImportOptions, import_model
from spanqa_training.weights.vocabulary import rows_without_padding

FILE = "model_optim_rng.pt"
LAYOUTS = {
    "beside": FILE,
    "rank": f"mp_rank_00/{FILE}",
    "release": f"release/mp_rank_00/{FILE}",
    "tracked release": f"release/mp_rank_00/{FILE}",
    "tracked iteration": f"iter_0001500/mp_rank_00/{FILE}",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_file_is_found_where_megatron_keeps_it(oracle, folder, layout, megatron):
    path = megatron.write(folder / LAYOUTS[layout], megatron.megatron_state(oracle))
    if layout.startswith("tracked"):
        said = "release" if "release" in layout else "1500\n"
        (folder / "latest_checkpointed_iteration.txt").write_text(said)
    assert megatron_file(folder) == path
    megatron.assert_same_logits(import_model(folder), oracle)


@pytest.mark.parametrize("said", ["../../elsewhere", "", "-1", "\xff"])
def test_a_tracker_that_names_no_iteration_is_refused(oracle, folder, said, megatron):
    megatron.write(folder / f"release/mp_rank_00/{FILE}", megatron.megatron_state(oracle))
    (folder / "latest_checkpointed_iteration.txt").write_text(said)
    with pytest.raises(ImportWeightsError, match="it must be release or the number of an iteration"):
        import_model(folder)


@pytest.mark.parametrize("sibling", ["mp_rank_01", "mp_rank_00_001"])
def test_a_shard_among_others_is_refused_with_the_way_out(oracle, folder, sibling, megatron):
    path = megatron.write(folder / f"release/mp_rank_00/{FILE}", megatron.megatron_state(oracle))
    (folder / "release" / sibling).mkdir()
    for source in (path, folder):
        with pytest.raises(ImportWeightsError, match=rf"several shards \({sibling} is beside it\): merge the shards"):
            import_model(source)


def test_the_zip_of_ngc_is_read(oracle, folder, megatron):
    written = megatron.write(folder / "written" / FILE, megatron.megatron_state(oracle), zipped=False)
    zip_path = folder / "megatron_bert_345m_v0.1_uncased.zip"
    with zipfile.ZipFile(zip_path, "w") as archive:
        archive.writestr("latest_checkpointed_iteration.txt", "release")
        archive.write(written, f"release/mp_rank_00/{FILE}")
    megatron.assert_same_logits(import_model(zip_path), oracle)
    with zipfile.ZipFile(zip_path, "a") as archive:
        archive.write(written, f"release/mp_rank_01/{FILE}")
    with pytest.raises(ImportWeightsError, match=r"zip: holds several shards \(release/mp_rank_00/.*merge the shards"):
        import_model(zip_path)


def test_a_damaged_zip_names_the_zip(oracle, folder, megatron):
    written = megatron.write(folder / "written" / FILE, megatron.megatron_state(oracle))
    zip_path = folder / "download.zip"
    with zipfile.ZipFile(zip_path, "w") as archive:
        archive.write(written, f"release/mp_rank_00/{FILE}")
    content = bytearray(zip_path.read_bytes())
    content[len(content) // 2] ^= 255
    zip_path.write_bytes(content)
    with pytest.raises(ImportWeightsError, match=r"download\.zip: release/mp_rank_00/.* cannot be unpacked: fetch"):
        import_model(zip_path)


class Sized:
    """A tokenizer of so many tokens."""

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size


@pytest.mark.parametrize(
    ("n_rows", "size"), [(30592, 30522), (29056, 28996), (30522, 30522), (30720, 30522), (29184, 28996)]
)
def test_rows_of_megatrons_own_padding_are_cut(n_rows, size):
    """To a multiple of 128 times the shards that the weights were once cut into."""
    assert rows_without_padding(n_rows, Sized(size)) == size


@pytest.mark.parametrize(("n_rows", "size"), [(30592, 28996), (29056, 30522), (30592, 30521 - 64), (30523, 30522)])
def test_rows_of_another_vocabulary_are_refused_with_both_sizes(n_rows, size):
    message = rf"has {n_rows:,} rows, and the tokenizer has {size:,} tokens.*cased vocabulary \(28,996 tokens"
    with pytest.raises(ImportWeightsError, match=message):
        rows_without_padding(n_rows, Sized(size))


def test_the_wrong_vocabulary_is_refused_and_the_right_one_can_be_given(oracle, folder, vocabulary_file, megatron):
    path = megatron.write(folder / FILE, megatron.megatron_state(oracle))
    lines = vocabulary_file.read_text(encoding="utf-8").splitlines()
    (folder / "vocab.txt").write_text("\n".join(lines[:100]), encoding="utf-8")
    with pytest.raises(ImportWeightsError, match=r"the tokenizer has 100 tokens.*\(--tokenizer\)"):
        import_model(path)
    imported = import_model(path, ImportOptions(tokenizer=vocabulary_file))
    assert imported.checkpoint.encoder.vocab_size == len(lines)
    megatron.assert_same_logits(imported, oracle)


def test_a_vocabulary_under_googles_name_is_found_unless_there_are_two(oracle, folder, megatron):
    path = megatron.write(folder / FILE, megatron.megatron_state(oracle))
    (folder / "vocab.txt").rename(folder / "bert-large-uncased-vocab.txt")
    megatron.assert_same_logits(import_model(path), oracle)
    (folder / "bert-large-cased-vocab.txt").write_text("[UNK]")
    with pytest.raises(ImportWeightsError, match=r"no tokenizer\.json or vocab\.txt there"):
        import_model(path)
