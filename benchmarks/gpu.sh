#!/usr/bin/env bash
# What is to be measured on a machine with an NVIDIA GPU, in 8 minutes on an H200: that its kernels compute the right
# thing, then speed and memory against TRL, an 8B model's adapters, and scaling. Needs the extra `bench`, and pytest;
# where `make wheelhouse` has made the folder wheelhouse, both are installed from it, beside what PYTHON has.
#
#     benchmarks/gpu.sh [FOLDER] [STAGE ...]     PYTHON=python3, by default
#
# Stages, in this order: smoke speed lora tests scaling. Each has a time of its own and does not keep the next from
# running. FOLDER (gpu-results) gets a log for each, and the result files, which are written as they grow.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-gpu-results}
shift || true
stages=${*:-smoke speed lora tests scaling}
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$folder"
failed=0

if compgen -G "wheelhouse/*.whl" >/dev/null; then
  rm -rf .gpu-site
  "$python" -m pip install --quiet --no-index --find-links wheelhouse --no-deps --no-compile --target .gpu-site wheelhouse/*.whl . ||
    exit 1
  export PYTHONPATH="$PWD/.gpu-site${PYTHONPATH:+:$PYTHONPATH}"
fi

run() {
  local seconds=$1 stage=$2 begin=$SECONDS status
  shift 2
  [[ " $stages " == *" $stage "* ]] || return 0
  timeout "$seconds" "$@" 2>&1 | tee "$folder/$stage.log"
  status=${PIPESTATUS[0]}
  [ "$status" = 0 ] || failed=1
  echo "$stage: status $status after $((SECONDS - begin)) s" | tee -a "$folder/stages.log"
}

tests=("$python" -m pytest -rs --durations=5 tests/models/test_gpu.py)
speed=("$python" benchmarks/speed.py --output "$folder")
smoke="four or (err_like and bfloat16)"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$folder/stages.log"
run 70 smoke "${tests[@]}" -x -k "$smoke"
run 180 speed "${speed[@]}" --model llama-1b --pairs 256 --repeats 3
run 80 lora "${speed[@]}" --model llama-8b-lora --pairs 48 --repeats 1
run 80 tests "${tests[@]}" -k "not ($smoke)"
run 60 scaling "$python" benchmarks/scaling.py --repeats 3 --output "$folder"
exit $failed
