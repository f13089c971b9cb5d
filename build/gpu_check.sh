#!/usr/bin/env bash
# On a machine with the GPU, in the image of build/Dockerfile: build for TensorRT and for ONNX Runtime, check parity,
# measure every bucket and the whole service, and write WORK/<gpu>.md and benchmarks/results/<gpu>.md.
# An engine that fails is told at the end; the other is measured, and the report written, all the same.
#
#   build/gpu_check.sh -m CHECKPOINT [-t TARGET] [-d DATASET] [-w WORK] [--dry]
#
# --dry prints every command and runs none; it needs no GPU, and takes the lengths of an unbuilt repository as LENGTHS.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
target=auto dataset=$here/data/heldout200.json work=$PWD/results/gpu-check dry=0 model=
fail() {
    echo "gpu_check: error: $*" >&2
    exit 2
}
while (($#)); do
    case $1 in
        -m | -t | -d | -w) (($# > 1)) || fail "$1 has no value: give -m CHECKPOINT [-t TARGET] [-d DATASET] [-w WORK] [--dry]" ;;&
        -m) model=$2; shift 2 ;;
        -t) target=$2; shift 2 ;;
        -d) dataset=$2; shift 2 ;;
        -w) work=$2; shift 2 ;;
        --dry) dry=1; shift ;;
        *) fail "$1: give -m CHECKPOINT [-t TARGET] [-d DATASET] [-w WORK] [--dry]" ;;
    esac
done
[[ -n $model ]] || fail "-m is missing: give the checkpoint to build"
batches=${BATCHES:-"1 8 16"} concurrencies=${CONCURRENCIES:-1,4,16}

say() { printf '+'; printf ' %q' "$@"; printf '\n'; }
run() {
    say "$@"
    ((dry)) || "$@"
}

graph_failures="(set|record|start|finish|instantiate) cuda graph|cuda graph is not"
server=
stop_server() {
    [[ -z $server ]] || { kill -TERM "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
    server=
}
start_server() {
    local command=(tritonserver --disable-auto-complete-config --exit-on-error=true --model-repository "$1")
    say "${command[@]}"
    ((dry)) && return
    rm -f "$work/server.log"  # the last server's, which says nothing of this one
    "${command[@]}" >"$work/server.log" 2>&1 &
    server=$!
    for _ in $(seq 300); do
        # Ours, not another that holds its ports: that one is ready while ours is already gone.
        kill -0 "$server" 2>/dev/null || break
        if curl -fs localhost:8000/v2/health/ready >/dev/null; then
            # Triton serves on without a graph that it cannot capture: its log alone says so, and of the others nothing.
            grep -Eim1 "$graph_failures" "$work/server.log" >&2 || return 0
            echo "gpu_check: error: a CUDA graph was not captured, and what is measured would be without it" >&2
            return 1
        fi
        sleep 1
    done
    echo "gpu_check: error: the server did not become ready: read $work/server.log" >&2
    return 1
}

bucket_lengths() {
    say python3 "$here/benchmarks/gpu_report.py" inputs --repository "$1" --data "$dataset" -o "$work" >&3
    if ((dry)); then
        echo "${LENGTHS:-128 192 256 384}"
    else
        python3 "$here/benchmarks/gpu_report.py" inputs --repository "$1" --data "$dataset" -o "$work"
    fi
}

check_engine() {
    local engine=$1 repository=$work/$1 lengths length batch
    trap stop_server EXIT
    run rm -rf "$work/$engine-service"
    run find "$work" -maxdepth 1 -name "$engine-*-*.csv" -delete
    run spanqa build -m "$model" --target "$target" --engine "$engine" --data "$dataset" -o "$repository"
    run spanqa build --check "$repository"
    lengths=$(bucket_lengths "$repository")
    start_server "$repository"
    for length in $lengths; do
        for batch in $batches; do
            run perf_analyzer -m "encoder_$length" -i grpc -b "$batch" --input-data "$work/inputs_$length.json" \
                --concurrency-range 1 --percentile 99 --measurement-mode count_windows \
                --measurement-request-count 200 -f "$work/$engine-$length-$batch.csv"
        done
    done
    run spanqa bench --url localhost:8001 --dataset "$dataset" --concurrency "$concurrencies" -o "$work/$engine-service"
    run spanqa predict "$dataset" --url localhost:8001 -o "$work/$engine-predictions.json"
    run spanqa score "$dataset" "$work/$engine-predictions.json"
    run spanqa build -m "$model" --served localhost:8001 --data "$dataset"
}

exec 3>&1
run mkdir -p "$work"
gpu=(nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader)
say "${gpu[@]}"
((dry)) || "${gpu[@]}" | tee "$work/gpu.csv"
run spanqa build -m "$model" --target "$target" --plan
failed=()
trap 'exit 130' INT
for engine in tensorrt onnxruntime; do
    set +e # outside a condition, where -e would not hold inside either
    (
        set -e
        check_engine "$engine"
    )
    status=$?
    set -e
    ((status == 0)) || { echo "gpu_check: error: $engine failed: see above; going on" >&2; failed+=("$engine"); }
done
run python3 "$here/benchmarks/gpu_report.py" report --work "$work" --results "$here/benchmarks/results" \
    ${failed[@]+--failed "${failed[@]}"}
((${#failed[@]} == 0)) || { echo "gpu_check: error: failed: ${failed[*]}" >&2; exit 1; }
