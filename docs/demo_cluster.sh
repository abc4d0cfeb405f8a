#!/bin/sh
# A cluster on this machine: a Redis server, two workers, and twenty tasks on the echo backend. One of
# the workers is killed on the way. Everything is in a temporary directory, which is removed at the end.
set -eu
command -v redis-server >/dev/null || {
    echo "make demo-cluster needs redis-server; install it: apt install redis-server, or brew install redis" >&2
    exit 1
}
CLINVK_HOME=$(mktemp -d)
export CLINVK_HOME
cd "$CLINVK_HOME"
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url="redis://127.0.0.1:$port/0"
one= two= redis= run=

finish() {
    for process in $run $one $two; do kill -TERM "$process" 2>/dev/null && wait "$process" || true; done
    for process in $redis; do kill -TERM "$process" 2>/dev/null && wait "$process" || true; done
    rm -rf "$CLINVK_HOME"
}
trap finish EXIT
trap 'exit 130' INT TERM

wait_for() { # TEXT FILE
    seconds=60
    until grep -q "$1" "$2" 2>/dev/null; do
        [ $seconds -gt 0 ] || { echo "no '$1' in $2" >&2; cat "$2" >&2; exit 1; }
        seconds=$((seconds - 1))
        sleep 1
    done
}

run() {
    printf '$ clinvk %s\n' "$*"
    clinvk "$@"
}

# Each user would write the address into the configuration: clinvk config set cluster.url URL
export CLINVK_CLUSTER_URL="$url"
echo "cluster: {shared: ['$CLINVK_HOME']}" >config.yaml
{
    echo "defaults: {backend: echo, idempotent: true, options: {delay: 0.3}}"
    echo "tasks:"
    for number in $(seq 20); do echo "  - {name: task-$number, prompt: review part $number of the code}"; done
} >tasks.yaml

echo "Start a Redis server, and two workers with four slots each:"
redis-server --port "$port" --bind 127.0.0.1 --dir "$CLINVK_HOME" --appendonly yes --save '' >redis.log &
redis=$!
wait_for "Ready to accept connections" redis.log
printf '$ export CLINVK_CLUSTER_URL=%s\n' "$url"
for name in one two; do
    printf '$ clinvk worker --backends echo=4 --name %s &\n' "$name"
    clinvk worker --backends echo=4 --name "$name" --lease 5s 2>"$name.log" &
    eval "$name=\$!"
done
wait_for ready one.log
wait_for ready two.log

echo
echo "Run twenty tasks on them:"
printf '$ clinvk parallel tasks.yaml &\n'
clinvk parallel tasks.yaml --quiet >table 2>run.log &
run=$!
wait_for ': done' one.log
run workers

echo
echo "Kill the first worker. A few seconds later, the tasks that it was running are"
echo "lost. They say 'idempotent: true', so the second worker runs them again:"
printf '$ kill -KILL %s\n' "$one"
kill -KILL "$one"
one=
code=0
wait "$run" || code=$?
run=
cat run.log
cat table

echo
echo "What the second worker says:"
tail -n 3 two.log
exit $code
