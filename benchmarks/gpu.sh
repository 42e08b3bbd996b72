#!/usr/bin/env bash
# What is to be measured on a machine with an NVIDIA GPU, in about ten minutes: that its kernels compute the right
# thing, then speed and memory against TRL, then scaling. Needs the extra `bench`, and pytest.
#
#     benchmarks/gpu.sh [FOLDER] [STAGE ...]     PYTHON=python3, by default
#
# Stages, in this order: smoke tests speed liger scaling (liger only where liger-kernel is installed). Each has a time of
# its own and does not keep the next from running. FOLDER (gpu-results) gets a log for each, and the result files.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-gpu-results}
shift || true
stages=${*:-smoke tests speed liger scaling}
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$folder"
begun=$(mktemp)
failed=0

run() {
  local seconds=$1 stage=$2 begin=$SECONDS status
  shift 2
  [[ " $stages " == *" $stage "* ]] || return 0
  timeout "$seconds" "$@" 2>&1 | tee "$folder/$stage.log"
  status=${PIPESTATUS[0]}
  [ "$status" = 0 ] || failed=1
  echo "$stage: status $status after $((SECONDS - begin)) s" | tee -a "$folder/stages.log"
  find benchmarks/results -name '*.json' -newer "$begun" -exec cp {} "$folder" \;
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$folder/stages.log"
run 100 smoke "$python" -m pytest -x -rs --durations=5 tests/models/test_gpu.py -k packed_rows
run 110 tests "$python" -m pytest -rs --durations=5 tests/models/test_gpu.py -k "not packed_rows"
run 220 speed "$python" benchmarks/speed.py --model llama-1b --pairs 256 --repeats 3
if "$python" -c 'import liger_kernel' 2>/dev/null; then
  dpo=$("$python" -c 'from importlib.metadata import version; print("TRL", version("trl"), "DPO")')
  run 100 liger "$python" benchmarks/speed.py --model llama-1b --pairs 256 --repeats 2 --liger --arms "$dpo" "mixdpo DPO"
fi
run 60 scaling "$python" benchmarks/scaling.py --repeats 3
exit $failed
