#!/bin/bash
# PID 1 of a lab node, second half: the services of a host, until one of the cluster's ends.
# Arguments: NODE INDEX
set -u
node=$1 index=$2
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
umount -l /.old
rmdir /.old
. /lab/etc/lab.env

# The cables are plugged in from outside.
for link in 0 1 2; do
  for _ in {1..500}; do [ -e /sys/class/net/eth$link ] && break; sleep 0.02; done
  ip addr add "10.99.$link.$index/24" dev eth$link
  ip link set eth$link up
done
ip link set lo up

mkdir -p /run/lock /run/corosync /run/crm /run/resource-agents /run/rasd /run/rasvmm
chown hacluster:haclient /run/crm
chmod 750 /run/crm
install -d /etc/corosync /etc/rasvmm /usr/lib/ocf/resource.d/ras /usr/local/sbin
install -m 400 /lab/etc/authkey /etc/corosync/authkey
cp /lab/etc/corosync.conf /etc/corosync/
cp /lab/etc/hosts /etc/hosts
cp /lab/etc/rasvmm/*.toml /etc/rasvmm/
ln -s /lab/bin/{rasvmm,rasd,rasctl,ras-landing} /usr/bin/
install -m 755 /lab/bin/fence_lab /usr/sbin/fence_lab
install -m 755 /lab/bin/vm-timed /usr/lib/ocf/resource.d/ras/vm
install -m 755 /lab/bin/attrd_updater-timed /usr/local/sbin/attrd_updater
install -o hacluster -g haclient -m 600 /lab/etc/cib.xml /var/lib/pacemaker/cib/cib.xml
export PCMK_logfile=/var/log/pacemaker/pacemaker.log PCMK_logfacility=none

# Should the lab hang, its nodes don't stay for ever.
sleep "$NODE_TTL_S" & ttl=$!
corosync -f >/var/log/corosync/stdout 2>&1 & corosync=$!
for _ in {1..500}; do
  corosync-cmapctl -g runtime.config.totem.token >/dev/null 2>&1 && break
  sleep 0.02
done
pacemakerd >/var/log/pacemaker/stdout 2>&1 & pacemaker=$!
ras-landing --listen "10.99.0.$index:16520" >>"/lab/log/$node/landing" 2>&1 &
landing=$!
echo "$landing" >/run/ras-landing.pid
# Opened for reading and writing, so that the error source never comes to an end.
mkfifo "/run/rasd/errors"
exec 7<>/run/rasd/errors
rasd --config /lab/etc/rasd.toml --replay /run/rasd/errors \
  >>"/lab/log/$node/rasd" 2>&1 &

# A daemon of the cluster that ends takes the node with it, like a host that lost its power.
wait -n "$ttl" "$corosync" "$pacemaker"
while kill -0 "$ttl" 2>/dev/null && kill -0 "$corosync" 2>/dev/null && kill -0 "$pacemaker" 2>/dev/null; do
  wait -n
done
