"""Every family that is taken over and exported."""

from __future__ import annotations

from spanqa_training.weights.families.albert import ALBERT
from spanqa_training.weights.families.bert import BERT, CAMEMBERT, ELECTRA, MEGATRON_BERT, ROBERTA, XLM_ROBERTA
from spanqa_training.weights.families.deberta import DEBERTA_V2
from spanqa_training.weights.families.distilbert import DISTILBERT
from spanqa_training.weights.families.mpnet import MPNET

HUGGING_FACE_FAMILIES = {
    family.model_type: family
    for family in (
        BERT,
        MEGATRON_BERT,
        ROBERTA,
        XLM_ROBERTA,
        CAMEMBERT,
        DISTILBERT,
        ELECTRA,
        ALBERT,
        MPNET,
        DEBERTA_V2,
    )
}
"""By the `model_type` of a config.json."""
