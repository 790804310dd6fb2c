#!/usr/bin/env bash
# The largest anonymous memory (RssAnon, what is not mapped from files) of a command, sampled 50 times a second.
#   tools/peak_memory.sh COMMAND...
"$@" &
child=$! peak=0
while kill -0 "$child" 2> /dev/null; do
  now=$(awk '/^RssAnon/ {print $2}' "/proc/$child/status" 2> /dev/null)
  [ "${now:-0}" -gt "$peak" ] && peak=$now
  sleep 0.02
done
wait "$child"
status=$?
echo "peak anonymous memory: $((peak / 1024)) MiB"
exit "$status"
