#!/bin/sh
# The packaged service through its init script, with a task: every action, a stale PID file, logrotate, an upgrade
# while it runs, removal and purge. The task's servers are not there; it keeps trying. Run it by
# tests/package/in_overlay, with the package as its argument.
set -eu
# shellcheck source=tests/package/assert.sh
. "$(dirname "$0")/assert.sh"
package=$1
script=/etc/init.d/df2redis
pidfile=/run/df2redis/df2redis.pid
log=/var/log/df2redis/orders_replicate.log
booted

write_task() { # TEXT BEHIND IT
	cat >/etc/df2redis/orders.toml <<TASK
[source]
address = "127.0.0.1:1"

[target]
address = "127.0.0.1:2"
$1
TASK
	chmod 0640 /etc/df2redis/orders.toml
	chgrp df2redis /etc/df2redis/orders.toml
}

# The one process there is, which is also the one in the PID file.
pid() {
	is "$(processes)" "$(cat $pidfile)" 'the PID file, next to the processes there are'
	cat $pidfile
}

not_running() { [ -z "$(processes)" ]; }

step 'start'
install_package "$package"
write_task ''
expect 0 $script start
first=$(pid)
mode_is '644 df2redis:df2redis' $pidfile
mode_is '640 df2redis:df2redis' $log
is df2redis "$(stat -c %U "/proc/$first")" 'the user it runs as'
is '' "$(find /var/lib/df2redis ! -user df2redis)" 'state of others'
is / "$(readlink "/proc/$first/cwd")" 'working directory'
for stream in 0 1 2; do
	is /dev/null "$(readlink "/proc/$first/fd/$stream")" "standard stream $stream"
done
expect 0 $script status
expect 0 df2redis status --pidfile $pidfile

step 'start again: it runs already'
expect 0 $script start
is "$first" "$(pid)" 'PID after a second start'

step 'restart, try-restart and force-reload'
for action in restart try-restart force-reload; do
	before=$(pid)
	expect 0 $script $action
	[ "$(pid)" != "$before" ] || fail "$action started nothing anew"
done

step 'reload opens the logs again'
before=$(pid)
mv $log $log.moved
expect 0 $script reload
eventually 'a new log' [ -s $log ]
is "$before" "$(pid)" 'PID after reload'

step 'logrotate'
expect 0 logrotate --force --state /tmp/rotated /etc/logrotate.d/df2redis
[ -s $log.1 ] || fail "$log.1 is missing"
eventually 'the new log open' sh -c "ls -l /proc/$before/fd | grep -q ' $log\$'"
mode_is '640 df2redis:df2redis' $log
is "$before" "$(pid)" 'PID after logrotate'

step 'stop'
expect 0 $script stop
is '' "$(processes)" 'processes after stop'
gone $pidfile
expect 3 $script status
expect 0 $script stop

step 'killed: its PID file is stale, and harms nobody'
expect 0 $script start
killed=$(pid)
kill -KILL "$killed"
eventually 'the process gone' not_running
expect 1 $script status
expect 0 $script stop
expect 0 $script start
expect 0 $script stop
# The number now belongs to another process.
sleep 1000 &
other=$!
echo $other >$pidfile
chown df2redis:df2redis $pidfile
expect 0 $script stop
expect 0 kill -0 $other
echo $other >$pidfile
expect 0 $script start
[ "$(pid)" != $other ] || fail 'the stale PID is believed'
expect 0 kill -0 $other
expect 0 $script stop
kill $other

step 'a wrong task file: the caller is told, and nothing stays behind'
write_task 'nonsense = 1'
expect 78 $script start >/tmp/said 2>&1
has nonsense /tmp/said
is '' "$(processes)" 'processes after a failed start'
gone $pidfile
write_task ''

step 'an upgrade leaves alone what does not run'
newer "$package" /tmp/newer.deb
install_package /tmp/newer.deb
is '' "$(processes)" 'processes after the upgrade'
expect 0 $script start
before=$(pid)

step 'an upgrade starts anew what runs, and keeps conffiles'
echo 'DAEMON_ARGS="--log-level debug"' >/etc/default/df2redis
install_package "$package"
is 'DAEMON_ARGS="--log-level debug"' "$(cat /etc/default/df2redis)" /etc/default/df2redis
after=$(pid)
[ "$after" != "$before" ] || fail 'the old program runs on'
is /usr/bin/df2redis "$(readlink "/proc/$after/exe")" 'the program after the upgrade'
tr '\0' ' ' <"/proc/$after/cmdline" >/tmp/cmdline
has '--log-level debug' /tmp/cmdline

step 'a wrong task file ends neither an upgrade nor what runs'
write_task 'nonsense = 1'
expect 78 $script restart
install_package /tmp/newer.deb
is "$after" "$(pid)" 'PID with a wrong task file'
write_task ''
expect 0 $script restart

step 'removed while it runs: stopped, and logs and state stay'
dpkg -r df2redis
is '' "$(processes)" 'processes after removal'
[ -s $log ] || fail "$log is gone"
[ -e /var/lib/df2redis/orders.lock ] || fail 'the state is gone'

step 'installed again with a task: started'
install_package "$package"
pid >/dev/null

step 'purged while it runs: nothing stays'
dpkg --purge df2redis
is '' "$(processes)" 'processes after purge'
gone /etc/df2redis /var/log/df2redis /var/lib/df2redis /run/df2redis
expect 2 getent passwd df2redis
is '' "$(find /etc /usr /var /run -xdev -name '*df2redis*' -not -path "$(pwd)/*")" 'files of this name'
echo 'all done'
