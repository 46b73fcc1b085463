#!/usr/bin/env bash
# Searches what a run of tests has written for secrets; fails if one is there, or if something was not searched.
#
#   scripts/secrets.sh KEPT OUTPUT     KEPT: what src/cli/postgres/kept.rs has gathered; OUTPUT: what the run has printed
#
# Looked for: the word in every secret that a test plants (passwords, user data); passwords that `pileus up` has made up; whatever
# reads as a session (a JWT), an API token or a private key, whosever it is. Files in which a secret is where it belongs are left
# out when they are gathered.
set -euo pipefail
export LC_ALL=C

kept=$1 output=$2
[ -f "$output" ] || { echo "secrets: there is no $output" >&2; exit 2; }
if [ -s "$kept/not-kept" ]; then
    sed 's/^/secrets: not searched: /' "$kept/not-kept" >&2
    exit 2
fi
# The example of the documents is nobody's.
found=$(
    grep -raoE -e 'mArKeD' -e 'eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{20,}' \
        -e 'pileus_[A-Za-z0-9_-]{43}' -e 'PRIVATE KEY-----' --exclude=words -H "$kept" "$output" |
        grep -v ':pileus_4fTx8ZqWc0nJkV2mYb7RsE1uHd9PgLoA3iQyXe5tFwU$' || true
    if [ -s "$kept/words" ]; then grep -raoF -f "$kept/words" --exclude=words -H "$kept" "$output" || true; fi
)
if [ -n "$found" ]; then
    echo "secrets: they came out:" >&2
    sort <<<"$found" | uniq -c | sort -rn | head -n 20 | sed 's/^/  /' >&2
    exit 1
fi
echo "secrets: none in $(find "$kept" -type f ! -name words | wc -l) files that servers wrote, nor in what was printed"
