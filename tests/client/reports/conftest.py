"""SQuAD's development set, and real predictions for it as runs."""

import pytest

from spanqa.datasets import read_dataset
from spanqa_client.predictions import read_na_probs, read_predictions
from spanqa_client.reports.runs import Run, Said


@pytest.fixture(scope="session")
def squad(root):
    return root / "tests" / "data" / "squad"


@pytest.fixture(scope="session")
def squad_examples(squad):
    return read_dataset(squad / "dev-v2.0.json.gz")


@pytest.fixture(scope="session")
def squad_run(squad):
    """Makes a run of one of the real prediction files."""

    def run(system):
        margins = read_na_probs(squad / "na_probs_seed1.json.gz")
        predictions = read_predictions(squad / f"predictions_{system}.json.gz")
        answers = {
            key: Said(text=text, answered=text != "" and margins[key] <= 0.5, margin=margins[key])
            for key, text in predictions.items()
        }
        return Run(name=system, said=answers, threshold=0.5, is_probability=True)

    return run
