#!/bin/bash
# A CLI whose tools do not want to end: $1 is the folder in which everybody leaves the number of
# its process. "out" has left the group and ignores what it is asked; "bare" has no environment, too.
cd "$1" || exit 1
deaf='trap "" TERM INT HUP; echo $$ >"$0.new"; mv "$0.new" "$0"; while :; do sleep 0.2; done'
bash -c "$deaf" in &
setsid bash -c "$deaf" out &
setsid env -i /bin/bash -c "PATH=/usr/bin:/bin; $deaf" bare &
trap "" TERM INT HUP
while [ ! -e in ] || [ ! -e out ] || [ ! -e bare ]; do sleep 0.02; done
echo $$ >self.new && mv self.new self
printf '%s\n' '{"type": "start", "id": "native-1"}'
while :; do sleep 0.2; done
