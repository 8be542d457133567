#!/usr/bin/env bash
# What an agent does all day: take a project whose tests fail, mend it, and bring back a
# report. None of the project's code runs on this machine; all of it runs in a sandbox,
# under a kernel of its own, that is thrown away at the end.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")"

work=$(mktemp -d)
id=
trap '[ -z "$id" ] || cove rm "$id"; rm -rf "$work"' EXIT

# step TITLE COMMAND [STATUS]: do what the command says, expect it to end with the
# status, 0 unless given, and note the time that it took.
step() {
	local title=$1 command=$2 expected=${3:-0} status=0 begin=${EPOCHREALTIME/./}
	printf '\n== %s\n$ %s\n' "$title" "$command"
	eval "$command" || status=$?
	printf '%6d ms  %s\n' $(((${EPOCHREALTIME/./} - begin) / 1000)) "$title" >>"$work/times"
	if [ "$status" -ne "$expected" ]; then
		printf 'expected exit code %d, got %d\n' "$expected" "$status" >&2
		exit 1
	fi
}

step 'create a gVisor sandbox'      'id=$(cove create --runtime gvisor --ttl 10m --label example=fixbug)'
step 'copy the project in'          'cove cp project/. $id:/workspace'
step 'run its tests: one fails'     'cove exec $id -- python3 -m unittest' 1
step 'write the fix'                'cove cp - $id:/workspace/agenda/intervals.py <fixed.py'
step 'run its tests again: all well' 'cove exec $id -- python3 -m unittest'
step 'write a report inside'        'cove exec $id -- sh -c "python3 -m agenda calendar.csv >report.md"'
step 'copy the report out'          'cove cp $id:/workspace/report.md $work/report.md'
step 'remove the sandbox'           'cove rm $id && id='

printf '\n== the report\n'
cat "$work/report.md"
printf '\n== the time of every step\n'
cat "$work/times"
