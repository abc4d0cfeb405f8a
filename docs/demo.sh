#!/bin/sh
# The main job, for real, on the echo backend: no AI CLI, no key and no network needed. Sessions go
# to a folder of their own, which is removed at the end.
set -eu
CLINVK_HOME=$(mktemp -d)
export CLINVK_HOME
trap 'rm -rf "$CLINVK_HOME"' EXIT

run() {
    printf '\n$ clinvk'
    for word in "$@"; do
        case $word in
            *' '*) printf ' "%s"' "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    clinvk "$@"
}

echo "A prompt, and the conversation carried on:"
run -b echo "fix the bug"
run -c "now add tests"

echo
echo "Three at a time, each a session of its own:"
for file in parser lexer printer; do
    clinvk -b echo --tag demo "review the $file" &
done
wait

echo
echo "Every conversation is kept:"
run sessions list
run resume --last "what did I ask first?"
