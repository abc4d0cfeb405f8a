#!/bin/bash
# A CLI that keeps sessions: it counts the turns of each in a file beside it, and what it says of
# tokens and money is the turn's own, and that of the whole session.
here=$(dirname "$0")
mode=$1
prompt=$(cat)
if [ "$mode" = resume ]; then
  id=$2
  if [ ! -e "$here/turns-$id" ]; then
    echo "no such session: $id" >&2
    exit 1
  fi
else
  id=native-$$-$RANDOM
fi
n=$(($(cat "$here/turns-$id" 2>/dev/null || echo 0) + 1))
echo "$n" >"$here/turns-$id"
echo "$*" >"$here/argv"
pwd >"$here/cwd"
printf '{"type": "start", "id": "%s", "model": "made-up-1"}\n' "$id"
total="{\"input\": $((100 * n)), \"output\": $((10 * n)), \"cached\": $((20 * n))}"
[ -e "$here/own" ] && usage='"usage": {"input": 100, "output": 10, "cached": 20}' || usage="\"usage_total\": $total"
printf '{"type": "end", "id": "%s", "text": "turn %d: %s", %s, "cost_total": %d}\n' \
  "$id" "$n" "${prompt//[^a-z ]/}" "$usage" "$n"
