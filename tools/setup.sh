#!/usr/bin/env bash
# Installs what planish is built and tested with, on Debian 12, from Debian's own packages.
#
#   tools/setup.sh [build|test|ci]
#     build  (default) what the program and its tests compile with
#     test   and OpenBLAS, the peer in bench/
#     ci     and clang with its formatter, linter and fuzzing runtime
#
# Installs only what is missing, so that a repeated call takes a moment. Installing needs root;
# without it the missing packages are named and the exit status is 1. Why each package is needed:
# docs/dependencies.md.
set -euo pipefail

packages=(build-essential g++ cmake ninja-build ccache pkg-config libpcre2-dev nlohmann-json3-dev
  libcli11-dev libfmt-dev libtomlplusplus-dev libgtest-dev libgmock-dev)
case "${1:-build}" in
  build) ;;
  test) packages+=(libopenblas-dev) ;;
  ci) packages+=(libopenblas-dev clang clang-format clang-tidy libclang-rt-14-dev python3-pip python3-venv) ;;
  *)
    echo "tools/setup.sh: unknown set '$1'; one of build, test, ci" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query > /dev/null; then
  echo "setup: not a Debian system, nothing installed; the build needs the counterparts of: ${packages[*]}" >&2
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}\n' "$package" 2> /dev/null || true)
  grep -qx installed <<< "$state" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "setup: missing packages; as root: apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq < /dev/null
apt-get install -y -qq --no-install-recommends "${missing[@]}" < /dev/null
