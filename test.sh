#!/usr/bin/env bash
# Builds everything and runs the tests.
#
#   ./test.sh          the fast tests (about two minutes)
#   ./test.sh --slow   and the slow ones
#
# Fails when a test fails, and also when there was none to run.
set -euo pipefail
cd "$(dirname "$0")"

slow=false
case "${1:-}" in
  "") ;;
  --slow) slow=true ;;
  *)
    echo "test.sh: unknown argument '$1'; only --slow is known" >&2
    exit 2
    ;;
esac

tools/setup.sh test
cmake --preset release > /dev/null
cmake --build --preset release
ctest --preset release -L fast --no-tests=error -j "$(nproc)"
if $slow; then
  ctest --preset release -L slow --no-tests=error
fi
