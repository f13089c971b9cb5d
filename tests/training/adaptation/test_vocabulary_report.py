"""A vocabulary that splits a domain's words badly is told, with the words that it splits."""

from spanqa_training.adaptation.vocabulary_report import VocabularyReport, is_badly_split, report_lines


def report(tokenizer, text):
    made = VocabularyReport()
    made.add(text, tokenizer.pieces(text))
    return made.values()


def test_words_and_their_pieces_are_counted(tokenizer):
    found = report(tokenizer, "The bridges stand, 1950: the bridge.")
    assert found["words"] == 5, "numbers and signs are no words"
    assert found["pieces_a_word"] == (1 + 2 + 5 + 1 + 1) / 5
    assert found["badly_split_share"] == 0.2
    assert found["most_split"] == [], "stand is no frequent word"


def test_the_most_split_frequent_words_are_shown_and_a_bad_fit_is_said(tokenizer):
    found = report(tokenizer, "Xenon near the xenon; xenon and kappa kappa kappa kappa. The bridge stands there")
    assert [(one["word"], one["count"]) for one in found["most_split"]] == [("k|a|p|p|a", 4), ("x|e|n|o|n", 3)]
    assert is_badly_split(found)
    assert "times as many words into 3 pieces or more as in plain English" in report_lines(found)[-1]
    plain = report(tokenizer, "the old king built the red bridge near the river and the tower of the city")
    assert not is_badly_split(plain)
    assert not any("times as many" in line for line in report_lines(plain))


def test_nothing_to_count_is_no_error(tokenizer):
    assert report(tokenizer, "1 2 3")["words"] == 0
    assert VocabularyReport().values()["pieces_a_word"] == 0
