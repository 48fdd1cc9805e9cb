#!/bin/bash
# PID 1 of a lab node, first half: runs in fresh mount, uts, ipc, net and pid namespaces, and moves
# into a root of its own: the shared root file system below, memory above. Nothing outlives it.
# Arguments: STATE ROOTFS NODE
set -eu
state=$1 rootfs=$2 node=$3

# The outer /proc is still mounted here, so this is our number as the host sees it.
read -r pid _ </proc/self/stat
stat=$(</proc/"$pid"/stat)
# Field 22; the command's name, field 2, is the only one that may hold spaces, so cut it off.
read -r -a rest <<<"${stat##*) }"
identity="$pid ${rest[19]}"

mount --make-rprivate /
m=$state/mnt
mount -t tmpfs -o mode=755 tmpfs "$m"
mkdir "$m"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$rootfs,upperdir=$m/upper,workdir=$m/work" "$m/root"
r=$m/root
mkdir -p "$r"/{proc,sys,dev,run,tmp,lab,.old}
mount -t proc proc "$r/proc"
mount -t sysfs -o ro sysfs "$r/sys"
mount -t tmpfs -o mode=755,size=1m tmpfs "$r/dev"
for device in null zero full random urandom tty kvm userfaultfd; do
  [ -e /dev/$device ] || continue
  : >"$r/dev/$device"
  mount --bind /dev/$device "$r/dev/$device"
done
mkdir "$r/dev/shm" "$r/dev/pts"
ln -s /proc/self/fd "$r/dev/fd"
mount -t tmpfs -o mode=1777 tmpfs "$r/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$r/dev/pts"
ln -s pts/ptmx "$r/dev/ptmx"
mount -t tmpfs -o mode=755 tmpfs "$r/run"
mount -t tmpfs -o mode=1777 tmpfs "$r/tmp"
mount --bind "$state" "$r/lab"

# When Pacemaker gives up it writes to /proc/sysrq-trigger, which belongs to the whole machine: it
# would reset the host. Masked, Pacemaker falls back to reboot(2), which here only ends this PID 1.
: >"$r/run/no-sysrq"
[ ! -e "$r/proc/sysrq-trigger" ] || mount --bind "$r/run/no-sysrq" "$r/proc/sysrq-trigger"
mount --bind "$r/proc/sys" "$r/proc/sys"
mount -o remount,bind,ro "$r/proc/sys"

mkdir -p "$r"/var/log/{corosync,pacemaker,rasvmm}
for log in corosync pacemaker rasvmm; do
  mkdir -p "$state/log/$node/$log"
  mount --bind "$state/log/$node/$log" "$r/var/log/$log"
done
chroot "$r" chown hacluster:haclient /var/log/pacemaker
hostname "$node"
echo "$identity" >"$state/power/$node.tmp"
mv "$state/power/$node.tmp" "$state/power/$node"
cd "$r"
pivot_root . .old
exec chroot . /bin/bash /lab/bin/node-main "$node" "${node#n}"
