#!/usr/bin/env bash
# Everything of mmscale that needs a GPU, in order of value and within a budget of seconds, in a checkout with mmscale installed:
#   [ONLY="tests kernels ..."] [BUDGET=570] OUT=FOLDER bash benchmarks/gpu.sh
# Steps: doctor tests kernels adapter train proxy plan. Each has a limit of its own; what a step measured before its end is kept. Results, log.txt
# and the table of adapter-choice go to OUT.
set -uo pipefail
begin=$SECONDS
budget=${BUDGET:-570}
out=${OUT:?name a folder for the results: OUT=FOLDER bash benchmarks/gpu.sh}
python=${PYTHON:-python3}
mkdir -p "$out" && out=$(cd "$out" && pwd)
exec > >(tee "$out/log.txt") 2>&1
tee=$!
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export MMSCALE_ADAPTER_TABLE="${MMSCALE_ADAPTER_TABLE:-$out/adapter_table.json}" MMSCALE_GPU_RESULTS="$out/gpu_tests.json"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true

summary=()
step() { # name limit command...
  local name=$1 limit=$2 started=$SECONDS rest=$((budget - (SECONDS - begin)))
  shift 2
  case " ${ONLY:-$name} " in *" $name "*) ;; *) return 0 ;; esac
  [ "$rest" -gt 20 ] || { echo "=== $name: left out, $rest s are left"; summary+=("$name left out"); return 0; }
  [ "$limit" -lt "$rest" ] || limit=$((rest - 5))
  echo "=== $name (at most $limit s): $*"
  timeout -k 5 "$limit" "$@"
  local code=$?
  echo "=== $name: exit code $code, $((SECONDS - started)) s"
  summary+=("$name: exit code $code, $((SECONDS - started)) s")
}

step doctor 60 mmscale doctor
step tests "${TESTS_LIMIT:-200}" env CUBLAS_WORKSPACE_CONFIG=:4096:8 "$python" -m pytest tests/gpu ${TESTS:--n 8 --dist loadfile}
step kernels 160 mmscale bench kernels --output "$out"
step adapter 100 mmscale bench adapter-choice --output "$out" ${ADAPTER:-}
step train 150 env PYTORCH_ALLOC_CONF=expandable_segments:True mmscale bench train-step --shape 7b --output "$out" ${TRAIN:---batches 4}
step proxy 170 mmscale bench proxy-decode --shape 7b --output "$out" ${PROXY:---batches 1 8 32 --runs 1 --new-tokens 32}
step plan 100 mmscale bench plan-check --output "$out" ${PLAN:-}

echo "=== $((SECONDS - begin)) s in all"
printf '%s\n' "${summary[@]}"
ls -l "$out"
exec >&- 2>&-
wait "$tee" # the log is whole before this ends
