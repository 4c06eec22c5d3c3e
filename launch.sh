#!/usr/bin/env bash
# Sets up the environment once, then runs `python -m experiments "$@"`.
#
#   ABLAX_PYTHON       an interpreter that already has everything: nothing is installed
#   ABLAX_ACCELERATOR  cpu, cuda or tpu: the build of JAX (default: what the machine has)
#   ABLAX_DATA         directory of downloaded data sets (default: ~/.cache/ablax)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="$root/.venv"

fail() {
  echo "error: $*" >&2
  exit 2
}

accelerator() {
  case "${ABLAX_ACCELERATOR:-}" in
    cpu | cuda | tpu) echo "$ABLAX_ACCELERATOR" ;;
    "")
      if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
        echo cuda
      elif [ -e /dev/accel0 ] || [ -n "${TPU_NAME:-}" ]; then
        echo tpu
      else
        echo cpu
      fi
      ;;
    *) fail "ABLAX_ACCELERATOR: expected cpu, cuda or tpu, got $ABLAX_ACCELERATOR" ;;
  esac
}

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed and was not found"
}

# Installs into .venv by constraints.txt, unless this very setup is there already.
set_up() {
  local kind extras stamp
  kind="$(accelerator)"
  extras="dev"
  [ "$kind" = cpu ] || extras="dev,$kind"
  stamp="$venv/.ablax-$kind-$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum | tr -d ' ')"
  [ -e "$stamp" ] && return
  echo "setting up $venv for $kind (once) ..." >&2
  if command -v uv >/dev/null; then
    [ -x "$venv/bin/python" ] || uv venv --quiet --python '>=3.11' "$venv"
    uv pip install --quiet --python "$venv/bin/python" \
      --constraint "$root/constraints.txt" --editable "$root[$extras]"
  else
    [ -x "$venv/bin/python" ] || "$(find_python)" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --constraint "$root/constraints.txt" --editable "$root[$extras]"
  fi
  rm -f "$venv"/.ablax-*
  touch "$stamp"
}

if [ -n "${ABLAX_PYTHON:-}" ]; then
  command -v "$ABLAX_PYTHON" >/dev/null || fail "ABLAX_PYTHON: $ABLAX_PYTHON cannot be run"
  python="$ABLAX_PYTHON"
else
  chosen="$(accelerator)" # refuses an unknown one before anything is installed
  set_up
  python="$venv/bin/python"
  [ "$chosen" = cpu ] && export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
fi

export PYTHONPATH="$root/lib:$root${PYTHONPATH:+:$PYTHONPATH}"
if [ "${1:-}" = test ]; then
  shift
  cd "$root"
  unset PYTHONDONTWRITEBYTECODE # the workers, and the processes that tests start, compile once
  exec "$python" -m pytest -n 2 "$@"
fi
exec "$python" -m experiments "$@"
