#!/bin/sh
# The main features, on the echo backend: no AI CLI, no key and no network needed. Sessions go to a
# temporary directory, which is removed at the end.
set -eu
CLINVK_HOME=$(mktemp -d)
export CLINVK_HOME
cd "$CLINVK_HOME"
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

echo "Send a prompt, then continue the conversation:"
run -b echo "fix the bug"
run -c "now add tests"

echo
echo "Run tasks in parallel, each of them a session:"
cat >tasks.yaml <<'TASKS'
max_parallel: 3
defaults: {backend: echo, options: {delay: 0.05}}
tasks:
  - name: review {{file}}
    matrix: {file: [parser, lexer, printer]}
    prompt: "review the {{file}}"
  - name: sum up
    needs: [review parser, review lexer, review printer]
    prompt: "sum it up"
TASKS
run parallel tasks.yaml

echo
echo "Every conversation is saved and can be resumed:"
run sessions list
run resume --last "what did I ask first?"
