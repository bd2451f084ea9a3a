#!/bin/sh
# What RDS does with a token, for MariaDB's PAM plugin: whoever brings one of this user for a place of ours, signed with a
# known key and not old, is let in. Its signature is computed anew, by openssl (AWS, "Create a signed AWS API request").
cd "${0%/*}" || exit 1
token=$(tr -d '\0')
fail() { echo "$PAM_USER: $*" >>verdicts.log; exit 1; }
value() { printf '%s' "$token" | tr '?&' '\n' | sed -n "s/^$1=//p"; }
place=${token%%/*} signature=$(value X-Amz-Signature) date=$(value X-Amz-Date)
[ -e "places/$place" ] || fail "for another place: $place"
[ "$(value Action) $(value DBUser)" = "connect $PAM_USER" ] || fail "of another user"
[ "$(value X-Amz-Algorithm) $(value X-Amz-Expires)" = "AWS4-HMAC-SHA256 900" ] || fail "of another form"
scope=$(value X-Amz-Credential | sed 's/%2F/\//g') && key=${scope%%/*} scope=${scope#*/}
[ "${scope#*/}" = eu-central-1/rds-db/aws4_request ] || fail "for $scope"
began=$(date -u -d "$(echo "$date" | sed 's/\(....\)\(..\)\(..\)T\(..\)\(..\)\(..\)Z/\1-\2-\3 \4:\5:\6/')" +%s)
age=$(($(date +%s) - began))
case $age in [0-9] | [0-9][0-9] | [0-8][0-9][0-9]) ;; *) fail "$age s old" ;; esac
secret=$(cat "keys/$key") || fail "of an unknown key"
hash() { openssl dgst -sha256 -r | cut -d' ' -f1; }
hmac() { printf '%s' "$2" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$1" -r | cut -d' ' -f1; }
query=${token#*\?} && query=$(printf '%s' "${query%&X-Amz-Signature=*}" | tr '&' '\n' | LC_ALL=C sort | paste -sd '&')
request=$(printf 'GET\n/\n%s\nhost:%s\n\nhost\n%s' "$query" "$place" "$(printf '' | hash)")
text=$(printf 'AWS4-HMAC-SHA256\n%s\n%s\n%s' "$date" "$scope" "$(printf '%s' "$request" | hash)")
k=$(printf 'AWS4%s' "$secret" | od -An -v -tx1 | tr -d ' \n')
for part in $(echo "$scope" | tr '/' ' '); do k=$(hmac "$k" "$part"); done
[ "$(hmac "$k" "$text")" = "$signature" ] || fail "of another signature"
echo "$PAM_USER: let in by $key with $date" >>verdicts.log
