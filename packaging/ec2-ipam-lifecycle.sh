#!/bin/sh
# Drains this host when its auto-scaling group is about to terminate it, and says so to the group, which waits for that.
# GROUP and HOOK name the group and its lifecycle hook; without HOOK the hook ends by its own timeout.
set -eu
# Now, and not when the host is drained already.
[ -z "${HOOK:-}" ] || [ -n "${GROUP:-}" ] || { echo "HOOK is $HOOK, but GROUP, whose hook it is, is not set" >&2; exit 1; }
imds=${IMDS:-http://169.254.169.254}/latest

read_imds() {
    token=$(curl -sf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$imds/api/token") || return 0
    curl -sf -m 5 -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/$1" || true
}

# It is not there before the group has the instance in service.
until [ "$(read_imds autoscaling/target-lifecycle-state)" = Terminated ]; do
    sleep "${EVERY:-5}"
done

# Whatever fails from here on, the group does not wait longer than for the rest.
ec2-ipam drain || echo "not drained: what is idle goes with the instance" >&2
docker ps -q | xargs -r docker stop -t "${GRACE:-30}" || echo "a container did not stop" >&2
ec2-ipam drain --wait "${WAIT:-120}" || echo "not all was given back: it goes with the instance" >&2

[ -n "${HOOK:-}" ] || exit 0
exec aws autoscaling complete-lifecycle-action --lifecycle-action-result CONTINUE \
    --auto-scaling-group-name "$GROUP" --lifecycle-hook-name "$HOOK" \
    --instance-id "$(read_imds instance-id)" --region "$(read_imds placement/region)"
