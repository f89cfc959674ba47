#!/usr/bin/env bash
# Everything that needs a GPU, in under nine minutes: the tests, the benchmark and a profile. Each has a time limit of its
# own, and the others run whatever becomes of it. Results go to $OUT. What the machine lacks is taken from
# build/gpu-bundle, which `make gpu-bundle` fills. With --rehearsal, tiny sizes on the CPU.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
out=${OUT:?the folder for the results}
rehearsal=${1:-}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
ln -s "$PWD" "$scratch/foldstream"
export PYTHONPATH="$scratch:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
[ "$rehearsal" ] && export FOLDSTREAM_REHEARSAL=1
if compgen -G "build/gpu-bundle/*.whl" >/dev/null && [ ! "$rehearsal" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$scratch/site" build/gpu-bundle/*.whl || exit
    export PYTHONPATH="$scratch/site:$PYTHONPATH"
fi

step() { # name, seconds, command
    local name=$1 seconds=$2 started=$SECONDS
    shift 2
    timeout --kill-after 10 "$seconds" "$@" >"$out/$name.log" 2>&1
    local status=$?
    echo "$name: $([ $status = 0 ] && echo passed || echo "failed with status $status") after $((SECONDS - started)) s"
    tail -n 15 "$out/$name.log" | sed 's/^/    /'
}
{
    step tests 200 "$python" -m pytest -q -p no:cacheprovider --confcutdir tests/gpu -m gpu tests/gpu
    step bench 270 "$python" -m tests.gpu.bench "$out/bench-gpu.json" $rehearsal
    step profile 60 "$python" -m tests.gpu.profile "$out/profile.txt" $rehearsal
} 2>&1 | tee "$out/summary.txt"
[ "$(grep -c ': failed with status' "$out/summary.txt")" = 0 ]
