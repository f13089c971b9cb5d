#!/usr/bin/env bash
# On a machine with the GPU, in the image of build/Dockerfile: build for TensorRT and for ONNX Runtime, check parity,
# measure every bucket and the whole service, and write benchmarks/results/<gpu>.md.
#
#   build/gpu_check.sh -m CHECKPOINT [-t TARGET] [-d DATASET] [-w WORK] [--dry]
#
# --dry prints every command and runs none; it needs no GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
target=auto dataset=$here/data/heldout200.json work=${TMPDIR:-/tmp}/spanqa-gpu-check dry=0 model=
while (($#)); do
    case $1 in
        -m) model=$2; shift 2 ;;
        -t) target=$2; shift 2 ;;
        -d) dataset=$2; shift 2 ;;
        -w) work=$2; shift 2 ;;
        --dry) dry=1; shift ;;
        *) echo "gpu_check: error: $1: give -m CHECKPOINT [-t TARGET] [-d DATASET] [-w WORK] [--dry]" >&2; exit 2 ;;
    esac
done
[[ -n $model ]] || { echo "gpu_check: error: -m is missing: give the checkpoint to build" >&2; exit 2; }
lengths=${LENGTHS:-"128 192 256 384"} batches=${BATCHES:-"1 8 16"} concurrencies=${CONCURRENCIES:-1,4,16}

say() { printf '+ %s\n' "$*"; }
run() {
    say "$@"
    ((dry)) || "$@"
}

server=
stop_server() {
    [[ -z $server ]] || { kill -TERM "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
    server=
}
trap stop_server EXIT
start_server() {
    say tritonserver --model-repository "$1" --exit-on-error=true --log-error=true
    ((dry)) && return
    tritonserver --model-repository "$1" --exit-on-error=true >"$work/server.log" 2>&1 &
    server=$!
    for _ in $(seq 300); do
        curl -fs localhost:8000/v2/health/ready >/dev/null && return
        kill -0 "$server" 2>/dev/null || break
        sleep 1
    done
    echo "gpu_check: error: the server did not become ready: read $work/server.log" >&2
    exit 1
}

run mkdir -p "$work"
say nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader
((dry)) || nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader | tee "$work/gpu.csv"
run spanqa build -m "$model" --target "$target" --plan
for engine in tensorrt onnxruntime; do
    repository=$work/$engine
    run spanqa build -m "$model" --target "$target" --engine "$engine" --data "$dataset" -o "$repository"
    run spanqa build --check "$repository"
    start_server "$repository"
    for length in $lengths; do
        ((dry)) || [[ -d $repository/encoder_$length ]] || continue
        run python3 "$here/benchmarks/gpu_report.py" inputs --repository "$repository" --data "$dataset" \
            --length "$length" -o "$work/inputs_$length.json"
        for batch in $batches; do
            run perf_analyzer -m "encoder_$length" -i grpc -b "$batch" --input-data "$work/inputs_$length.json" \
                --concurrency-range 1 --percentile 99 --measurement-mode count_windows \
                --measurement-request-count 200 -f "$work/$engine-$length-$batch.csv"
        done
    done
    run spanqa bench --url localhost:8001 --dataset "$dataset" --concurrency "$concurrencies" -o "$work/$engine-service"
    run spanqa build -m "$model" --served localhost:8001 --data "$dataset"
    run spanqa predict "$dataset" --url localhost:8001 -o "$work/$engine-predictions.json"
    run spanqa score "$dataset" "$work/$engine-predictions.json"
    stop_server
done
run python3 "$here/benchmarks/gpu_report.py" report --work "$work" --results "$here/benchmarks/results"
